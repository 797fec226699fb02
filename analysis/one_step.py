# SPDX-License-Identifier: Apache-2.0
"""One-step students against their teacher: the goal, what the same seconds buy otherwise, and the published methods.

    python analysis/one_step.py                       all cells (hours), then the comparison
    python analysis/one_step.py --family cogvideox    the other family's small model (kept apart)
    python analysis/one_step.py --only pairs          some students alone, what they go on from, and their teacher
    python analysis/one_step.py --compare             the comparison of what there is so far
    python analysis/one_step.py --archive FILE        an archive of what there is so far, for another machine
    python analysis/one_step.py --restore FILE        go on from such an archive

`one_step.yaml` lists the cells: trainings of several seeds, each driven in the scenes of its seed, in which its teacher
is driven too. Results go to analysis/results/one_step (see `analysis/studies.py`), the other family's to
cogvideox_one_step. A run that was killed goes on where it was.
"""

import argparse
from functools import partial

from cells import add_extent, folders, run_study
from one_step_cells import STUDENTS, TEACHER_SEEDS, Place
from one_step_differences import write_differences
from one_step_jobs import one_step_jobs
from one_step_ways import write_ways
from studies import add_options
from temperatures import write_temperatures

from flashwam.demo.place import DEFAULT_FAMILY
from flashwam.report.compare import compare
from flashwam.run.folder import RunFolder
from flashwam.wam.files import FAMILY_FILES


def place_of(family: str, arguments: argparse.Namespace) -> Place:
    """Folders of a family's study, as the options ask."""
    name = "one_step" if family == DEFAULT_FAMILY else f"{family}_one_step"
    return Place(family=family, **folders(name, arguments))


def command(place: Place) -> str:
    """The call that makes what there is."""
    parts = ["python analysis/one_step.py"]
    if place.family != DEFAULT_FAMILY:
        parts.append(f"--family {place.family}")
    names = [name for name in STUDENTS if place.has(name)]
    there = {
        (name, seed) for name in names for seed in TEACHER_SEEDS if RunFolder(place.run(name, seed)).evaluation_files
    }
    made = [name for name in names if any(name == other for other, _ in there)]
    if made != names:
        parts.append(f"--only {' '.join(made)}")
    seeds = sorted({seed for _, seed in there})
    if tuple(seeds) != TEACHER_SEEDS:
        parts.append(f"--seeds {' '.join(map(str, seeds))}")
    if place.settings:
        parts.append(f"--set {' '.join(place.settings)}")
    return " ".join(parts)


def report(place: Place) -> None:
    """Tables and figures of what there is, beside the measurements."""
    compare(place.evaluated(guided=False), out=place.out / "comparison")
    if guided := place.evaluated(guided=True):
        compare(guided, out=place.out / "comparison_guided")
    write_differences(place)
    write_ways(place)
    write_temperatures(place.evaluated(guided=False), place.out / "comparison")
    place.study.keep(command(place))


def main() -> None:
    """Make, drive, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=sorted(FAMILY_FILES), default=DEFAULT_FAMILY)
    parser.add_argument("--only", nargs="+", choices=list(STUDENTS), default=list(STUDENTS), metavar="STUDENT")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(TEACHER_SEEDS))
    add_extent(parser)
    add_options(parser)
    arguments = parser.parse_args()
    place = place_of(arguments.family, arguments)
    jobs = one_step_jobs(place, [name for name in arguments.only if place.has(name)], arguments.seeds)
    run_study(place, jobs, partial(report, place), arguments)


if __name__ == "__main__":
    main()
