# SPDX-License-Identifier: Apache-2.0
"""Section and figure of a comparison's page: success and task time over latency, in worlds that did not wait."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flashwam.report.alt_texts import real_time_alt
from flashwam.report.colours import run_colours
from flashwam.report.figures import INK, MUTED, label_ends, new_figure, plain_ticks, save_figure, tidy
from flashwam.report.page import Figure, Section, Table
from flashwam.report.real_time import SCENES, Curve, Point
from flashwam.run.real_time import MEANWHILE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_real_time", "real_time_section"]

_LINES = {"hold": "-", "go_on": (0, (4, 2))}


def real_time_section(
    curves: Sequence[Curve],
    folder: Path,
    *,
    marks: Mapping[str, float] | None = None,
    colours: Mapping[str, str] | None = None,
) -> Section:
    """Numbers and figure.

    Args:
        curves: At least one.
        folder: For the PNG.
        marks, colours: See `draw_real_time`.
    """
    rows, told = [], [name for name in SCENES if any(name in point.success for c in curves for point in c.points)]
    for curve in curves:
        for point in curve.points:
            clock = [MEANWHILE[curve.clock.meanwhile], f"{point.latency_ms:g}{' *' * point.measured}"]
            line = [curve.label, *clock, f"{curve.clock.control_hz:g}", f"{curve.clock.patience:g}"]
            for name in told:
                share, seconds = point.success.get(name), point.seconds.get(name)
                line += ["", ""] if share is None else [f"{share.rate:.2f}", f"{share.episodes:,}"]
                line.append("" if seconds is None else f"{seconds:.3g}")
            rows.append(line)
    columns = [column for name in told for column in (f"{name} tasks", "episodes", "done in, s")]
    return Section(
        heading="A world that does not wait",
        paragraphs=(
            "Here the world went on while a chunk was computed: every chunk was executed a latency after the picture "
            "that it was drawn from. A robot that holds stays until the chunk has come; one that goes on executes the "
            "rest of its last chunk meanwhile, which the model is told as executed. These episodes are counted in "
            "this section alone.",
        ),
        figures=(
            Figure(
                path=draw_real_time(curves, folder / "real_time.png", marks=marks, colours=colours),
                caption="Bars: Wilson's 95 % interval over episodes. Seconds are the world's, of successful episodes.",
                alt=real_time_alt(curves),
            ),
        ),
        tables=(
            Table(
                columns=("model", "meanwhile it", "latency, ms", "controls a second", "patience", *columns),
                rows=rows,
                caption="* measured where the episodes were driven. Patience: an episode may last so many times its "
                "task's limit, waiting included, unless its scene moves.",
            ),
        ),
    )


def draw_real_time(
    curves: Sequence[Curve],
    path: Path,
    *,
    marks: Mapping[str, float] | None = None,
    title: str = "",
    colours: Mapping[str, str] | None = None,
) -> Path:
    """Success of each kind of task over latency, a panel each, and below them the seconds until a task was done: a
    standing one where there are any, since what moves leaves little time.

    Args:
        curves: In order.
        path: The PNG's.
        marks: Words -> milliseconds, for lines that show where something known lies.
        title: Of the figure.
        colours: Run -> colour; students' own if None.
    """
    curves = [_with_origin(curve, curves) for curve in curves]
    marks, points = marks or {}, [point for curve in curves for point in curve.points]
    scenes = [name for name in SCENES if any(name in point.success for point in points)]
    timed = [name for name in scenes if any(name in point.seconds for point in points)][:1]
    above = [ms for ms in (*(point.latency_ms for point in points), *marks.values()) if ms > 0] or [100.0]
    # Latency 0 has no place on a logarithmic axis: it gets one of its own, to the left.
    zero, low, high = min(above) / 4, min(above) / 2, max(above) * 1.6
    shades = _colours(curves, colours)
    with new_figure(7.6, 0.7 + 2.3 * (len(scenes) + len(timed))) as figure:
        panels = figure.subplots(len(scenes) + len(timed), 1, sharex=True, squeeze=False)[:, 0]
        for axes, name in zip(panels, scenes, strict=False):
            axes.set(xscale="log", xlim=(zero * 0.8, high), ylim=(-0.04, 1.04), ylabel=f"success, {name}")
            for curve in curves:
                _draw_success(axes, curve, name, shades[curve.label], zero)
        for axes, name in zip(panels[len(scenes) :], timed, strict=True):
            axes.set(xscale="log", yscale="log", ylabel=f"done in s, {name}")
            for curve in curves:
                shown = [point for point in curve.points if name in point.seconds]
                _line(axes, curve, shown, [point.seconds[name] for point in shown], shades[curve.label], zero)
            seconds = [point.seconds[name] for point in points if name in point.seconds]
            ticks, labels = plain_ticks(min(seconds) / 3, max(seconds) * 3)
            lowest = max((tick for tick in ticks if tick <= min(seconds)), default=ticks[0])
            axes.set_ylim(0.9 * lowest, 1.1 * min(tick for tick in ticks if tick >= max(seconds)))
            axes.set_yticks(ticks, labels)
            axes.minorticks_off()
        for axes in panels:
            tidy(axes, grid="both")
            for ms in marks.values():
                axes.axvline(ms, color=INK, lw=0.9, ls=(0, (2, 2)), zorder=0)
        for number, (words, ms) in enumerate(sorted(marks.items(), key=lambda mark: mark[1])):
            panels[0].annotate(
                words,
                (ms, 1),
                xycoords=("data", "axes fraction"),
                # Neighbours at three heights, since words are wider than some latencies are apart.
                xytext=(0, 3 + 12 * (number % 3)),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=8.5,
                color=INK,
            )
        ticks, labels = plain_ticks(low, high)
        panels[-1].set_xticks([zero, *ticks], ["0", *labels])
        panels[-1].minorticks_off()
        panels[-1].set_xlabel("milliseconds from a picture to its chunk (logarithmic)")
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        _name(panels[0], curves, scenes[0], shades)
        _explain(panels[-1], curves)
        return save_figure(figure, path)


def _with_origin(curve: Curve, curves: Sequence[Curve]) -> Curve:
    """A curve of a robot that goes on, with the point of the one that holds where neither has anything to wait for."""
    if curve.clock.meanwhile == "hold" or any(point.latency_ms == 0 for point in curve.points):
        return curve
    same = (other for other in curves if other.label == curve.label and other.clock.meanwhile == "hold")
    clocks = [(replace(other.clock, meanwhile=curve.clock.meanwhile), other) for other in same]
    origin = [
        point for clock, other in clocks if clock == curve.clock for point in other.points if not point.latency_ms
    ]
    return replace(curve, points=(*origin, *curve.points))


def _draw_success(axes: "Axes", curve: Curve, name: str, colour: str, zero: float) -> None:
    shown = [point for point in curve.points if name in point.success]
    _line(axes, curve, shown, [point.success[name].rate for point in shown], colour, zero)
    for point in shown:
        low, high = point.success[name].interval
        axes.plot([point.latency_ms or zero] * 2, [low, high], color=colour, lw=1.6, alpha=0.3)


def _line(axes: "Axes", curve: Curve, shown: Sequence[Point], y: Sequence[float], colour: str, zero: float) -> None:
    filled = colour if curve.clock.meanwhile == "hold" else "white"
    x = [point.latency_ms or zero for point in shown]
    style = _LINES[curve.clock.meanwhile]
    marker = "o" if curve.kind == "student" else "s"
    axes.plot(x, y, color=colour, lw=1.5, ls=style, marker=marker, ms=5, mfc=filled, mec=colour)


def _name(axes: "Axes", curves: Sequence[Curve], scene: str, colours: Mapping[str, str]) -> None:
    """Models at the ends of their lines."""
    ends = {}
    for curve in curves:
        if shown := [point for point in curve.points if scene in point.success]:
            ends[curve.label] = (shown[-1].latency_ms, shown[-1].success[scene].rate, curve.label, colours[curve.label])
    label_ends(axes, list(ends.values()))


def _explain(axes: "Axes", curves: Sequence[Curve]) -> None:
    for meanwhile in dict.fromkeys(curve.clock.meanwhile for curve in curves):
        axes.plot([], [], color=MUTED, ls=_LINES[meanwhile], label=f"the robot {MEANWHILE[meanwhile]} meanwhile")
    axes.legend(loc="upper left", frameon=False, fontsize=8.5)


def _colours(curves: Sequence[Curve], told: Mapping[str, str] | None) -> dict[str, str]:
    """Label -> what is told of its run, or its own; of the teacher ink at its most steps, and grey at fewer."""
    told = run_colours((), [curve.run for curve in curves if curve.kind == "student"]) if told is None else told
    first = next((curve.label for curve in curves if curve.kind == "teacher"), "")
    own = {curve.label: told.get(curve.run, INK) for curve in curves}
    return {label: MUTED if colour == INK and label != first else colour for label, colour in own.items()}
