# SPDX-License-Identifier: Apache-2.0
"""The figure of success by group of tasks, a line a row of a comparison."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flashwam.report.against import common_teacher, teacher_of
from flashwam.report.colours import run_colours
from flashwam.report.figures import INK, label_beside, name_lines, new_figure, save_figure, tidy
from flashwam.report.row import GROUPS, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_forest"]


def draw_forest(
    rows: Sequence[Row],
    path: Path,
    *,
    among: Sequence[Row] | None = None,
    colours: Mapping[str, str] | None = None,
) -> Path:
    """Each group of tasks in a panel, one line a row, and commitment beside them.

    Where episodes are paired a panel shows success over the teacher's, with its paired interval and a tick a training;
    else success, with Wilson's interval and a tick a seed.

    Args:
        rows: A line each, the first above.
        path: PNG to write.
        among: All rows that these are a part of, so that parts show the same; these alone if None.
        colours: Run -> colour; those of `run_colours` of all rows if None.
    """
    whole = rows if among is None else among
    paired = any(found.paired for row in whole for found in row.kept.values())
    groups = [name for name, several in GROUPS.items() if any(row.share(multimodal=several).episodes for row in whole)]
    committed = any(row.share(multimodal=True).commitment is not None for row in whole)
    colours, teacher = run_colours(whole) if colours is None else colours, common_teacher(whole)
    with new_figure(8.4, 1.05 + 0.31 * len(rows)) as figure:
        panels = figure.subplots(1, len(groups) + committed, sharey=True, squeeze=False)[0]
        for axes, group in zip(panels, groups, strict=False):
            goal = _goal(teacher, group)
            ends = [end for row in whole if (found := row.kept.get(group)) for end in (found.value, found.high) if end]
            right = min(_FARTHEST, max([1.0, *ends])) if paired else 1.0
            for y, row in enumerate(reversed(rows)):
                span = _spans(row, group, whole) if paired else _success(row, group)
                if span is not None:
                    _draw_span(axes, y, span, colours[row.run], filled=row.sampler == "own")
            _finish_panel(axes, f"{group}:\n{'of teacher' if paired else 'success'}", len(rows), right)
            if paired or goal is not None:
                axes.axvline(1.0 if paired else goal, color=INK, lw=0.9, ls=(0, (2, 2)), zorder=1.9)
        if committed:
            _draw_commitment(panels[-1], rows, teacher, colours)
        name_lines(panels[0], [(row.label, colours[row.run]) for row in rows])
        return save_figure(figure, path)


def _draw_commitment(axes: "Axes", rows: Sequence[Row], teacher: Row | None, colours: Mapping[str, str]) -> None:
    goal = None if teacher is None else teacher.share(multimodal=True).commitment
    for y, row in enumerate(reversed(rows)):
        share = row.share(multimodal=True).commitment
        if share is not None:
            axes.plot([0, share], [y, y], color=colours[row.run], lw=1.2, alpha=0.35)
            axes.plot(share, y, "D", ms=5.5, color=colours[row.run], clip_on=False)
            label_beside(axes, y, f"{share:.2f}", offset=4)
    _finish_panel(axes, "two-way:\ncommitment", len(rows), 1.0)
    if goal is not None:
        axes.axvline(goal, color=INK, lw=0.9, ls=(0, (2, 2)), zorder=1.9)


_FARTHEST = 2.0
"""Success over the teacher's, at most, that a panel shows; an arrow stands where an interval goes on."""
_Span = tuple[float, float, float, Sequence[float]]
"""Value, ends of its interval, and what single trainings or seeds come to."""


def _success(row: Row, group: str) -> _Span | None:
    share = row.share(multimodal=GROUPS[group])
    return (share.rate, *share.interval, row.seed_rates(GROUPS[group])) if share.episodes else None


def _goal(teacher: Row | None, group: str) -> float | None:
    """The teacher's success; None where it was not driven."""
    share = None if teacher is None else teacher.share(multimodal=GROUPS[group])
    return share.rate if share is not None and share.episodes else None


def _spans(row: Row, group: str, whole: Sequence[Row]) -> _Span | None:
    """Of the teacher; for the teacher itself 1, and for what is not paired no interval."""
    found = row.kept.get(group)
    if found is None:
        goal = _goal(teacher_of(row, whole), group)
        share = row.share(multimodal=GROUPS[group])
        if not goal or not share.episodes:
            return None
        value = share.rate / goal
        return value, value, value, ()
    low, high = (found.value if end is None else end for end in (found.low, found.high))
    return found.value, low, high, found.by_training


def _draw_span(axes: "Axes", y: int, span: _Span, colour: str, *, filled: bool) -> None:
    value, low, high, single = span
    axes.plot([low, high], [y, y], color=colour, lw=2, alpha=0.45, solid_capstyle="butt")
    if len(single) > 1:
        axes.plot(single, [y] * len(single), "|", ms=9, mew=1, color=colour, alpha=0.8)
    if high > _FARTHEST:
        axes.plot(_FARTHEST, y, ">", ms=5, color=colour, clip_on=False)
    inside = value <= _FARTHEST
    axes.plot(value, y, "o", ms=7, color=colour if filled else "white", mec=colour, mew=1.6, clip_on=not inside)
    label_beside(axes, y, f"{value:.2f}", offset=4)


def _finish_panel(axes: "Axes", title: str, lines: int, right: float) -> None:
    ticks = [tick for tick in (0, 0.5, 1, 1.5, 2) if tick <= right]
    axes.set(xlim=(-0.03, right + 0.03), xticks=ticks, ylim=(-0.7, lines - 0.3))
    axes.set_title(title, fontsize=10.5)
    tidy(axes, grid="x")
    axes.spines["left"].set_visible(False)
