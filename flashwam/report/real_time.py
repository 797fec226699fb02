# SPDX-License-Identifier: Apache-2.0
"""Success over latency, of evaluations in worlds that did not wait."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from flashwam.core.steps import nfe_text
from flashwam.report.distinct import distinct_evaluations, runs_apart
from flashwam.report.row import Share, pooled_share, row_label
from flashwam.report.table import text_table
from flashwam.run.evaluation import Evaluation
from flashwam.run.real_time import MEANWHILE, RealTime

__all__ = ["SCENES", "Curve", "Point", "real_time_curves", "real_time_table"]

_NOISE = 1.5
"""Measured latencies of one request that differ by less are one machine's."""
SCENES = {"standing": False, "moving": True}
"""Name of a group of tasks -> whether their scenes move by themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Episodes at one latency, over seeds and trainings.

    Args:
        latency_ms: Mean of those that were measured; all of one request are alike.
        measured: Whether it was measured where the episodes were driven.
        success: "standing" or "moving" -> successes of such tasks.
        seconds: The same -> seconds until a successful episode was done, mean.
    """

    latency_ms: float
    measured: bool
    success: dict[str, Share]
    seconds: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        success = {name: share.to_json() for name, share in self.success.items()}
        told = {"latency_ms": self.latency_ms, "measured": self.measured}
        return {**told, "success": success, "seconds": dict(self.seconds)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One way of sampling a run's weights, over latencies.

    Args:
        label: Name in tables and figures.
        run: Name of the run.
        kind: "teacher" or "student".
        clock: Everything of it but the latency.
        points: By latency.
    """

    label: str
    run: str
    kind: str
    clock: RealTime
    points: tuple[Point, ...]

    @property
    def share(self) -> Share:
        """Over all latencies and tasks."""
        return pooled_share([share for point in self.points for share in point.success.values()])

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        clock = {name: getattr(self.clock, name) for name in ("meanwhile", "control_hz", "patience")}
        return {"label": self.label, "kind": self.kind, **clock, "points": [one.to_json() for one in self.points]}


def real_time_curves(evaluations: Sequence[Evaluation]) -> list[Curve]:
    """Pools evaluations of one run, step, NFE, sampler, precision and clock over seeds and trainings: teachers first,
    of most steps, and robots that hold before those that go on. What was measured twice counts once; runs that share a
    name are told apart.

    Args:
        evaluations: In worlds that did not wait; others are left out.
    """
    groups: dict[Hashable, dict[Hashable, list[Evaluation]]] = {}
    measured = distinct_evaluations([one for one in evaluations if one.real_time is not None], _way_and_point)
    late = runs_apart(measured, _way_and_point)
    for one in sorted(late, key=_order):
        way, point = _way_and_point(one)
        groups.setdefault(way, {}).setdefault(point, []).append(one)
    last: dict[str, int] = {}
    for one in late:
        last[one.run] = max(last.get(one.run, 0), one.step or 0)
    return [_curve([one for point in points.values() for one in _alike(point)], last) for points in groups.values()]


def real_time_table(curves: Sequence[Curve], *, markdown: bool = False) -> str:
    """Success and seconds at every latency, a line each, for a terminal or, with `markdown`, for a README."""
    scenes = [name for name in SCENES if any(name in point.success for curve in curves for point in curve.points)]
    head = ["model", "meanwhile it", "latency, ms", "controls a second"]
    head += [column for name in scenes for column in (f"{name} tasks", "done in, s")]
    body = []
    for curve in curves:
        for point in curve.points:
            line = [curve.label, MEANWHILE[curve.clock.meanwhile], f"{point.latency_ms:g}{' *' * point.measured}"]
            line.append(f"{curve.clock.control_hz:g}")
            for name in scenes:
                line += [_share(point.success.get(name)), _seconds(point.seconds.get(name))]
            body.append(line)
    return text_table(head, body, markdown=markdown) if body else ""


def _alike(parts: Sequence[Evaluation]) -> list[list[Evaluation]]:
    """Parts evaluations of one request by latencies that differ by more than the machine's noise: another machine."""
    found: list[list[Evaluation]] = []
    for one in sorted(parts, key=_latency):
        if found and _latency(one) <= _NOISE * _latency(found[-1][0]):
            found[-1].append(one)
        else:
            found.append([one])
    return found


def _latency(one: Evaluation) -> float:
    return 0.0 if one.real_time is None or one.real_time.latency_ms is None else one.real_time.latency_ms


def _way_and_point(one: Evaluation) -> tuple[Hashable, Hashable]:
    """The curve that an evaluation belongs to, and its point of it."""
    clock = one.real_time or RealTime()
    way = (one.run, one.step, tuple(one.nfe.items()), one.sampler, one.precision, one.round_trip)
    asked = clock if one.asked is None or one.asked.real_time is None else one.asked.real_time
    return (*way, clock.meanwhile, clock.control_hz, clock.patience), (asked.latency_ms, asked.scale)


def _order(one: Evaluation) -> tuple[bool, int, bool]:
    teacher = one.kind == "teacher"
    holds = one.real_time is not None and one.real_time.meanwhile == "hold"
    return not teacher, -sum(one.nfe.values()) if teacher else 0, not holds


def _curve(groups: Sequence[Sequence[Evaluation]], last: dict[str, int]) -> Curve:
    one = groups[0][0]
    clock = one.real_time or RealTime()
    final = (one.step or 0) == last[one.run]
    step = None if final else one.step
    label = row_label(f"{one.run} {nfe_text(one.nfe)}", one.kind, one.sampler, precision=one.precision, step=step)
    label += " served" * one.round_trip
    points = sorted((_point(parts) for parts in groups), key=lambda point: point.latency_ms)
    common = RealTime(meanwhile=clock.meanwhile, control_hz=clock.control_hz, patience=clock.patience)
    return Curve(label=label, run=one.run, kind=one.kind, clock=common, points=tuple(points))


def _point(parts: Sequence[Evaluation]) -> Point:
    clocks = [one.real_time for one in parts if one.real_time is not None]
    success, seconds = {}, {}
    for name, moving in SCENES.items():
        tasks = [numbers for one in parts for numbers in one.tasks.values() if numbers.moving == moving]
        shares = [Share(successes=numbers.success, episodes=numbers.episodes) for numbers in tasks]
        if shares:
            success[name] = pooled_share(shares)
        pairs = [pair for one in tasks for pair in zip(one.lasted or (), one.outcomes or (), strict=False)]
        if done := [lasted for lasted, won in pairs if won]:
            seconds[name] = fmean(done)
    asked = parts[0].asked
    return Point(
        latency_ms=fmean(clock.latency_ms or 0.0 for clock in clocks),
        measured=asked is not None and asked.real_time is not None and asked.real_time.latency_ms is None,
        success=success,
        seconds=seconds,
    )


def _share(share: Share | None) -> str:
    if share is None:
        return "-"
    low, high = share.interval
    return f"{share.rate:.2f} [{low:.2f}, {high:.2f}] of {share.episodes:,}"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.3g}"
