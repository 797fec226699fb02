# SPDX-License-Identifier: Apache-2.0
"""Students held against each other, or against their teacher in as few steps: differences in success, paired by scene
and training."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from one_step_cells import DIFFERENCES, Place

from flashwam.core.pairing import paired_share_difference
from flashwam.report.results import pool_evaluations, read_evaluations
from flashwam.report.row import GROUPS, Row
from flashwam.system.files import write_whole

HEADER = "| steps | tasks | the one | the other | difference | trainings | episodes |\n|" + "---|" * 7


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


def line(told: dict[str, Any]) -> str:
    """A row of the table."""
    difference = f"{told['value']:+.3f} [{told['low']:+.3f}, {told['high']:+.3f}]"
    shares = f"{told['one']:.3f} | {told['other']:.3f}"
    return f"| {told['steps']} | {told['group']} | {shares} | {difference} | {told['trainings']} | {told['episodes']} |"


def write_differences(place: Place) -> None:
    """Writes `differences.json` and `differences.md` beside the comparison, of those that were driven."""
    runs = [*place.evaluated(guided=False), *place.evaluated(guided=True)]
    rows = pool_evaluations([result for run in runs for result in read_evaluations(run)])
    found = {f"{one} less {other}": list(differences(rows, one, other)) for one, other in DIFFERENCES}
    if found := {title: told for title, told in found.items() if told}:
        out = place.out / "comparison"
        parts = ["\n".join([f"**{title}**\n", HEADER, *map(line, told)]) for title, told in found.items()]
        write_whole(out / "differences.json", json.dumps(found, indent=1) + "\n")
        write_whole(out / "differences.md", "\n\n".join(parts) + "\n")
