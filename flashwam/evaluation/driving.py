# SPDX-License-Identifier: Apache-2.0
"""Drives the tasks of an evaluation, and counts what became of their episodes."""

import logging
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

from flashwam.run.evaluation import TaskNumbers
from flashwam.sim.closed_loop import TaskResult

__all__ = ["drive_tasks", "overall_numbers", "task_numbers"]

logger = logging.getLogger(__name__)


def drive_tasks(drive_one: Callable[[str], TaskResult], tasks: Sequence[str], label: str) -> list[TaskResult]:
    """Drives tasks one after another, and logs how each went.

    Args:
        drive_one: Task -> its episodes.
        tasks: Their names.
        label: What is driven, for the log.
    """
    driven = []
    for task in tasks:
        driven.append(drive_one(task))
        logger.info("%s: %s %d/%d", label, task, sum(driven[-1].success), len(driven[-1].success))
    return driven


def task_numbers(driven: Sequence[TaskResult], *, control_hz: float | None = None) -> dict[str, TaskNumbers]:
    """Counts each task's episodes, and keeps every one's scene, success, way and motion, which comparisons relate.

    Args:
        driven: The tasks.
        control_hz: Controls of a second, where the world did not wait and its time counts.
    """
    return {
        result.task: replace(
            _numbers([result]),
            outcomes=tuple(int(success) for success in result.success),
            scenes=result.scenes or None,
            taken=result.ways if result.multimodal else None,
            motion=_similarities(result.motion),
            first_motion=_similarities(result.first_motion),
            lasted=None if control_hz is None else tuple(round(steps / control_hz, 4) for steps in result.steps),
        )
        for result in driven
    }


def overall_numbers(driven: Sequence[TaskResult]) -> TaskNumbers | None:
    """Counts the episodes of all tasks together; None where none were driven."""
    return _numbers(driven) if driven else None


def _numbers(results: Sequence[TaskResult]) -> TaskNumbers:
    success = [s for result in results for s in result.success]
    committed = [r.commitment for r in results if r.commitment is not None]
    return TaskNumbers(
        episodes=len(success),
        success=sum(success),
        commitment=statistics.fmean(committed) if committed else None,
        multimodal=any(r.multimodal for r in results),
        moving=any(r.moving for r in results),
        ways={str(way): sum(w == way for r in results for w in r.ways) for way in (-1, 0, 1)},
        steps=statistics.fmean(s for r in results for s in r.steps),
    )


def _similarities(values: Sequence[float]) -> tuple[float | None, ...]:
    return tuple(None if math.isnan(alike) else round(alike, 4) for alike in values)
