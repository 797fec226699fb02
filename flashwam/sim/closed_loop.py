# SPDX-License-Identifier: Apache-2.0
"""Drives a policy in closed loop: many episodes of one task in lock-step, chunk after chunk.

Letters: B episodes, F latent frames of a chunk, N actions per latent frame, U controls.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from flashwam.core.scenes import evaluation_scene, noise_seed
from flashwam.data.codec import Codec
from flashwam.sampling import StreamSampler
from flashwam.sim.chunk_policy import ChunkPolicy
from flashwam.sim.contract import ScriptedEnvironment, Task
from flashwam.sim.imagined import Imagined
from flashwam.sim.local_policy import LocalPolicy
from flashwam.sim.pace import Pace
from flashwam.sim.simulators import get_task, pooled_envs
from flashwam.sim.ways import chosen_ways
from flashwam.sim.world import World
from flashwam.system.errors import InputError
from flashwam.wam.base import WorldActionModel

__all__ = ["Ends", "TaskResult", "drive", "run_task"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """The outcome of the episodes of one task.

    Args:
        task: Its name.
        multimodal: Whether several ways lead to success.
        moving: Whether the scene goes on by itself.
        success: Per episode.
        scenes: Per episode, the number of its scene (`flashwam.core.scenes`), by which models are paired.
        ways: Per episode, the way its hand took, -1 for none.
        commitment: Share of episodes whose first controls clearly leave to one side; None for ordinary tasks.
        steps: Control steps per episode, those of waiting included.
        chunks: Chunks drawn, all episodes in lock-step.
        seconds: Stage -> seconds spent on it, such as "video".
        environment_seconds: Seconds of physics and pictures.
        motion: Per episode, how alike the imagined and the real motion were, in [-1, 1], mean over its chunks; NaN
            where nothing moved or nothing was imagined. Empty where the policy does not show what it imagines.
        first_motion: The same of the first chunk alone, before anything can have gone wrong.
        film: Of the first episode, the picture after each chunk, real ones above imagined ones,
            uint8 [2, K, H, W, 3]; None like `motion`.
    """

    task: str
    multimodal: bool
    success: tuple[bool, ...]
    ways: tuple[int, ...]
    commitment: float | None
    steps: tuple[int, ...]
    chunks: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    environment_seconds: float = 0.0
    scenes: tuple[int, ...] = ()
    motion: tuple[float, ...] = ()
    first_motion: tuple[float, ...] = ()
    film: np.ndarray | None = None
    moving: bool = False


class Ends:
    """The ends of one task's episodes, as they come.

    Args:
        task: The task.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._success: list[bool] = []
        self._ways: list[int] = []
        self._steps: list[int] = []
        self._chosen: list[np.ndarray] = []

    def add(self, envs: Sequence[ScriptedEnvironment], controls: np.ndarray) -> None:
        """Takes in episodes that have ended, with what they were driven by from their beginning on, [B, T, U]."""
        self._success += [bool(env.success) for env in envs]
        self._ways += [env.way() for env in envs]
        self._steps += [env.steps for env in envs]
        self._chosen.append(chosen_ways(controls, self._task))

    def result(self, scenes: Sequence[int], *, chunks: int, **more: Any) -> TaskResult:
        """Gives the result of all of them, with further fields of it."""
        several = self._task.multimodal
        return TaskResult(
            task=self._task.name,
            multimodal=several,
            moving=self._task.moving,
            success=tuple(self._success),
            ways=tuple(self._ways),
            commitment=float((np.concatenate(self._chosen) >= 0).mean()) if several else None,
            steps=tuple(self._steps),
            chunks=chunks,
            scenes=tuple(scenes),
            **more,
        )


def run_task(
    wam: WorldActionModel,
    samplers: Mapping[str, StreamSampler],
    codec: Codec,
    task: Task | str,
    *,
    episodes: int,
    seed: int = 0,
    size: int = 64,
    pace: Pace | None = None,
) -> TaskResult:
    """`drive` for a model in this process.

    Args:
        wam: The model.
        samplers: How its streams are drawn.
        codec: Between world and model.
        task: A task or its name.
        episodes: B.
        seed: Chooses the evaluation seeds and the noise.
        size: Pixels of a picture's side.
        pace: Of the world; one that waits if None.
    """
    return drive(LocalPolicy(wam, samplers, codec), task, episodes=episodes, seed=seed, size=size, pace=pace)


