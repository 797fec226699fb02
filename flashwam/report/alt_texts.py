# SPDX-License-Identifier: Apache-2.0
"""Texts that say what is seen in a figure, for those who do not see it, from the numbers that it was drawn from."""

from collections.abc import Mapping, Sequence
from typing import Any

from flashwam.report.budget import Budget
from flashwam.report.metrics import running_mean, series
from flashwam.report.motion import MotionLink
from flashwam.report.real_time import SCENES, Curve
from flashwam.report.recordings import RecordingRow
from flashwam.report.row import GROUPS, Row

__all__ = [
    "budget_alt",
    "cross_alt",
    "forest_alt",
    "latency_alt",
    "motion_alt",
    "over_chunk_alt",
    "real_time_alt",
    "training_alt",
]

_MOST = 12
"""Curves that are told one by one; of more, the highest and the lowest end."""


def _ends(values: Mapping[str, float], form: str = ".2f") -> str:
    """ "highest a with 0.90, lowest b with 0.10"."""
    if not values:
        return "nothing"
    high, low = max(values, key=values.__getitem__), min(values, key=values.__getitem__)
    if len(values) > 1 and values[high] == values[low]:
        return f"all at {values[high]:{form}}"
    told = f"highest {high} with {values[high]:{form}}"
    return told if high == low else f"{told}, lowest {low} with {values[low]:{form}}"


def _courses(courses: Mapping[str, tuple[float, float]], form: str) -> str:
    """ "a from 0.1 to 0.9, b from 0.2 to 0.5", or where they end."""
    if len(courses) > _MOST:
        return f"at the end {_ends({name: end for name, (_, end) in courses.items()}, form)}"
    return ", ".join(f"{name} from {first:{form}} to {last:{form}}" for name, (first, last) in courses.items())


def _lines(count: int, kind: str) -> str:
    return f"{count} {kind}{'s' * (count != 1)}"


def forest_alt(rows: Sequence[Row], *, among: Sequence[Row] | None = None) -> str:
    """Of the dots with intervals, and of commitment beside them.

    Args:
        rows: As drawn.
        among: All rows that these are a part of; these alone if None.
    """
    paired = any(found.paired for row in among or rows for found in row.kept.values())
    parts = []
    for group in GROUPS:
        values = _success(rows, group)
        if paired:
            values = {row.label: row.kept[group].value for row in rows if group in row.kept}
        if values:
            parts.append(f"on the {group} tasks {_ends(values)}")
    told = {row.label: row.share(multimodal=True).commitment for row in rows}
    committed = {label: share for label, share in told.items() if share is not None}
    beside = f"; diamonds beside them, commitment on the two-way tasks: {_ends(committed)}" if committed else ""
    what = "success over the teacher's" if paired else "success"
    return f"Dots with bars, {_lines(len(rows), 'line')}: {what}, {'; '.join(parts)}{beside}"


def _success(rows: Sequence[Row], group: str) -> dict[str, float]:
    """Label -> success on a group of tasks, of the rows that were driven on it."""
    shares = {row.label: row.share(multimodal=GROUPS[group]) for row in rows}
    return {label: share.rate for label, share in shares.items() if share.episodes}


def latency_alt(rows: Sequence[Row]) -> str:
    """Of success against latency.

    Args:
        rows: Those that were timed are drawn.
    """
    timed = [row for row in rows if row.latency.get("chunk_ms") and row.final and row.sampler == "own"]
    milliseconds = {row.label: row.latency["chunk_ms"] for row in timed}
    told = [f"on the {group} tasks {_ends(rates)}" for group in GROUPS if (rates := _success(timed, group))]
    return (
        f"{_lines(len(timed), 'dot')}, success over milliseconds a chunk: of milliseconds "
        f"{_ends(milliseconds, ',.0f')}; of success {'; '.join(told)}"
    )


def budget_alt(told: Budget) -> str:
    """Of success and action error along trainings.

    Args:
        told: As drawn.
    """
    parts = []
    if told.success:
        rates = {run: (points[0][1].rate, points[-1][1].rate) for run, points in told.success.items()}
        parts.append(f"of success on {'the ' * (told.tasks != 'all tasks')}{told.tasks}: {_courses(rates, '.2f')}")
        if told.teacher is not None:
            parts.append(f"a dashed line, {told.teacher[0]} at {told.teacher[1]:.2f}")
    if told.error:
        errors = {run: (points[0][1], points[-1][1]) for run, points in told.error.items()}
        parts.append(f"of the error to the teacher's actions: {_courses(errors, '.2g')}")
    return f"Curves over distillation steps, at {told.steps_text}, {'; '.join(parts)}"


