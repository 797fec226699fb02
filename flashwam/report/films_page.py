# SPDX-License-Identifier: Apache-2.0
"""Section of a comparison's page: what the cameras saw while models drove."""

from collections.abc import Sequence

from flashwam.report.page import Figure, Section
from flashwam.report.row import Row

__all__ = ["films_section"]

_TASKS = 3
"""Tasks of each run that are shown: a suite has ten or more."""


def films_section(rows: Sequence[Row]) -> Section | None:
    """Shows the first episodes of a few tasks, of every run with its own sampler in the fewest steps that has films.

    Args:
        rows: In the order to show them.

    Returns:
        The section; None where no row has a film.
    """
    shown: dict[str, Row] = {}
    for row in sorted((r for r in rows if r.task_films and r.sampler == "own"), key=lambda r: r.total_nfe):
        shown.setdefault(row.run, row)
    figures = [
        Figure(
            path=path,
            caption=f"{row.label}, {task}: moments of the first episode.",
            alt=f"Rows of small pictures, a line a camera, from the beginning to the end of an episode: what was seen "
            f"while {row.label} drove {task}",
            photo=True,
        )
        for row in shown.values()
        for task, path in list(row.task_films.items())[:_TASKS]
    ]
    if not figures:
        return None
    more = [
        f"{row.label}: films of {len(row.task_films) - _TASKS} more tasks lie beside its evaluation."
        for row in shown.values()
        if len(row.task_films) > _TASKS
    ]
    return Section(
        heading="What the cameras saw",
        paragraphs=(
            "The first episode of a task as it was driven: at most eight moments from its beginning to its end, a line "
            "a camera.",
        ),
        figures=figures,
        notes=more,
    )
