# SPDX-License-Identifier: Apache-2.0
"""Tells a consistency function's gradient weight from its start and reach, on the miniature LingBot-VA.

    python analysis/mechanism.py                       demonstrations, the shipped teacher, every cell (about 13 hours
                                                       of one core), then the comparison
    python analysis/mechanism.py --data DATA           the same with demonstrations that there are already
    python analysis/mechanism.py --steps 400           the short trainings alone (about 6 hours)
    python analysis/mechanism.py --horizons 10 40      also with targets that follow the student four times as fast
    python analysis/mechanism.py --vary action both    also with the video's function changed along
    python analysis/mechanism.py --compare             the comparison of what there is so far, or of what is kept
    python analysis/mechanism.py --archive FILE        an archive of what there is so far, for another machine
    python analysis/mechanism.py --restore FILE        go on from such an archive

Four cells {start and reach of linear, of lcm} x {gradient weight of linear, of lcm} are trained with few and many
anchors, for short and long, at a tiny learning rate and at one that is searched for the short ones. What tells most
comes first, so that a study that was interrupted can be compared already. Results go to analysis/results/mechanism (see
`analysis/studies.py`); docs/naive_against_modality_aware.md is the page about them.
"""

import argparse
from functools import partial
from pathlib import Path

from cells import add_extent, folders, run_study
from mechanism_cells import VARIED, Extent, Place
from mechanism_jobs import mechanism_jobs
from mechanism_table import write_comparison
from searching import FIRST_RATES, LADDER
from studies import add_options

from flashwam.run.folder import RunFolder


def command(place: Place, extent: Extent) -> str:
    """The call that makes what there is of an extent."""
    usual = Extent()
    made = [
        (cell, seed)
        for block in extent.blocks()
        for cell in block
        for kind in cell.kinds
        for seed in extent.seeds_of(cell)
        if RunFolder(place.run(cell, kind, seed)).evaluation_files
    ]
    told = {
        "vary": ([name for name in extent.varied if any(cell.varied == name for cell, _ in made)], usual.varied),
        "anchors": (sorted({cell.anchors for cell, _ in made}), usual.anchors),
        "steps": (sorted({cell.steps for cell, _ in made}), usual.steps),
        "horizons": (sorted({cell.horizons for cell, _ in made}), usual.horizons),
        "seeds": (sorted({seed for _, seed in made}), usual.seeds),
        "rates": ([f"{rate:g}" for rate in extent.rates], tuple(f"{rate:g}" for rate in usual.rates)),
        "set": (list(place.settings), ()),
    }
    parts = [f"--{name} {' '.join(map(str, values))}" for name, (values, own) in told.items() if tuple(values) != own]
    return " ".join(["python analysis/mechanism.py", *parts])


def report(place: Place, extent: Extent) -> None:
    """Table and figure of what there is, beside the measurements."""
    write_comparison(place, extent, place.out / "comparison")
    place.study.keep(command(place, extent))


def _parser() -> argparse.ArgumentParser:
    extent = Extent()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of demonstrations; collected into OUT/data if left out")
    parser.add_argument("--vary", nargs="+", choices=list(VARIED), default=list(extent.varied), dest="varied")
    parser.add_argument("--anchors", type=int, nargs="+", default=list(extent.anchors))
    parser.add_argument("--steps", type=int, nargs="+", default=list(extent.steps))
    told = "times that the horizon of the targets' EMA goes into a training"
    parser.add_argument("--horizons", type=int, nargs="+", default=list(extent.horizons), help=told)
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=list(extent.seeds), help="the first alone for long ones"
    )
    parser.add_argument(
        "--rates", type=float, nargs="+", choices=LADDER, default=list(FIRST_RATES), help="that a search begins with"
    )
    parser.add_argument(
        "--kinds", nargs="+", choices=list(extent.kinds), default=list(extent.kinds), help="of learning rates"
    )
    add_extent(parser)
    add_options(parser)
    return parser


def main() -> None:
    """Make, drive, compare."""
    arguments = _parser().parse_args()
    place = Place(data=arguments.data, **folders("mechanism", arguments))
    extent = Extent(
        varied=tuple(arguments.varied),
        anchors=tuple(arguments.anchors),
        steps=tuple(arguments.steps),
        horizons=tuple(arguments.horizons),
        seeds=tuple(arguments.seeds),
        rates=tuple(sorted(arguments.rates)),
        kinds=tuple(arguments.kinds),
    )
    jobs = mechanism_jobs(place, extent)
    run_study(place, jobs, partial(report, place, extent), arguments)


if __name__ == "__main__":
    main()
