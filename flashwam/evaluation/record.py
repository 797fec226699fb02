# SPDX-License-Identifier: Apache-2.0
"""One evaluation as a JSON file: what it holds of closed-loop episodes, and that nothing is measured twice."""

import json
import logging
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flashwam.core.stats import wilson
from flashwam.sim.closed_loop import TaskResult
from flashwam.system.errors import InputError
from flashwam.system.files import write_whole
from flashwam.system.json_file import read_mapping
from flashwam.system.provenance import provenance

__all__ = ["drive_tasks", "measure_once", "measurement", "write_measurement"]

logger = logging.getLogger(__name__)


def measure_once(path: Path, asked: Mapping[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Reads a measurement, or makes and writes it where there is none.

    Args:
        path: Its file.
        asked: What is to be measured, as its "asked" says.
        measure: Makes it.

    Raises:
        ValueError: The file holds a measurement of something else, which is not overwritten.
    """
    if path.is_file():
        result = read_mapping(path, finite=False)
        if result.get("asked") != asked:
            raise InputError(
                f"{path} holds a measurement of {result.get('asked')}, not of {asked}; give another out= folder"
            )
        logger.info("%s was measured before", path)
        return result
    result = measure()
    write_measurement(path, result)
    return result


def write_measurement(path: Path, result: Mapping[str, Any]) -> None:
    """Writes a file that is there whole or not at all."""
    write_whole(path, (json.dumps(result, indent=1) + "\n").encode())


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


def measurement(name: str, setting: str, driven: Sequence[TaskResult], **rest: Any) -> dict[str, Any]:
    """What the file of an evaluation holds.

    Args:
        name: The run's.
        setting: Steps as they were asked for, such as "1v/2a".
        driven: Episodes by task; none where only the open loop was measured.
        rest: What this kind of evaluation knows beside, which goes before what is here.
    """
    known = {
        "label": f"{name} {setting}",
        "run": name,
        "setting": setting,
        "sampler": "own",
        "tasks": {result.task: _task_numbers([result]) | _episode_numbers(result) for result in driven},
        "overall": _task_numbers(driven) if driven else None,
        "open_loop": None,
        "strip": None,
        "film": None,
        "provenance": provenance(),
    }
    return known | rest


def _task_numbers(results: Sequence[TaskResult]) -> dict[str, Any]:
    """Success with its interval, commitment, ways and length of the episodes of one or several tasks."""
    success = [s for result in results for s in result.success]
    committed = [r.commitment for r in results if r.commitment is not None]
    low, high = wilson(sum(success), len(success))
    return {
        "episodes": len(success),
        "success": sum(success),
        "wilson": [low, high],
        "commitment": statistics.fmean(committed) if committed else None,
        "multimodal": any(r.multimodal for r in results),
        "ways": {str(way): sum(w == way for r in results for w in r.ways) for way in (-1, 0, 1)},
        "steps": statistics.fmean(s for r in results for s in r.steps),
    }


def _episode_numbers(result: TaskResult) -> dict[str, Any]:
    """Success and motion similarity of every episode, so that a comparison can relate the two."""

    def plain(values: Sequence[float]) -> list[float | None]:
        return [None if math.isnan(alike) else round(alike, 4) for alike in values]

    return {
        "outcomes": [int(success) for success in result.success],
        "motion": plain(result.motion),
        "first_motion": plain(result.first_motion),
    }
