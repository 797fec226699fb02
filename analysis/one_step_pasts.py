# SPDX-License-Identifier: Apache-2.0
"""The worth of pasts that the student made: a second stage with them against further training of equal cost."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from one_step_cells import STUDENTS, Place

from flashwam.core.pairing import paired_share_difference
from flashwam.report.results import pool_evaluations, read_evaluations
from flashwam.report.row import GROUPS, Row
from flashwam.run.folder import RunFolder
from flashwam.system.files import write_whole

OWN, FURTHER = "pairs_own_pasts", "pairs_further"

HEADER = "| steps | tasks | own pasts | further training | difference | trainings | episodes |\n|" + "---|" * 7


def differences(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Success with own pasts less that without, by steps and group of tasks, over the same trainings and scenes."""
    found = {(row.run, row.steps_text): row for row in rows if row.final}
    for (run, steps), own in found.items():
        further = found.get((FURTHER, steps))
        if run != OWN or further is None:
            continue
        for group, several in GROUPS.items():
            if pairs := own.pairs(further, multimodal=several):
                ours, theirs, episodes = (sum(counts) for counts in zip(*pairs.counts, strict=True))
                told = {
                    "own": ours / episodes,
                    "further": theirs / episodes,
                    **paired_share_difference(pairs).to_json(),
                }
                yield {"steps": steps, "group": group, **told}


def line(one: dict[str, Any]) -> str:
    """A row of the table."""
    difference = f"{one['value']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]"
    shares = f"{one['own']:.3f} | {one['further']:.3f}"
    return f"| {one['steps']} | {one['group']} | {shares} | {difference} | {one['trainings']} | {one['episodes']} |"


def write_differences(place: Place) -> None:
    """Writes `own_pasts.json` and `own_pasts.md` beside the comparison, if both stages were driven."""
    runs = [place.run(name, seed) for name in (OWN, FURTHER) for seed in STUDENTS[name].seeds]
    results = [result for run in runs if RunFolder(run).evaluation_files for result in read_evaluations(run)]
    if told := list(differences(pool_evaluations(results))):
        out = place.out / "comparison"
        write_whole(out / "own_pasts.json", json.dumps(told, indent=1) + "\n")
        write_whole(out / "own_pasts.md", "\n".join([HEADER, *map(line, told)]) + "\n")
