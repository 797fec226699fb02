# SPDX-License-Identifier: Apache-2.0
"""Evaluates random actions on the tasks and scenes of models, as the baseline of a comparison."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from flashwam.evaluation.driving import drive_tasks, overall_numbers, task_numbers
from flashwam.run.evaluation import Asked, Evaluation, measure_once
from flashwam.run.folder import RunFolder
from flashwam.run.model_info import ModelInfo, model_folder
from flashwam.sim.closed_loop import TaskResult, drive
from flashwam.sim.random_policy import RandomPolicy
from flashwam.sim.simulators import driven_by, get_task
from flashwam.system.errors import InputError
from flashwam.system.imports import trusting
from flashwam.system.paths import user_path
from flashwam.system.provenance import provenance

__all__ = ["evaluate_random"]

_NAME = "random"


def evaluate_random(
    checkpoint: str | Path | None = None,
    *,
    episodes: int | None = None,
    tasks: Sequence[str] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    trust: bool = False,
) -> list[dict[str, Any]]:
    """Drives tasks with random actions in the scenes of `evaluate`; what was measured before is read, not run again.

    Args:
        checkpoint: A model's or a run's folder, whose recipe says what is not said here; None for none.
        episodes: Per task.
        tasks: Names.
        seed: Of episodes and actions.
        out: Folder for the result; `runs/random/evaluations` if None.
        trust: Import the classes that the model's files name beside ours.

    Returns:
        One result, as written.

    Raises:
        ValueError: No tasks are named.
    """
    if checkpoint is not None:
        with trusting(trust):
            info = ModelInfo.read(model_folder(checkpoint))
            tasks, episodes = tasks or info.tasks, episodes or info.episodes
    if not tasks:
        raise InputError("random actions need tasks; give --tasks, such as reach-wall, or a model that names them")
    asked = Asked(tasks=tuple(tasks), episodes=episodes or 50)
    folder = user_path(out) if out is not None else RunFolder(Path("runs") / _NAME).evaluations
    return [measure_once(folder / f"{_NAME}_seed{seed}.json", asked, partial(_measure, asked, seed)).to_json()]


def _measure(asked: Asked, seed: int) -> Evaluation:
    def drive_one(task: str) -> TaskResult:
        policy = RandomPolicy(get_task(task).controls)
        return drive(policy, task, episodes=asked.episodes, seed=seed)

    driven = drive_tasks(drive_one, asked.tasks, _NAME)
    return Evaluation(
        run=_NAME,
        kind="baseline",
        label=_NAME,
        setting=_NAME,
        nfe={},
        tasks=task_numbers(driven),
        overall=overall_numbers(driven),
        asked=asked,
        seed=seed,
        provenance=provenance(),
        more=driven_by(asked.tasks),
    )
