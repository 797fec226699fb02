# SPDX-License-Identifier: Apache-2.0
"""Figures of a comparison, drawn from its rows."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flashwam.report.budget import budget
from flashwam.report.colours import inked, run_colours
from flashwam.report.figures import (
    INK,
    label_ends,
    label_points,
    legend_below,
    new_figure,
    plain_ticks,
    save_figure,
    tidy,
)
from flashwam.report.metrics import running_mean, series
from flashwam.report.row import GROUPS, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_budget", "draw_cross", "draw_latency", "draw_training", "names_some"]


def draw_latency(rows: Sequence[Row], path: Path, *, colours: Mapping[str, str] | None = None) -> Path | None:
    """Success against milliseconds a chunk, a panel a group of tasks; None where no latency was measured.

    Args:
        rows: Final ones with their own samplers are shown.
        path: PNG to write.
        colours: Run -> colour; those of `run_colours` of these rows if None.
    """
    timed, teachers = _timed(rows), inked(rows)
    groups = [name for name, several in GROUPS.items() if any(row.share(multimodal=several).episodes for row in timed)]
    if not timed or not groups:
        return None
    colours = run_colours(rows) if colours is None else colours
    milliseconds = [row.latency["chunk_ms"] for row in timed]
    low, high = min(milliseconds) / 3, max(milliseconds) * 3
    with new_figure(7.2, 0.4 + 4.0 * len(groups)) as figure:
        panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False)[:, 0]
        for axes, group in zip(panels, groups, strict=True):
            shown = [row for row in timed if row.share(multimodal=GROUPS[group]).episodes]
            rates = [row.share(multimodal=GROUPS[group]).rate for row in shown]
            axes.set(xscale="log", xlim=(low, high))
            margin = 0.12 * (max(rates) - min(rates)) + 0.05
            axes.set_ylim(max(-0.02, min(rates) - margin), min(1.06, max(rates) + margin))
            axes.set_ylabel(f"success, {group} tasks")
            axes.set_xticks(*plain_ticks(low, high))
            axes.minorticks_off()
            for row, rate in zip(shown, rates, strict=True):
                marker = "s" if row.run in teachers else "o"
                axes.plot(row.latency["chunk_ms"], rate, marker, ms=8, color=colours[row.run], mec="white", mew=1)
            tidy(axes, grid="both")
        panels[0].set_title("Success against latency")
        panels[-1].set_xlabel("milliseconds a chunk (logarithmic; left is better)")
        hidden = dict.fromkeys(row.run for group in groups for row in _hidden(timed, group, teachers))
        if hidden:
            dots = [axes.plot([], [], "o", ms=7, color=colours[run])[0] for run in hidden]
            legend_below(figure, dots, list(hidden), most=3)
        for axes, group in zip(panels, groups, strict=True):
            named = _named(timed, group, teachers)
            points = [
                (
                    row.latency["chunk_ms"],
                    row.share(multimodal=GROUPS[group]).rate,
                    row.label if row in named else "",
                    colours[row.run],
                )
                for row in timed
                if row.share(multimodal=GROUPS[group]).episodes
            ]
            label_points(axes, points)
        return save_figure(figure, path)


_FEW, _BEST = 14, 2
"""Points that are all named beside themselves; of more, beside the teacher's, the best so many at each number of steps.
"""


def names_some(rows: Sequence[Row]) -> bool:
    """Tells whether `draw_latency` names some of the rows alone beside their points."""
    return any(_hidden(_timed(rows), group, inked(rows)) for group in GROUPS)


def _timed(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.latency.get("chunk_ms") and row.final and row.sampler == "own"]


def _hidden(rows: Sequence[Row], group: str, teachers: Collection[str]) -> list[Row]:
    """The rows with points of whom no name stands beside them."""
    named = _named(rows, group, teachers)
    return [row for row in rows if row.share(multimodal=GROUPS[group]).episodes and row not in named]


def _named(rows: Sequence[Row], group: str, teachers: Collection[str]) -> list[Row]:
    """The rows whose names stand beside their points."""
    shown = [row for row in rows if row.share(multimodal=GROUPS[group]).episodes]
    if len(shown) <= _FEW:
        return shown
    best: dict[int, list[Row]] = {}
    others = (row for row in shown if row.run not in teachers)
    for row in sorted(others, key=lambda row: -row.share(multimodal=GROUPS[group]).rate):
        best.setdefault(row.total_nfe, []).append(row)
    of_teachers = [row for row in shown if row.run in teachers]
    return of_teachers + [row for found in best.values() for row in found[:_BEST]]


def draw_budget(rows: Sequence[Row], path: Path, *, colours: Mapping[str, str] | None = None) -> Path | None:
    """Success and action error along trainings; None where `flashwam.report.budget.budget` finds no course of either.

    Args:
        rows: Those on the way to a run's last step too.
        path: PNG to write.
        colours: Run -> colour; those of `run_colours` of these rows if None.
    """
    told = budget(rows)
    if told is None:
        return None
    colours = run_colours(rows) if colours is None else colours
    panels = [bool(told.success), bool(told.error)]
    with new_figure(7.2, 0.6 + 2.7 * sum(panels)) as figure:
        left = iter(figure.subplots(sum(panels), 1, sharex=True, squeeze=False)[:, 0])
        if told.success:
            axes, ends = next(left), []
            for run, shares in told.success.items():
                steps, rates = [step for step, _ in shares], [share.rate for _, share in shares]
                axes.plot(steps, rates, color=colours[run], lw=2, marker="o", ms=4)
                low, high = zip(*(share.interval for _, share in shares), strict=True)
                axes.fill_between(steps, low, high, color=colours[run], alpha=0.08, lw=0)
                ends.append((steps[-1], rates[-1], run, colours[run]))
            if told.teacher is not None:
                label, goal = told.teacher
                axes.axhline(goal, color=INK, lw=0.9, ls=(0, (2, 2)))
                ends.append((0, goal, label, INK))
            axes.set(ylabel=f"success, {told.tasks}", ylim=(-0.02, 1.02))
            axes.set_title(f"Success along the training, {told.steps_text}")
            _finish(axes, ends)
        if told.error:
            axes, ends = next(left), []
            for run, points in told.error.items():
                axes.plot(*zip(*points, strict=True), color=colours[run], lw=2, marker="o", ms=4)
                ends.append((*points[-1], run, colours[run]))
            axes.set_ylabel("squared error to the\nteacher's actions")
            axes.set_title(f"Action error along the training, {told.steps_text}")
            _log_axis(axes)
            _finish(axes, ends)
        axes.set_xlabel("distillation steps")
        return save_figure(figure, path)


def _finish(axes: "Axes", ends: Sequence[tuple[float, float, str, str]]) -> None:
    tidy(axes)
    label_ends(axes, ends)


def _log_axis(axes: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    subdivisions = (1, 2, 5) if high / low < 100 else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=subdivisions, numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def draw_training(
    metrics: Mapping[str, Sequence[Sequence[dict[str, Any]]]],
    streams: Sequence[str],
    path: Path,
    *,
    colours: Mapping[str, str],
) -> Path | None:
    """Loss and gradient norm of every run, one column per stream; None where nothing was logged.

    Args:
        metrics: Run -> rows of its metrics, one list per seed.
        streams: Columns, of those that anything was logged of.
        path: PNG to write.
        colours: Run -> colour; ink for a run that is not in it.
    """
    kinds = {"loss": "loss", "grad_norm": "gradient norm"}
    curves = {
        (kind, stream): [
            (run, steps, values)
            for run, seeds in metrics.items()
            for logged in seeds
            for steps, values in [series(logged, f"{stream}/{kind}")]
            if len(steps) > 1
        ]
        for kind in kinds
        for stream in streams
    }
    kinds = {kind: name for kind, name in kinds.items() if any(curves[kind, stream] for stream in streams)}
    streams = [stream for stream in streams if any(curves[kind, stream] for kind in kinds)]
    if not kinds:
        return None
    colours = dict.fromkeys(metrics, INK) | dict(colours)
    with new_figure(8.4, 0.6 + 2.5 * len(kinds)) as figure:
        grid = figure.subplots(len(kinds), len(streams), sharex=True, squeeze=False)
        for line, (kind, name) in zip(grid, kinds.items(), strict=True):
            for axes, stream in zip(line, streams, strict=True):
                for run, steps, values in curves[kind, stream]:
                    axes.plot(steps, running_mean(values), color=colours[run], lw=1.6)
                if any(value > 0 for _, _, values in curves[kind, stream] for value in values):
                    _log_axis(axes)
                axes.set_title(f"{stream} {name}", fontsize=10.5)
                tidy(axes)
        for axes in grid[-1]:
            axes.set_xlabel("steps")
        shown = list(dict.fromkeys(run for found in curves.values() for run, _, _ in found))
        handles = [figure.axes[0].plot([], [], color=colours[run], lw=3)[0] for run in shown]
        legend_below(figure, handles, shown)
        return save_figure(figure, path)


def draw_cross(cross: Mapping[str, Any], path: Path) -> Path:
    """Commitment with the video of one model (rows) and the actions of another (columns)."""
    import matplotlib as mpl

    table = np.array(cross["commitment"], dtype=float)
    errors = np.array(cross["action_error"], dtype=float) if cross.get("action_error") else None
    low = max(0.0, min(0.5, float(np.nanmin(table)) - 0.05))
    colourmap = mpl.colormaps["Blues"]
    with new_figure(2.6 + 1.15 * table.shape[1], 1.5 + 0.62 * table.shape[0]) as figure:
        axes = figure.subplots()
        axes.imshow(table, cmap=colourmap, vmin=low, vmax=1.12, aspect="auto")
        for i, j in np.ndindex(*table.shape):
            dark = (table[i, j] - low) / (1.12 - low) > 0.55
            text = f"{table[i, j]:.2f}" + (f"\nerror {errors[i, j]:.3f}" if errors is not None else "")
            axes.text(j, i, text, ha="center", va="center", fontsize=9, color="white" if dark else INK)
        axes.set_xticks(range(table.shape[1]), [_in_lines(label) for label in cross["columns"]])
        axes.set_yticks(range(table.shape[0]), cross["rows"])
        axes.xaxis.tick_top()
        axes.xaxis.set_label_position("top")
        axes.set(xlabel="actions drawn by", ylabel="video drawn by")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        return save_figure(figure, path)


def _in_lines(label: str, most: int = 15) -> str:
    """A model's label over its column: its number of steps on a line of its own, a long name broken at underscores."""
    name, _, steps = label.partition(" ")
    lines = [""]
    for part in re.findall(r"[^_]+_?|_", name):
        if lines[-1] and len(lines[-1]) + len(part) > most:
            lines.append("")
        lines[-1] += part
    return "\n".join([*lines, *([steps] if steps else [])])
