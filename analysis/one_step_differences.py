# SPDX-License-Identifier: Apache-2.0
"""Students held against each other, or against their teacher in as few steps: differences in success, paired by scene
and training."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from one_step_cells import DIFFERENCES, Place

from flashwam.core.pairing import paired_share_difference
from flashwam.report.results import pool_evaluations, read_evaluations
from flashwam.report.row import GROUPS, Row
from flashwam.report.table import text_table
from flashwam.system.files import write_whole

COLUMNS = ("the one less the other", "steps", "trainings", *(f"{group}, points" for group in GROUPS))


def differences(rows: Sequence[Row], one: str, other: str) -> Iterator[dict[str, Any]]:
    """Success of one model less that of another, by steps and group of tasks, over the same trainings and scenes."""
    found = {(row.run, row.steps_text): row for row in rows if row.final and row.sampler == "own"}
    for (run, steps), row in found.items():
        beside = found.get((other, steps))
        if run != one or beside is None:
            continue
        for group, several in GROUPS.items():
            if pairs := row.pairs(beside, multimodal=several):
                ours, theirs, episodes = (sum(counts) for counts in zip(*pairs.counts, strict=True))
                told = {"one": ours / episodes, "other": theirs / episodes, **paired_share_difference(pairs).to_json()}
                yield {"steps": steps, "group": group, **told}


def table_of_differences(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A row for every difference and number of steps: points of success, and their 95 % interval."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for title, told in found.items():
        for one in told:
            row = rows.setdefault((title, one["steps"]), dict.fromkeys(COLUMNS, "-"))
            value, low, high = (f"{100 * one[key]:+.1f}" for key in ("value", "low", "high"))
            row |= {COLUMNS[0]: title, "steps": one["steps"], "trainings": str(one["trainings"])}
            row[f"{one['group']}, points"] = f"{value} [{low}, {high}]"
    return text_table(COLUMNS, [[row[column] for column in COLUMNS] for row in rows.values()], markdown=True)


def write_differences(place: Place) -> None:
    """Writes `differences.json` and `differences.md` beside the comparison, of those that were driven."""
    runs = [*place.evaluated(guided=False), *place.evaluated(guided=True)]
    rows = pool_evaluations([result for run in runs for result in read_evaluations(run)])
    found = {f"{one} less {other}": list(differences(rows, one, other)) for one, other in DIFFERENCES}
    if found := {title: told for title, told in found.items() if told}:
        out = place.out / "comparison"
        write_whole(out / "differences.json", json.dumps(found, indent=1) + "\n")
        write_whole(out / "differences.md", table_of_differences(found) + "\n")