def training_alt(metrics: Mapping[str, Sequence[Sequence[dict[str, Any]]]], streams: Sequence[str]) -> str:
    """Of losses and gradient norms over the steps.

    Args:
        metrics: Run -> rows of its metrics, one list per seed.
        streams: The columns of the figure.
    """
    parts = []
    for key, kind in (("loss", "loss"), ("grad_norm", "gradient norm")):
        for stream in streams:
            courses = {}
            for run, seeds in metrics.items():
                _, values = series(seeds[0], f"{stream}/{key}") if seeds else ((), ())
                if len(values) > 1:
                    means = running_mean(values)
                    courses[run] = (float(means[0]), float(means[-1]))
            if courses:
                parts.append(f"{stream} {kind}, {_courses(courses, '.2g')}")
    first = " (of the first training each)" if any(len(seeds) > 1 for seeds in metrics.values()) else ""
    return f"Curves over training steps, {_lines(len(metrics), 'method')}{first}: {'; '.join(parts)}"


def cross_alt(cross: Mapping[str, Any]) -> str:
    """Of the table of commitment by source of video and of actions.

    Args:
        cross: The cross table.
    """
    cells = {
        f"the video of {row} with the actions of {column}": value
        for row, line in zip(cross["rows"], cross["commitment"], strict=True)
        for column, value in zip(cross["columns"], line, strict=True)
    }
    size = f"{len(cross['rows'])} by {len(cross['columns'])}"
    return f"Table of {size} shaded cells, commitment by source of video and of actions: {_ends(cells)}"


def motion_alt(linked: Sequence[tuple[Row, MotionLink]]) -> str:
    """Of similarity of motion.

    Args:
        linked: As drawn.
    """
    ends = _ends({row.label: link.similarity for row, link in linked})
    gaps = [
        link.succeeded > link.failed for _, link in linked if link.succeeded is not None and link.failed is not None
    ]
    return (
        f"Pairs of dots, {_lines(len(linked), 'line')}: similarity of imagined and real motion, {ends}; successes lie "
        f"right of failures in {sum(gaps)} of {len(gaps)}"
    )


def _curve_names(curves: Sequence[Curve]) -> list[str]:
    """Name of each, with what of its clock tells it from others."""
    units = {"control_hz": "controls a second", "patience": "of patience"}
    told = [name for name in units if len({getattr(curve.clock, name) for curve in curves}) > 1]
    names = []
    for curve in curves:
        clock = [f"{getattr(curve.clock, name):g} {units[name]}" for name in told]
        names.append(f"{curve.label} ({', '.join([curve.clock.meanwhile.replace('_', ' '), *clock])})")
    return names


def real_time_alt(curves: Sequence[Curve]) -> str:
    """Of success over latency.

    Args:
        curves: As drawn.
    """
    names = _curve_names(curves)
    parts, timed = [], ""
    for scene in SCENES:
        told = [[point for point in curve.points if scene in point.success] for curve in curves]
        rates = {
            name: (points[0].success[scene].rate, points[-1].success[scene].rate)
            for name, points in zip(names, told, strict=True)
            if points
        }
        if rates:
            parts.append(f"{scene} tasks, {_courses(rates, '.2f')}")
        done = [[point.seconds[scene] for point in curve.points if scene in point.seconds] for curve in curves]
        seconds = {name: (lasted[0], lasted[-1]) for name, lasted in zip(names, done, strict=True) if lasted}
        if seconds and not timed:
            timed = f"; below, seconds until {scene} tasks were done, {_courses(seconds, '.3g')}"
    return f"Curves of success from the shortest latency to the longest: {'; '.join(parts)}{timed}"


def over_chunk_alt(rows: Sequence[RecordingRow]) -> str:
    """Of the error to the teacher over a chunk.

    Args:
        rows: Those that have one are drawn.
    """
    courses = {row.label: (row.over_chunk[0], row.over_chunk[-1]) for row in rows if any(row.over_chunk)}
    return f"Curves of the error to the teacher from a chunk's first control to its last: {_courses(courses, '.2g')}"
