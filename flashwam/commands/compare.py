# SPDX-License-Identifier: Apache-2.0
"""`flashwam compare`: one table and one page for evaluated runs."""

import argparse

from flashwam.commands.shared import Command, add_json, path, write_json
from flashwam.system.errors import InputError

WORDS = """\
one table and one page for any set of evaluated runs
Success with intervals, mode commitment, errors, latency, training curves and decoded video, side by side, with a
verdict that says which differences are outside the intervals."""
EXAMPLES = """\
  flashwam compare runs/teacher runs/naive_lcm runs/flash_wam --out runs/comparison
  flashwam compare runs/teacher runs/pairs --film reach-wall button-wall
  flashwam compare analysis/results/full"""


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=path, help="folders of evaluated runs, or a study's folder"
    )
    parser.add_argument("--out", type=path, default="runs/comparison", metavar="DIR", help="default: runs/comparison")
    parser.add_argument(
        "--film",
        nargs="+",
        default=[],
        metavar="TASK",
        help="film the teacher beside the best student in the first scene of these tasks, for the top of the page",
    )
    add_json(parser)


def _action(arguments: argparse.Namespace) -> None:
    from flashwam.report.compare import compare

    if arguments.film:
        from flashwam.demo.filming import film_best

        if film_best(arguments.runs, arguments.out, arguments.film) is None:
            raise InputError(
                "--film needs a teacher and a student among the runs that were driven and timed: flashwam evaluate each"
            )
    results = compare(arguments.runs, out=arguments.out)
    if write_json(arguments, results):
        others = [results[f"{name}_table"] for name in ("real_time", "recordings") if results[name]]
        driven = [results["table"], *results["verdict"]] if results["rows"] or not others else []
        print(*driven, *others, f"page: {results['page']}", sep="\n")


COMMAND = Command(name="compare", words=WORDS, examples=EXAMPLES, options=_options, action=_action)
