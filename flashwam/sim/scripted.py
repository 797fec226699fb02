# SPDX-License-Identifier: Apache-2.0
"""Drives the scripted expert through evaluation scenes: what the demonstrations show, undisturbed."""

import numpy as np

from flashwam.core.scenes import evaluation_scene
from flashwam.sim.closed_loop import Ends, TaskResult
from flashwam.sim.simulators import get_task, pooled_envs
from flashwam.sim.ways import toss_way

__all__ = ["drive_expert"]


def drive_expert(task: str, *, episodes: int, seed: int = 0) -> TaskResult:
    """Runs the expert in the scenes of `flashwam.sim.closed_loop.drive`, each way of a task equally often.

    Args:
        task: Its name.
        episodes: How many.
        seed: Chooses the scenes, and which episode takes which way.

    Raises:
        ValueError: There is no such task, or it is not of a kind that the expert does.
    """
    spec = get_task(task)
    (env,) = pooled_envs(spec, 1, size=64)
    scenes = [evaluation_scene(seed, episode) for episode in range(episodes)]
    ends = Ends(spec)
    for episode, scene in enumerate(scenes):
        env.reset(scene, render=False)
        expert = env.expert(toss_way(spec, episode, seed))
        controls, over = [], False
        while not over:
            controls.append(expert())
            over, _, _ = env.step(controls[-1])
        ends.add([env], np.stack(controls)[None])
    return ends.result(scenes, chunks=0)
