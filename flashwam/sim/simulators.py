# SPDX-License-Identifier: Apache-2.0
"""The simulators that small models are collected, trained and compared in, by the names of their tasks."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from flashwam.sim.contract import ScriptedEnvironment, Task
from flashwam.sim.libero.conventions import get_convention
from flashwam.sim.libero.scene_env import SceneEnv
from flashwam.sim.libero.scenes import SceneTask, is_scene
from flashwam.sim.libero.scenes import get_task as get_scene
from flashwam.sim.metaworld import MetaWorldEnv
from flashwam.sim.tasks import TaskSpec
from flashwam.sim.tasks import get_task as get_spec
from flashwam.system.errors import InputError

__all__ = ["driven_by", "episode_counts", "get_task", "make_env", "pooled_envs", "refuse_other_robots"]

_POOL: dict[tuple[Task, int], list[ScriptedEnvironment]] = {}


def get_task(name: str) -> Task:
    """Looks a task up by its name, in whichever simulator it is.

    Raises:
        ValueError: The name is unknown; the message names the nearest one.
    """
    return get_scene(name) if is_scene(name) else get_spec(name)


def episode_counts(names: Sequence[str], *, one_way: int, several_ways: int) -> dict[str, int]:
    """Task -> episodes that are asked of it, by whether it has one way or several."""
    return {name: several_ways if get_task(name).multimodal else one_way for name in names}


def refuse_other_robots(names: Sequence[str], *, controls: int, model: str, own: Sequence[str]) -> None:
    """Refuses tasks of another robot than a model's, before any is driven.

    Args:
        names: Of tasks.
        controls: That the model puts out.
        model: Its name, for the message.
        own: Names of the tasks that it names itself; those that no simulator here has are passed over.

    Raises:
        ValueError: A task is unknown, or its robot has another number of controls.
    """
    for task in map(get_task, names):
        if task.controls == controls:
            continue
        known: dict[str, list[str]] = {}
        for name in own:
            with suppress(InputError):
                known.setdefault(_simulator(get_task(name)), []).append(name)
        listed = "; ".join(f"of {simulator} {', '.join(tasks)}" for simulator, tasks in known.items())
        raise InputError(
            f"{task.name} is a task of {_simulator(task)}, whose robot has {task.controls} controls, and {model} has "
            f"{controls}: "
            + (f"it knows {listed}" if listed else f"name tasks with --tasks of a robot with {controls} controls")
        )


def _simulator(task: Task) -> str:
    return "LIBERO" if isinstance(task, SceneTask) else "MetaWorld"


def driven_by(names: Sequence[str]) -> dict[str, Any]:
    """The part of a result that says how tasks were driven: `simulator`, where that depends on a convention.

    Args:
        names: Of tasks.
    """
    scenes = [task for task in map(get_task, names) if isinstance(task, SceneTask)]
    if not scenes:
        return {}
    suites = ", ".join(sorted({task.suite for task in scenes}))
    instructions = {task.name: task.prompt for task in scenes}
    return {"simulator": {**get_convention("small").told(suites), "instructions": instructions}}


def make_env(task: Task, *, size: int = 64) -> ScriptedEnvironment:
    """Builds an environment of a task.

    Args:
        task: The task.
        size: Height of the pictures in pixels.

    Raises:
        ImportError: Its simulator is not installed.
        ValueError: It is no simulator's here.
    """
    if isinstance(task, SceneTask):
        return SceneEnv(task, size=size)
    if isinstance(task, TaskSpec):
        return MetaWorldEnv(task, size=size)
    raise ValueError(f"no simulator here has tasks that are {type(task).__name__}")


def pooled_envs(task: Task, count: int, *, size: int = 64) -> list[ScriptedEnvironment]:
    """Environments of a task, kept between calls: making one takes about as long as an episode of it.

    Args:
        task: The task.
        count: How many.
        size: Height of the pictures in pixels.

    Returns:
        `count` environments that the caller has to reset. They belong to the caller until the next call for the
        same task. Where more are kept than their tasks allow together, those of other tasks are dropped.
    """
    envs = _POOL.setdefault((task, size), [])
    while len(envs) < count:
        envs.append(make_env(task, size=size))
    for key in [key for key in _POOL if key != (task, size)]:
        if sum(len(kept) / one.together for (one, _), kept in _POOL.items()) > 1:
            for env in _POOL.pop(key):
                env.close()
    return envs[:count]