def drive(
    policy: ChunkPolicy,
    task: Task | str,
    *,
    episodes: int,
    seed: int = 0,
    size: int = 64,
    scenes: Sequence[int] | None = None,
    seen_as: Callable[[ScriptedEnvironment], Any] = lambda env: env,
    pace: Pace | None = None,
) -> TaskResult:
    """Runs `episodes` episodes whose seeds no demonstration has.

    The first chunk has the observation as its frame 0 and executes what follows it; every chunk is executed whole,
    then replanned from what was seen and done. A policy that runs fewer at once gets one group after another; the
    scenes are the same, the noise is drawn anew for each group. Where a world is given a pace, every chunk comes late.

    Args:
        policy: What is driven.
        task: A task or its name.
        episodes: How many.
        seed: Chooses the evaluation seeds and the noise.
        size: Pixels of a picture's side.
        scenes: The scene of every episode; those of the evaluation of that seed if None.
        seen_as: What stands between policy and environment, such as one that records.
        pace: Of the world; one that waits for the policy if None.

    Raises:
        ValueError: There is no such task, its robot is to be faster than it is simulated, or scenes are not as many as
            episodes.
    """
    task, pace = _paced(get_task(task) if isinstance(task, str) else task, pace)
    if scenes is None:
        scenes = [evaluation_scene(seed, episode) for episode in range(episodes)]
    if len(scenes) != episodes:
        raise ValueError(f"expected a scene for each of {episodes} episodes; got {len(scenes)}")
    before, chunks = dict(policy.seconds), policy.chunks
    group = min(episodes if policy.batch is None else policy.batch, task.together)
    ends = Ends(task)
    environment_seconds = 0.0
    imagined: list[Imagined] = []
    for begin in range(0, episodes, group):
        envs = [seen_as(env) for env in pooled_envs(task, min(group, episodes - begin), size=size)]
        world = World(envs, policy.per_frame)
        frames = world.reset(scenes[begin : begin + len(envs)])
        policy.reset(task.prompt, frames, seed=noise_seed(seed, begin), state=world.felt)
        drawn, beside = _run(policy, world, frames, pace)
        environment_seconds += world.seconds
        if beside is not None:
            imagined.append(beside)
        ends.add(envs, np.concatenate(drawn, 1))
    return ends.result(
        scenes,
        chunks=policy.chunks - chunks,
        seconds={name: seconds - before.get(name, 0.0) for name, seconds in policy.seconds.items()},
        environment_seconds=environment_seconds,
        motion=tuple(float(value) for one in imagined for value in one.similarity()),
        first_motion=tuple(float(value) for one in imagined for value in one.similarity(chunks=1)),
        film=imagined[0].film() if imagined else None,
    )


def _paced(task: Task, pace: Pace | None) -> tuple[Task, Pace]:
    """The task with the limit that a pace gives it, and the pace: one that waits if None."""
    pace = pace or Pace(control_hz=task.control_hz)
    if pace.control_hz > task.control_hz:
        raise InputError(
            f"{task.name} is simulated at {task.control_hz} controls a second, which its robot cannot exceed; got "
            f"{pace.control_hz:g}: give --control-hz {task.control_hz}, or less for a slower robot"
        )
    return task if task.moving else replace(task, max_steps=pace.limit(task.max_steps)), pace


def _run(policy: ChunkPolicy, world: World, frames: np.ndarray, pace: Pace) -> tuple[list[np.ndarray], Imagined | None]:
    """Drives episodes that have begun to their ends: controls of every chunk, and what was imagined beside what was
    seen, None where the policy does not show it."""
    controls, foreseen = policy.controls(), policy.foreseen()
    drawn, beside = [controls], Imagined(frames)
    world.hold(pace.controls)
    late = world.nothing
    while world.running.any():
        under_way = pace.under_way(controls.shape[1] // policy.per_frame, policy.per_frame)
        split = controls.shape[1] - under_way * policy.per_frame
        seen = world.execute(controls[:, :split])
        if not world.running.any():
            break
        if foreseen is not None and not under_way:
            beside.compare(foreseen, seen.pictures[:, -1], world.running)
        told = late.then(seen)
        policy.observe(told.pictures, controls, state=told.felt, under_way=under_way)
        following, expected = policy.controls(), policy.foreseen()
        drawn.append(following)
        late = world.execute(controls[:, split:])
        if foreseen is not None and under_way and world.running.any():
            beside.compare(foreseen, late.pictures[:, -1], world.running)
        world.hold(pace.controls - controls.shape[1] + split)
        controls, foreseen = following, expected
    return drawn, beside if foreseen is not None else None
