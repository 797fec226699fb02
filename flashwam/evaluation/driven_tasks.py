# SPDX-License-Identifier: Apache-2.0
"""Tasks of an evaluation that have been driven, kept until its result is written, so that one which was stopped goes
on with the next task."""

import json
import logging
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from flashwam.run.evaluation import Asked, unfinished_folder
from flashwam.sim.closed_loop import TaskResult
from flashwam.sim.simulators import driven_by
from flashwam.system.files import whole_file, write_whole
from flashwam.system.json_file import read_mapping

__all__ = ["DrivenTasks", "driving"]

logger = logging.getLogger(__name__)


_MEASURED = ".measured.json"
"""No task has this name."""


def driving(asked: Asked, *, setting: str, sampler: str, precision: str, seed: int) -> dict[str, Any]:
    """Names what decides how the episodes of an evaluation go, as plain values."""
    tasks = asked.tasks if asked.closed_loop else ()
    about = {"setting": setting, "sampler": sampler, "precision": precision, "seed": seed}
    return {"asked": asked.to_json(), **about, **driven_by(tasks)}


class DrivenTasks:
    """A file for each task, beside the result that is to be.

    Args:
        result: Path of the result.
        about: What decides how episodes go, as plain values. What was driven otherwise is driven anew.
    """

    def __init__(self, result: Path, about: Mapping[str, Any]) -> None:
        self.folder = unfinished_folder(result)
        # As it will be read.
        self.about = json.loads(json.dumps(about))

    def find(self, task: str) -> TaskResult | None:
        """The outcome of a task that has been driven; None where it has not, or otherwise."""
        path = self._path(task)
        if not path.is_file():
            return None
        told = read_mapping(path, finite=False)
        if told["about"] != self.about:
            logger.info("%s was driven otherwise: it is driven anew", path)
            return None
        film = path.with_suffix(".npy")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in told["result"].items()
        }
        return TaskResult(**values, film=np.load(film, allow_pickle=False) if told["film"] else None)

    def add(self, result: TaskResult) -> None:
        """Keeps the outcome of a task."""
        path = self._path(result.task)
        path.parent.mkdir(parents=True, exist_ok=True)
        if result.film is not None:
            with whole_file(path.with_suffix(".npy")) as building, building.open("wb") as file:
                np.save(file, result.film, allow_pickle=False)
        told = asdict(replace(result, film=None))
        del told["film"]
        content = {"about": self.about, "film": result.film is not None, "result": told}
        write_whole(path, json.dumps(content) + "\n")

    def measured(self, measure: Callable[[], float]) -> float:
        """A number that episodes depend on and that is measured before them: on this machine once, until the result is
        written."""
        path, about = self.folder / _MEASURED, {**self.about, "machine": platform.node()}
        told = read_mapping(path, finite=False) if path.is_file() else {}
        if told.get("about") == about:
            found: float = told["measured"]
            return found
        number = measure()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({"about": about, "measured": number}) + "\n")
        return number

    def _path(self, task: str) -> Path:
        return self.folder / f"{task}.json"
