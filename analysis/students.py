# SPDX-License-Identifier: Apache-2.0
"""Every way to a cheap student, on one teacher, the same data and the same episodes: one table, one figure.

    python analysis/benchmark.py           first: data, teacher and the consistency students, in runs/full
    python analysis/students.py            the rest of the students (hours), then the comparison
    python analysis/students.py --seeds 0  one seed of each
    python analysis/students.py --compare  the comparison of what there is so far, or of what is kept
    python analysis/students.py --archive FILE   an archive of what there is so far, for another machine
    python analysis/students.py --restore FILE   go on from such an archive
    python analysis/students.py --family cogvideox   the other family's teacher (kept apart)

`students.yaml` lists the students and the orders that the papers report. Results go to analysis/results/students (see
`analysis/studies.py`): table, figure, which of the orders hold here, and what other learning rates come to. A run that
was killed goes on where it was, on another machine from what was kept.
"""

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from student_cells import CONSISTENCY, CONTROLS, ORDERS, RATE, ROUTES, STUDENTS, TEACHER, TIERS, Place, with_starts
from student_costs import time_latencies, time_training
from student_foresight import foresight_table
from student_jobs import student_jobs, take_measured
from student_terms import terms_table
from studies import add_options, or_exit

from flashwam.demo.place import DEFAULT_FAMILY
from flashwam.report.results import pool_evaluations, read_evaluations
from flashwam.report.routes import write_routes
from flashwam.report.table import format_table
from flashwam.run.folder import INFO_FILE, RunFolder
from flashwam.system.files import write_whole
from flashwam.system.jobs import run_jobs
from flashwam.wam.files import FAMILY_FILES


def _measured_before(place: Place) -> Iterator[Path]:
    """The benchmark's own evaluations at the settings that are compared, copied beside the others."""
    for nfe in ("full", "1v/1a", *CONTROLS[place.family]):
        folder = take_measured(place, TEACHER, 0, nfe)
    yield folder
    for name in CONSISTENCY:
        for seed in range(3):
            yield take_measured(place, name, seed, "1v/1a")


def write_rates(place: Place) -> None:
    """Writes `rates.md`, the first seed of what was tried at several learning rates, if anything was."""
    there = {name for name, seed in place.made() if seed == 0}
    bases = dict.fromkeys(name.partition(RATE)[0] for name in STUDENTS if RATE in name and name in there)
    if not bases:
        return
    names = [name for base in bases for name in STUDENTS if name.partition(RATE)[0] == base]
    results = [result for name in names if name in there for result in read_evaluations(place.run(name, 0))]
    rows = sorted(pool_evaluations(results), key=lambda row: names.index(row.run))
    # Nothing else differs, and each was timed beside other jobs.
    rows = [replace(row, latency={}, parameters={}) for row in rows]
    write_whole(place.out / "comparison" / "rates.md", format_table(rows, markdown=True) + "\n")


def command(place: Place) -> str:
    """The call that makes what there is."""
    family = "" if place.family == DEFAULT_FAMILY else f" --family {place.family}"
    done = list(place.made())
    names, seeds = {name for name, _ in done}, sorted({seed for _, seed in done})
    # What nothing is made from, and nobody drives, is measured as it is trained.
    ends = {name for name, cell in STUDENTS.items() if cell.nfe} | set(TIERS["causes"])
    names |= {name for name in TIERS["causes"] if RunFolder(place.run(name, 0)).metrics.is_file()}
    missing = {name for name in ends if place.has(name)} - names
    only = f" --only {' '.join(name for name in STUDENTS if name in names)}" if missing else ""
    return f"python analysis/students.py{family} --seeds {' '.join(map(str, seeds))}{only}"


def notes(place: Place, runs: Iterable[Path]) -> list[str]:
    """Tables that belong to the comparison of these runs: on which terms they were made, and how well they foresee."""
    return [note for note in (terms_table(place, runs), foresight_table(place)) if note is not None]


def report(place: Place) -> None:
    """Table, figure and orders of what there is, beside the measurements."""
    out = place.out / "comparison"
    runs = list(_measured_before(place))
    for name, seed in place.made():
        run = RunFolder(place.run(name, seed))
        runs += [each.path for each in (run, run.with_auxiliary) if each.evaluation_files]
    write_routes(runs, out=out, routes=ROUTES, orders=ORDERS, notes=notes(place, runs))
    write_rates(place)
    place.study.keep(command(place))


def main() -> None:
    """Make, drive, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=sorted(FAMILY_FILES), default=DEFAULT_FAMILY)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(STUDENTS), default=list(STUDENTS), metavar="STUDENT")
    parser.add_argument("--compare", action="store_true", help="make nothing, compare what there is")
    add_options(parser)
    arguments = parser.parse_args()
    prefix = "" if arguments.family == DEFAULT_FAMILY else f"{arguments.family}_"
    place = Place(
        out=Path("runs") / f"{prefix}students",
        results=Path("analysis/results") / f"{prefix}students",
        benchmark=Path("runs") / f"{prefix}full",
        family=arguments.family,
    )
    names = with_starts(name for name in arguments.only if place.has(name))
    jobs = student_jobs(place, names, arguments.seeds)
    if arguments.archive is not None:
        or_exit(place.study.archive, arguments.archive)
        return
    or_exit(place.study.restore, jobs, arguments.restore)
    if not arguments.compare:
        if not (place.teacher / INFO_FILE).is_file():
            raise SystemExit(f"{place.teacher} is missing: run analysis/benchmark.py --family {place.family} first")
        run_jobs(jobs, place.out / "jobs")
        time_latencies(place)
        time_training(place)
    or_exit(report, place)


if __name__ == "__main__":
    main()
