# SPDX-License-Identifier: Apache-2.0
"""The provenance that every benchmark gives with its numbers."""

import argparse
import json
import os
import platform
import shlex
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch

from flashwam.system.files import write_whole
from flashwam.system.provenance import provenance

__all__ = ["about", "keep", "progress"]

BEGAN = time.monotonic()


def about(script: str, arguments: argparse.Namespace, *, device: str = "cpu") -> dict[str, Any]:
    """Command, arguments, date, machine and versions, as plain values."""
    cuda = device.startswith("cuda")
    return {
        # Versions first: the command of the provenance is this process' own line, without the interpreter.
        **provenance(),
        "command": shlex.join(["python", f"benchmarks/{Path(script).name}", *_without_out(sys.argv[1:])]),
        "arguments": {key: str(value) for key, value in vars(arguments).items()},
        "date": date.today().isoformat(),
        "machine": torch.cuda.get_device_name(device) if cuda else _processor(),
        "cores": os.cpu_count(),
    }


def keep(folder: Path, stem: str, run: dict[str, Any], results: dict[str, Any], table: str) -> None:
    """Writes what was measured as JSON, and as a table under a line that names machine, command and date."""
    write_whole(folder / f"{stem}.json", json.dumps({**run, **results}, indent=1) + "\n")
    revision = str(run.get("git_revision") or "unknown")[:8]
    head = f"`{run['command']}`, {run['cores']} cores of {run['machine']}, {run['date']}, revision {revision}."
    write_whole(folder / f"{stem}.md", f"{head}\n\n{table}")


def progress(doing: str) -> None:
    """Says what is done next, and how long the process has been at work."""
    print(f"{time.monotonic() - BEGAN:6.1f} s  {doing}", file=sys.stderr, flush=True)


def _without_out(words: list[str]) -> list[str]:
    """The words of a command line but for where results go, which is another folder on every machine."""
    kept, skip = [], False
    for word in words:
        if not skip and word != "--out" and not word.startswith("--out="):
            kept.append(word)
        skip = word == "--out"
    return kept


def _processor() -> str:
    """The processor's name, which `platform` often does not know."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
