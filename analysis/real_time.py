# SPDX-License-Identifier: Apache-2.0
"""Success over latency: a teacher, the same in few steps, and students, in a world that does not wait for them.

    python analysis/real_time.py                             all cells (hours), then the figure
    python analysis/real_time.py --students runs/one_step    with the students of `one_step.py`, which are not made anew
    python analysis/real_time.py --family cogvideox          the other family's small model (kept apart)
    python analysis/real_time.py --latencies 0 348 --episodes 2 --seeds 0    a small part
    python analysis/real_time.py --mark "student, H100 fp32" 90    one more line in the figure
    python analysis/real_time.py --compare                   the figure of what there is so far
    python analysis/real_time.py --archive FILE              an archive of what there is so far, for another machine
    python analysis/real_time.py --restore FILE              go on from such an archive

`real_time.yaml` lists latencies, models and tasks: three that stand and one that moves. Results go to
analysis/results/real_time (see `analysis/studies.py`), the other family's to cogvideox_real_time. A run that was killed
goes on where it was.
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

from cells import add_extent, folders, run_study
from one_step_cells import Place
from real_time_jobs import CELLS, TIMED, Cells, real_time_jobs
from studies import add_options, or_exit

from flashwam.demo.place import DEFAULT_FAMILY
from flashwam.report.compare import compare
from flashwam.report.real_time import real_time_curves
from flashwam.report.real_time_page import draw_real_time
from flashwam.report.results import read_real_time_evaluations
from flashwam.run.folder import RunFolder
from flashwam.system.json_file import read_mapping
from flashwam.wam.files import FAMILY_FILES

FIGURE = "success_over_latency.png"


def driven(place: Place) -> list[Path]:
    """Runs that were driven by a clock."""
    return sorted(folder for folder in (place.out / "runs").glob("*") if RunFolder(folder).real_time_files)


def marks(place: Place, cells: Cells) -> dict[str, float]:
    """Lines of the figure: what is known of large models, and what the small one takes here in few steps."""
    found = place.out / "comparison" / f"{TIMED}.json"
    here = read_mapping(found).get(cells.student_nfe) if found.is_file() else None
    known = {f"{words}, {_shown(ms)}": ms for words, ms in cells.marks.items()}
    return known if here is None else {**known, f"the small student here, {_shown(here)}": here}


def _shown(ms: float) -> str:
    return f"{ms / 1000:.2g} s" if ms >= 1000 else f"{ms:.3g} ms"


def report(place: Place, cells: Cells, command: str) -> None:
    """Table, page and figure of what there is, beside the measurements."""
    out, runs = place.out / "comparison", driven(place)
    if runs:
        compare(runs, out=out)
        curves = real_time_curves([one for run in runs for one in read_real_time_evaluations(run)])
        draw_real_time(curves, out / FIGURE, marks=marks(place, cells), title="Success over latency")
    place.study.keep(command)


def main() -> None:
    """Make or take, drive, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=sorted(FAMILY_FILES), default=DEFAULT_FAMILY)
    parser.add_argument("--students", type=Path, metavar="DIR", help="folder of a study by one_step.py")
    parser.add_argument("--latencies", type=float, nargs="+", default=list(CELLS.latencies), metavar="MS")
    parser.add_argument("--episodes", type=int, default=CELLS.episodes)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(CELLS.seeds))
    parser.add_argument("--only", nargs="*", choices=CELLS.students, default=list(CELLS.students), metavar="STUDENT")
    marked = "a line of the figure, such as what a GPU was measured at"
    parser.add_argument("--mark", nargs=2, action="append", default=[], metavar=("WORDS", "MS"), help=marked)
    add_extent(parser)
    add_options(parser)
    arguments = parser.parse_args()
    cells = replace(
        CELLS,
        latencies=tuple(arguments.latencies),
        episodes=arguments.episodes,
        seeds=tuple(arguments.seeds),
        students=tuple(arguments.only),
        marks={**CELLS.marks, **{words: float(ms) for words, ms in arguments.mark}},
    )
    name = "real_time" if arguments.family == DEFAULT_FAMILY else f"{arguments.family}_real_time"
    place = Place(family=arguments.family, **folders(name, arguments))
    told = command(cells, arguments)
    jobs = or_exit(partial(real_time_jobs, students=arguments.students), place, cells)
    run_study(place, jobs, partial(report, place, cells, told), arguments)


def command(cells: Cells, arguments: argparse.Namespace) -> str:
    """The call that makes what there is."""
    parts = ["python analysis/real_time.py"]
    if arguments.family != DEFAULT_FAMILY:
        parts.append(f"--family {arguments.family}")
    if arguments.students is not None:
        parts.append(f"--students {arguments.students}")
    for name in ("latencies", "seeds"):
        if getattr(cells, name) != getattr(CELLS, name):
            parts.append(f"--{name} {' '.join(f'{value:g}' for value in getattr(cells, name))}")
    if cells.episodes != CELLS.episodes:
        parts.append(f"--episodes {cells.episodes}")
    if cells.students != CELLS.students:
        parts.append(" ".join(["--only", *cells.students]))
    parts += [f'--mark "{words}" {ms:g}' for words, ms in cells.marks.items() if words not in CELLS.marks]
    if arguments.settings:
        parts.append(f"--set {' '.join(arguments.settings)}")
    return " ".join(parts)


if __name__ == "__main__":
    main()
