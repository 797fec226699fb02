# SPDX-License-Identifier: Apache-2.0
"""Evaluations as a table for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from flashwam.commands.recording_lines import recording_lines
from flashwam.run.evaluation import Evaluation, TaskNumbers
from flashwam.run.real_time import MEANWHILE, RealTime

__all__ = ["evaluation_lines"]


def evaluation_lines(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Writes evaluations as a table: a line per label and task, with success, its interval, errors and latency.

    Those of worlds that did not wait follow, with the seconds that a task took, and those on recorded episodes.

    Args:
        results: As `flashwam.evaluate` returns them.
    """
    found = [Evaluation.from_json(result, "an evaluation") for result in results]
    late = [line for one in found if one.real_time is not None for line in _real_time_lines(one, one.real_time)]
    late += [line for one in found if one.recordings is not None for line in recording_lines(one, one.recordings)]
    waited = [one for one in found if one.real_time is None and one.recordings is None]
    head = f"{'evaluation':<28} {'success':>8}  {'95 % interval':<14} {'committed':>9} {'actT':>7} {'ms/chunk':>9}"
    lines = [head] if waited else []
    for one in waited:
        open_loop = one.open_loop or {}
        lines.append(
            f"{one.label:<28} {_success(one.overall)} {_number(open_loop.get('action_error_teacher'), 7, 4)} "
            f"{_number(one.chunk_ms, 9, 1)}"
        )
        lines += [f"  {task:<26} {_success(numbers)}" for task, numbers in one.tasks.items()]
    return lines + late


def _real_time_lines(one: Evaluation, clock: RealTime) -> list[str]:
    habit = MEANWHILE.get(clock.meanwhile, clock.meanwhile)
    paced = f"{clock.latency_ms or 0:g} ms a chunk, {clock.control_hz:g} controls a second"
    lines = [f"{one.label}: the robot {habit} for {paced}"]
    for task, numbers in one.tasks.items():
        low, high = numbers.interval
        seconds = numbers.task_seconds
        done = "" if seconds is None else f"  done in {seconds:.2f} s"
        lines.append(f"  {task:<26} {numbers.rate:>8.3f}  [{low:.3f}, {high:.3f}]{done}")
    return lines


def _success(numbers: TaskNumbers | None) -> str:
    """Share, interval and commitment in their columns; dashes where nothing was driven."""
    if numbers is None:
        return f"{'-':>8}  {'-':<14} {'-':>9}"
    low, high = numbers.interval
    return f"{numbers.rate:>8.3f}  [{low:.3f}, {high:.3f}] {_number(numbers.commitment, 9, 2)}"


def _number(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:>{width}.{digits}f}"
