# SPDX-License-Identifier: Apache-2.0
"""Evaluations as a table for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from flashwam.run.evaluation import Evaluation, TaskNumbers
from flashwam.run.real_time import RealTime

__all__ = ["evaluation_lines"]


def evaluation_lines(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Writes evaluations as a table: a line per label and task, with success, its interval, errors and latency.

    Args:
        results: As `flashwam.evaluate` returns them.
    """
    lines = [f"{'evaluation':<28} {'success':>8}  {'95 % interval':<14} {'committed':>9} {'actT':>7} {'ms/chunk':>9}"]
    for one in (Evaluation.from_json(result, "an evaluation") for result in results):
        if one.real_time is not None:
            lines += _real_time_lines(one, one.real_time)
            continue
        open_loop = one.open_loop or {}
        lines.append(
            f"{one.label:<28} {_success(one.overall)} {_number(open_loop.get('action_error_teacher'), 7, 4)} "
            f"{_number(one.chunk_ms, 9, 1)}"
        )
        lines += [f"  {task:<26} {_success(numbers)}" for task, numbers in one.tasks.items()]
    return lines


def _real_time_lines(one: Evaluation, clock: RealTime) -> list[str]:
    lines = [
        f"{one.label}, {clock.meanwhile.replace('_', ' ')}, {clock.latency_ms:g} ms at {clock.control_hz:g} controls a "
        "second",
        f"{'':<28} {_success(one.overall)}",
    ]
    for task, numbers in one.tasks.items():
        seconds = numbers.task_seconds
        done = "" if seconds is None else f"   done in {seconds:.2f} s"
        lines.append(f"  {task:<26} {_success(numbers)}{done}")
    return lines


def _success(numbers: TaskNumbers | None) -> str:
    """Share, interval and commitment in their columns; dashes where nothing was driven."""
    if numbers is None:
        return f"{'-':>8}  {'-':<14} {'-':>9}"
    low, high = numbers.interval
    return f"{numbers.rate:>8.3f}  [{low:.3f}, {high:.3f}] {_number(numbers.commitment, 9, 2)}"


def _number(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:>{width}.{digits}f}"
