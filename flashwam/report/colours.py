# SPDX-License-Identifier: Apache-2.0
"""One colour a method, in every figure of a page."""

from collections.abc import Iterable, Sequence

from flashwam.report.figures import INK, PALETTE
from flashwam.report.row import Row

__all__ = ["run_colours"]


def run_colours(rows: Sequence[Row], others: Iterable[str] = ()) -> dict[str, str]:
    """Run -> colour: ink for teachers and baselines, the palette in alphabetical order for students.

    Args:
        rows: Of the whole page, so that its figures agree.
        others: Names of students that stand in other sections of the page.
    """
    students = sorted({*others, *(row.run for row in rows if row.kind == "student")})
    colours = {run: PALETTE[i % len(PALETTE)] for i, run in enumerate(students)}
    return {row.run: INK for row in rows} | colours
