# SPDX-License-Identifier: Apache-2.0
"""Drives the tasks of an evaluation, and counts what became of their episodes."""

import logging
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from flashwam.evaluation.driven_tasks import DrivenTasks
from flashwam.run.evaluation import TaskNumbers
from flashwam.sim.closed_loop import TaskResult
from flashwam.system.durations import duration_text
from flashwam.system.errors import InputError

__all__ = ["drive_tasks", "overall_numbers", "task_numbers"]

logger = logging.getLogger(__name__)

_SHORT = 30
"""Seconds before which nobody asks how long it takes."""


def drive_tasks(
    drive_one: Callable[[str], TaskResult], tasks: Sequence[str], label: str, *, kept: DrivenTasks | None = None
) -> list[TaskResult]:
    """Drives tasks one after another, and logs how each went and how long the others will take.

    Args:
        drive_one: Task -> its episodes.
        tasks: Their names.
        label: What is driven, for the log.
        kept: Where what has been driven is kept until the result is written; nowhere if None.

    Raises:
        ValueError: A task is named twice, whose episodes would count twice.
    """
    if len(set(tasks)) != len(tasks):
        raise InputError(f"tasks must be different names; got {', '.join(tasks)}")
    there = {} if kept is None else {task: found for task in tasks if (found := kept.find(task)) is not None}
    if there:
        logger.info("%s: going on after %d of %d tasks", label, len(there), len(tasks))
    began, missing = time.monotonic(), [task for task in tasks if task not in there]
    for number, task in enumerate(missing, start=1):
        result = there[task] = drive_one(task)
        if kept is not None:
            kept.add(result)
        spent, waiting = time.monotonic() - began, len(missing) - number
        left = f", {duration_text(spent / number * waiting)} left" if waiting and spent > _SHORT else ""
        logger.info("%s: %s %d/%d%s", label, task, sum(result.success), len(result.success), left)
    return [there[task] for task in tasks]


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
