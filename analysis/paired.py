# SPDX-License-Identifier: Apache-2.0
"""Holds any two models of a study against each other: differences and ratios of success, paired by scene and training.

    python analysis/paired.py one_step "teacher 10v/1a" "teacher 10v/10a"
    python analysis/paired.py one_step "pairs_cooled_actions 1v/1a" "teacher 10v/10a action-t0"
    python analysis/paired.py real_time "pairs 1v/1a hold 348" "pairs 1v/1a hold 26" --tasks button-moving

Models are named as their rows are, in a world that does not wait with what the robot does meanwhile and the latency in
ms behind; a name that is not there lists those that are. Tables of results hold what is compared most; sentences about
others are printed by this.
"""

import argparse
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from studies import or_exit

from flashwam.core.pairing import Paired, paired_ratio, paired_share_difference
from flashwam.report.results import pool_evaluations, read_evaluations, read_real_time_evaluations
from flashwam.report.row import GROUPS, Row
from flashwam.report.table import text_table
from flashwam.run.evaluation import Evaluation
from flashwam.system.errors import InputError

RESULTS = Path(__file__).resolve().parent / "results"
HEAD = ("tasks", "trainings", "episodes", "the one", "the other", "points", "ratio")


def named_rows(study: Path) -> dict[str, Row]:
    """Every model of a study as it was driven, by name."""
    late: dict[str, list[Evaluation]] = {}
    for one in read_real_time_evaluations(study):
        clock = one.real_time
        if clock is not None and clock.latency_ms is not None:
            late.setdefault(f"{clock.meanwhile} {clock.latency_ms:g}", []).append(one)
    rows = {row.label: row for row in pool_evaluations(read_evaluations(study))} if not late else {}
    return rows | {f"{row.label} {how}": row for how, some in late.items() for row in pool_evaluations(some)}


def find_row(rows: Mapping[str, Row], name: str) -> Row:
    """A model by its name.

    Raises:
        ValueError: There is none; the message lists those there are.
    """
    if name not in rows:
        raise InputError(f"there is no {name!r}; there are {', '.join(sorted(rows))}")
    return rows[name]


def lines(one: Row, other: Row, tasks: Collection[str] = ()) -> Iterator[list[str]]:
    """A line for each group of tasks that both were driven on, and for all; of `tasks` alone if there are any."""
    if tasks:
        one = _on(one, tasks)
    for group, several in {**GROUPS, "all": None}.items():
        pairs = one.pairs(other, multimodal=several)
        if pairs:
            ours, theirs, episodes = (sum(counts) for counts in zip(*pairs.counts, strict=True))
            points, ratio = paired_share_difference(pairs), paired_ratio(pairs)
            counted = [str(len(pairs.counts)), str(episodes), str(ours), str(theirs)]
            yield [group, *counted, _told(points, "+.1f", 100), "-" if ratio is None else _told(ratio, ".3f")]


def _on(row: Row, tasks: Collection[str]) -> Row:
    outcomes = {
        training: {(task, scene): won for (task, scene), won in episodes.items() if task in tasks}
        for training, episodes in row.outcomes.items()
    }
    return replace(row, outcomes=outcomes)


def _told(found: Paired, form: str, scale: float = 1.0) -> str:
    value, low, high = (format(scale * each, form) for each in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}]"


def main() -> None:
    """Parses the names, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", help="its folder's name below analysis/results")
    parser.add_argument("one", help="name of a row")
    parser.add_argument("other", help="what is taken from it")
    parser.add_argument("--tasks", nargs="+", default=[], metavar="TASK", help="of these alone")
    arguments = parser.parse_args()
    rows = or_exit(named_rows, RESULTS / arguments.study)
    one, other = (or_exit(find_row, rows, name) for name in (arguments.one, arguments.other))
    print(text_table(HEAD, list(lines(one, other, arguments.tasks)), markdown=True))


if __name__ == "__main__":
    main()
