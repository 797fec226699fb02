# SPDX-License-Identifier: Apache-2.0
"""In which of its streams a student loses its teacher's commitment, by a cross table."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["cross_losses"]


def cross_losses(cross: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Measures how much commitment each stream of each student loses, from the cross table.

    Rows are video sources, columns action sources; labels that begin with "teacher" are the teacher's, and among
    these the one with most steps is the reference. A label ends in its steps: "teacher 10v/10a", "teacher full".

    Returns:
        Per student row: {"student", "column", "action": lost by its actions on its own video, "video": lost by its
        video under the teacher's actions}.
    """

    def steps(label: str) -> int:
        *_, last = label.split()
        digits = "".join(c if c.isdecimal() else " " for c in last).split()
        return 10**9 if last == "full" else max((int(d) for d in digits), default=0)

    def reference(labels: Sequence[str]) -> int | None:
        return max(
            (i for i, label in enumerate(labels) if label.startswith("teacher")),
            key=lambda i: steps(labels[i]),
            default=None,
        )

    rows, columns, table = cross["rows"], cross["columns"], cross["commitment"]
    row0, column0 = reference(rows), reference(columns)
    if row0 is None or column0 is None:
        return []
    losses = []
    for i, row in enumerate(rows):
        if row.startswith("teacher"):
            continue
        own = [j for j, column in enumerate(columns) if column == row]
        for j in own or [j for j, column in enumerate(columns) if column.split()[0] == row.split()[0]]:
            losses.append(
                {
                    "student": row,
                    "column": columns[j],
                    "action": table[i][column0] - table[i][j],
                    "video": table[row0][column0] - table[i][column0],
                }
            )
    return losses
