# SPDX-License-Identifier: Apache-2.0
"""The work of `gpu_check.sh`: seven steps, one after the other, each within its own time, and one file of results.

    python benchmarks/gpu_check.py [--tiny] [--only STEP ...] [--out DIR]

A step that fails, does not end in time or lacks a package does not stop the others: the file says so of it, with the
last lines of what it printed. The file is written anew every few seconds, so that a run that is cut off has kept what
it measured. This file itself needs nothing but Python.
"""

import argparse
import json
import math
import os
import re
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from gpu_steps import Step, all_steps, missing_packages, run_step
from preloaded import preload

from flashwam.system.files import write_whole
from flashwam.system.provenance import git_revision

ROOT = Path(__file__).resolve().parent.parent
WHOLE = 480
"""Seconds for all steps together."""
PACKAGES = "FLASHWAM_PACKAGES"
PROBE = (
    "import json, platform, torch; cuda = torch.cuda.is_available(); "
    "print(json.dumps({'card': torch.cuda.get_device_name() if cuda else None, 'torch': torch.__version__, "
    "'python': platform.python_version()}))"
)


def packages(folder: Path, scratch: Path) -> Path:
    """The folder to import from: the given one, or one beside it with all its wheels unpacked."""
    wheels = sorted(folder.glob("*.whl"))
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch)
    return scratch if wheels else folder


def machine(environment: dict[str, str], scratch: Path) -> dict[str, Any]:
    """Card and versions, asked of a process of its own, since torch may be what is missing."""
    if missing_packages(("torch",), environment):
        why = f"{sys.executable} cannot import torch: set PYTHON to an interpreter that can, or {PACKAGES} to a folder"
        return {"card": None, "why": why}
    step = Step(name="probe", command=("-c", PROBE), limit=90, needs=("torch",))
    found = run_step(step, environment=environment, folder=scratch, limit=step.limit)
    if found["state"] != "done":
        return {"card": None, "why": found.get("output", found["state"])}
    return dict(json.loads(found["output"].splitlines()[-1]))


def free_path(folder: Path, stem: str) -> Path:
    """A file that is not there yet: results are never overwritten."""
    number = 1
    while (path := folder / f"{stem}{'' if number == 1 else f'_{number}'}.json").exists():
        number += 1
    return path


def keep(paths: list[Path], record: dict[str, Any]) -> None:
    """Writes the record as JSON and as Markdown."""
    for path in paths:
        write_whole(path, json.dumps(record, indent=1) + "\n")
        write_whole(path.with_suffix(".md"), page(record))


def page(record: dict[str, Any]) -> str:
    """The record for readers: how every step went, then the tables."""
    card = record["card"] or "no GPU"
    lines = [
        f"`{record['command']}`, {card}, {record['date']}, torch {record.get('torch', 'unknown')}, revision "
        f"{record['revision'] or 'unknown'}{', tiny sizes' if record['tiny'] else ''}.",
        "",
        "| step | state | seconds | limit |",
        "|---|---|---:|---:|",
    ]
    lines += [
        f"| {s['name']} | {s['state']} | {s['seconds']:.0f} | {s['limit_seconds']:.0f} |" for s in record["steps"]
    ]
    for step in record["steps"]:
        if step["missing"]:
            lines += ["", f"{step['name']} was not run: {', '.join(step['missing'])} cannot be imported."]
        for table in step["tables"]:
            lines += ["", f"## {step['name']}", "", table.strip()]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Runs the steps, writes, prints; 1 where a step did not end well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [step.name for step in all_steps(tiny=True, device="cpu", out=Path())]
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, on the CPU")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="these steps alone")
    parser.add_argument(
        "--whole", type=float, help=f"seconds for all steps together (default: {WHOLE}, tiny: no limit)"
    )
    parser.add_argument("--patience", type=float, default=1.0, help="factor on the time of every step")
    parser.add_argument("--out", type=Path, help="default: analysis/results/gpu, or runs/gpu_check with --tiny")
    arguments = parser.parse_args()
    began = time.monotonic()
    device = "cpu" if arguments.tiny else "cuda"
    whole = arguments.whole or (math.inf if arguments.tiny else WHOLE)
    with tempfile.TemporaryDirectory() as folder:
        scratch, environment = Path(folder), dict(os.environ)
        if given := environment.get(PACKAGES):
            where = packages(Path(given), scratch / "packages")
            environment["PYTHONPATH"] = f"{where}{os.pathsep}{environment.get('PYTHONPATH', '')}"
        preload(environment)
        about = machine(environment, scratch)
        if about["card"] is None and not arguments.tiny:
            why = about.get("why", "torch finds none")
            print(f"error: no GPU is seen ({why}); --tiny tries the script without one")
            return 2
        out = arguments.out or ROOT / ("runs/gpu_check" if arguments.tiny else "analysis/results/gpu")
        card = "cpu_tiny" if arguments.tiny else re.sub(r"[^a-z0-9]+", "_", about["card"].lower())
        path = free_path(out, f"{card}_{date.today().isoformat()}")
        paths = [path, Path(environment["OUT"]) / path.name] if environment.get("OUT") else [path]
        record = {
            "command": " ".join(["benchmarks/gpu_check.sh", *sys.argv[1:]]),
            "date": date.today().isoformat(),
            "revision": git_revision(),
            "tiny": arguments.tiny,
            **about,
            "steps": [],
        }
        for step in all_steps(tiny=arguments.tiny, device=device, out=scratch):
            if step.name in arguments.only:
                left = whole - (time.monotonic() - began)
                patient = replace(step, limit=arguments.patience * step.limit)

                def told(found: dict[str, Any]) -> None:
                    keep(paths, {**record, "steps": [*record["steps"], found]})

                record["steps"].append(one(patient, environment, scratch, left, told))
                keep(paths, record)
    print(f"wrote {path} and {path.with_suffix('.md').name} in {time.monotonic() - began:.0f} s")
    return int(any(step["state"] != "done" for step in record["steps"]))


def one(
    step: Step, environment: dict[str, str], scratch: Path, left: float, told: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Runs a step within its own time and what is left of all, and tells how it goes and went."""
    lacking = missing_packages(step.needs, environment)
    limit = min(step.limit, left)
    command = " ".join(["python", *step.command]).replace(str(scratch), "OUT")
    about = {"name": step.name, "command": command, "limit_seconds": limit, "missing": lacking}
    if lacking:
        found = {"state": "not run: packages are missing", "seconds": 0.0, "results": [], "tables": []}
    elif limit < 1:
        found = {"state": "not run: no time was left", "seconds": 0.0, "results": [], "tables": []}
    else:
        print(f"{step.name}: at most {limit:.0f} s", flush=True)
        options = {"environment": environment, "folder": scratch / step.name, "limit": limit}
        found = run_step(step, **options, told=lambda so_far: told({**about, **so_far}))
    print(f"{step.name}: {found['state']} after {found['seconds']:.0f} s {' '.join(lacking)}".rstrip(), flush=True)
    return {**about, **found}


if __name__ == "__main__":
    sys.exit(main())
