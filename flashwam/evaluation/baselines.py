# SPDX-License-Identifier: Apache-2.0
"""Evaluates what no model does, in the scenes that models are driven in: random actions below, the expert above."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from flashwam.evaluation.driven_tasks import DrivenTasks, driving
from flashwam.evaluation.driving import drive_tasks, overall_numbers, task_numbers
from flashwam.run.evaluation import Asked, Evaluation, measure_once
from flashwam.run.folder import RunFolder
from flashwam.run.model_info import ModelInfo, model_folder
from flashwam.sim.closed_loop import TaskResult, drive
from flashwam.sim.random_policy import RandomPolicy
from flashwam.sim.scripted import drive_expert
from flashwam.sim.simulators import driven_by, get_task
from flashwam.system.errors import InputError
from flashwam.system.imports import trusting
from flashwam.system.paths import user_path
from flashwam.system.provenance import provenance

__all__ = ["BASELINES", "evaluate_baseline"]


def evaluate_baseline(
    name: str,
    checkpoint: str | Path | None = None,
    *,
    episodes: int | None = None,
    tasks: Sequence[str] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    trust: bool = False,
) -> list[dict[str, Any]]:
    """Drives tasks without a model in the scenes of `evaluate`; what was measured before is read, not run again.

    Args:
        name: "random" for controls drawn evenly from all that the robot can do; "expert" for the scripted expert that
            demonstrates the tasks, undisturbed.
        checkpoint: A model's or a run's folder, whose recipe says what is not said here; None for none.
        episodes: Per task.
        tasks: Names.
        seed: Of episodes and actions.
        out: Folder for the result; `runs/<name>/evaluations` if None.
        trust: Import the classes that the model's files name beside ours.

    Returns:
        One result, as written.

    Raises:
        ValueError: No tasks are named, or there is no such baseline.
    """
    if name not in BASELINES:
        raise InputError(f"expected a baseline of {', '.join(BASELINES)}; got {name!r}")
    if checkpoint is not None:
        with trusting(trust):
            info = ModelInfo.read(model_folder(checkpoint))
            tasks, episodes = tasks or info.tasks, episodes or info.episodes
    if not tasks:
        raise InputError(f"{name} actions need tasks; give --tasks, such as reach-wall, or a model that names them")
    asked = Asked(tasks=tuple(tasks), episodes=episodes or 50)
    folder = user_path(out) if out is not None else RunFolder(Path("runs") / name).evaluations
    path = folder / f"{name}_seed{seed}.json"
    return [measure_once(path, asked, partial(_measure, name, asked, seed, path)).to_json()]


def _random(task: str, *, episodes: int, seed: int) -> TaskResult:
    return drive(RandomPolicy(get_task(task).controls), task, episodes=episodes, seed=seed)


BASELINES: dict[str, Callable[..., TaskResult]] = {"random": _random, "expert": drive_expert}
"""Name -> function of a task, its episodes and their seed."""


def _measure(name: str, asked: Asked, seed: int, path: Path) -> Evaluation:
    drive_one = partial(BASELINES[name], episodes=asked.episodes, seed=seed)
    kept = DrivenTasks(path, driving(asked, setting=name, sampler="own", precision="own", seed=seed))
    driven = drive_tasks(drive_one, asked.tasks, name, kept=kept)
    return Evaluation(
        run=name,
        kind="baseline",
        label=name,
        setting=name,
        nfe={},
        tasks=task_numbers(driven),
        overall=overall_numbers(driven),
        asked=asked,
        seed=seed,
        provenance=provenance(),
        more=driven_by(asked.tasks),
    )
