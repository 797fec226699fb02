# SPDX-License-Identifier: Apache-2.0
"""Runs the benchmark, or goes on with one that another machine began, and keeps its results under version control.

    python analysis/benchmark.py                      restore what is kept, run the rest (hours), keep the results
    python analysis/benchmark.py --keep-only          keep what there is so far
    python analysis/benchmark.py --preset pilot       one seed, one learning rate (an hour)
    python analysis/benchmark.py --family cogvideox   the other family's small model (kept apart)

What is kept: every measurement as JSON, the comparison's tables and figures, the chosen learning rates, training
curves of the first seed, and which cells are done. Weights and pictures are not: a cell that is done needs none of its
own, and data and students of the other cells are made again from the same seeds.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from flashwam.demo.run import DEFAULT_FAMILY, PRESETS, demo, preset_jobs
from flashwam.system.files import write_whole
from flashwam.system.jobs import Job, done_marker
from flashwam.system.provenance import provenance
from flashwam.wam.files import FAMILY_FILES

KEPT = (
    "runs/*/evaluations/*.json",
    "runs/*/recipe.yaml",
    "runs/*/metrics.jsonl",
    "rates/*.json",
    "jobs/evaluate__*.done",
    "jobs/rate__*.done",
    "jobs/choose__*.done",
    "jobs/distill__*.done",
    "jobs/cross.done",
    "jobs/latency.done",
    "comparison/cross.json",
    "comparison/latency.json",
)
SHOWN = (
    "comparison/*.md",
    "comparison/*.json",
    "comparison/*.png",
    # The teacher as it is driven, and the best student: what they imagined beside what happened.
    "runs/teacher/evaluations/*_full_own_seed0_film.png",
    "runs/on_policy/evaluations/*_1v-1a_own_seed0_film.png",
)


def copy(source: Path, target: Path, patterns: tuple[str, ...]) -> int:
    """Copies what matches, keeping its place; returns how many files."""
    files = [path for pattern in patterns for path in source.glob(pattern)]
    for path in files:
        beside = target / path.relative_to(source)
        beside.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, beside)
    return len(files)


def restore(results: Path, out: Path, jobs: Sequence[Job], patterns: tuple[str, ...]) -> None:
    """Puts kept measurements back, so that their cells are not run again."""
    if (out / "jobs").is_dir() or not results.is_dir():
        return
    print(f"{copy(results, out, patterns)} files restored from {results}")
    # Pictures are not kept.
    for path in out.glob("runs/**/evaluations/*.json"):
        result = json.loads(path.read_text()) | {"strip": None, "film": None}
        write_whole(path, (json.dumps(result, indent=1) + "\n").encode())
    # Nor are weights, so whatever a cell that is not done needs is made again, from the same seeds; of what cells
    # need, only a chosen learning rate is a file that is kept.
    for job in reversed(jobs):
        if not done_marker(out / "jobs", job.name).is_file():
            for name in job.after:
                if not name.startswith("choose/"):
                    done_marker(out / "jobs", name).unlink(missing_ok=True)


def keep(out: Path, results: Path, command: str) -> None:
    """Writes the results, and the command and date that made them."""
    count = copy(out, results, (*KEPT, *SHOWN))
    done = sorted(path.name.removesuffix(".done") for path in (out / "jobs").glob("*.done"))
    write_about(results, command, cells_done=done)
    print(f"{count} files kept in {results}")


def write_about(results: Path, command: str, **more: Any) -> None:
    """Writes `about.json`: versions, date, and the command that makes the results, whatever this process was asked."""
    about = {**provenance(), "command": command, "date": date.today().isoformat(), **more}
    write_whole(results / "about.json", (json.dumps(about, indent=1) + "\n").encode())


def main() -> None:
    """Restore, run, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=("pilot", "full"), default="full")
    parser.add_argument("--family", choices=sorted(FAMILY_FILES), default=DEFAULT_FAMILY)
    parser.add_argument("--keep-only", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    preset, family = arguments.preset, arguments.family
    name, command = preset, f"python analysis/benchmark.py --preset {preset}"
    if family != DEFAULT_FAMILY:
        name, command = f"{family}_{preset}", f"{command} --family {family}"
    out, results = Path("runs") / name, Path("analysis/results") / name
    if not arguments.keep_only:
        restore(results, out, preset_jobs(PRESETS[preset], out, family=family), KEPT)
        demo(preset=preset, out=out, family=family)
    keep(out, results, command)


if __name__ == "__main__":
    main()
