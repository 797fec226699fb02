# SPDX-License-Identifier: Apache-2.0
"""`flashwam demo`: the whole job from demonstrations to a compared set of one-step students, at four sizes.

Every step is a resumable job of its own; an interrupted demo goes on where it was.
"""

import json
import time
from pathlib import Path

from flashwam.demo.jobs import preset_jobs
from flashwam.demo.page import write_demo_page
from flashwam.demo.place import DEFAULT_FAMILY, Place
from flashwam.demo.presets import PRESETS
from flashwam.report.compare import compare, gather
from flashwam.report.table import format_table
from flashwam.sim.gl import ensure_gl
from flashwam.system.errors import InputError
from flashwam.system.files import write_whole
from flashwam.system.jobs import Job, done_marker, run_jobs
from flashwam.system.json_file import read_mapping
from flashwam.system.paths import user_path

__all__ = ["demo"]

_MEASURING = ("evaluate/", "late/", "cross", "latency", "film")
"""Beginnings of the names of jobs whose results the page shows."""
_SECONDS_BETWEEN_PAGES = 60.0
"""Drawing one takes seconds, in which no job is started."""


def demo(
    *,
    preset: str = "quick",
    out: str | Path = "runs/demo",
    from_scratch: bool = False,
    workers: int = 2,
    family: str = DEFAULT_FAMILY,
) -> Path:
    """Runs a preset and keeps its page up to date.

    Args:
        preset: "smoke", "quick", "pilot" or "full".
        out: Folder of everything; an earlier demo in it is continued.
        from_scratch: Train the teacher even where one is shipped.
        workers: Processes at a time.
        family: Of the model, see `flashwam.wam.files.FamilyFiles.miniature`.

    Returns:
        The page, `<out>/index.html`.

    Raises:
        ValueError: unknown preset or family, or `out` holds another demo.
    """
    if preset not in PRESETS:
        raise InputError(f"preset must be one of {sorted(PRESETS)}; got {preset!r}")
    ensure_gl()
    out = user_path(out)
    # The smoke demo trains its own teacher: what it checks is that everything works.
    from_scratch = from_scratch or preset == "smoke"
    place = Place(preset=PRESETS[preset], out=out, family=family)
    asked = {"preset": preset, "from_scratch": from_scratch, "family": place.family}
    kept = out / "demo.json"
    if kept.is_file() and {"family": DEFAULT_FAMILY, **read_mapping(kept)} != asked:
        raise InputError(f"{out} holds the demo {kept.read_text().strip()}, not {asked}; give another --out")
    write_whole(kept, (json.dumps(asked) + "\n").encode())
    jobs = preset_jobs(PRESETS[preset], out, from_scratch=from_scratch, family=family)
    if not all(done_marker(out / "jobs", job.name).is_file() for job in jobs):
        page = write_demo_page(place, preset, jobs)
        print(f"schedule analysis: {page} (fills as results come)", flush=True)
    drawn = time.monotonic()

    def refresh(job: Job) -> None:
        nonlocal drawn
        if job.name.startswith(_MEASURING) and time.monotonic() - drawn > _SECONDS_BETWEEN_PAGES:
            write_demo_page(place, preset, jobs)
            drawn = time.monotonic()

    run_jobs(jobs, out / "jobs", workers=workers, on_done=refresh, imported=place.imported)
    compare(place.evaluated, out=out / "comparison")
    page = write_demo_page(place, preset, jobs)
    rows, _, _ = gather(place.evaluated, out / "comparison")
    print(format_table([row for row in rows if row.final]))
    print(f"page: {page}")
    return page
