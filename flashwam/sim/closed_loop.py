# SPDX-License-Identifier: Apache-2.0
"""Drives a policy in closed loop: many episodes of one task in lock-step, chunk after chunk.

Letters: B episodes, F latent frames of a chunk, N actions per latent frame, U controls.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from flashwam.data.codec import Codec
from flashwam.sampling import Rollout, StreamSampler
from flashwam.sim.metaworld import EVAL_SEED_BASE, MetaWorldEnv, pooled_envs
from flashwam.sim.tasks import TaskSpec, commitment, get_task
from flashwam.wam.base import WorldActionModel

__all__ = ["TaskResult", "run_task"]

_LEADING_CONTROLS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """What became of the episodes of one task.

    Args:
        task: Its name.
        multimodal: Whether several ways lead to success.
        success: Per episode.
        ways: Per episode, the way its hand took, -1 for none.
        commitment: Share of episodes whose first controls clearly leave to one side; None for ordinary tasks.
        steps: Control steps per episode.
        chunks: Chunks drawn, all episodes in lock-step.
        seconds: Stream name -> seconds spent drawing it.
        environment_seconds: Seconds of physics and pictures.
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


def run_task(
    wam: WorldActionModel,
    samplers: Mapping[str, StreamSampler],
    codec: Codec,
    task: TaskSpec | str,
    *,
    episodes: int,
    seed: int = 0,
    size: int = 64,
) -> TaskResult:
    """Runs `episodes` episodes whose seeds no demonstration has.

    The first chunk has the observation as its frame 0 and executes what follows it; every chunk is executed whole,
    then replanned from what was seen and done.

    Args:
        wam: The model.
        samplers: How its streams are drawn.
        codec: Between world and model.
        task: A task or its name.
        episodes: B.
        seed: Chooses the evaluation seeds and the noise.
        size: Pixels of a picture's side.
    """
    task = get_task(task) if isinstance(task, str) else task
    envs = pooled_envs(task, episodes, size=size)
    clock = time.perf_counter()
    frames = np.stack([env.reset(EVAL_SEED_BASE + 10_000 * seed + i) for i, env in enumerate(envs)])
    environment_seconds = time.perf_counter() - clock
    per_frame = wam.shapes["action"][1]
    first = codec.video(frames[:, None])
    channels = wam.shapes["action"][0]
    rollout = Rollout(
        wam,
        samplers,
        text=codec.text(task.prompt).expand(episodes, -1, -1),
        null_text=codec.text(""),
        first={"video": first, "action": first.new_zeros(episodes, channels, 1, per_frame, 1)},
        generator=torch.Generator().manual_seed(1_000_003 * seed + 17),
    )
    running = np.ones(episodes, dtype=bool)
    leading: list[np.ndarray] = []
    held = 1
    while running.any():
        drawn = rollout.predict()
        controls = codec.controls(drawn["action"][:, :, held:])
        leading.append(controls)
        clock = time.perf_counter()
        seen = _execute(envs, controls, running, per_frame)
        environment_seconds += time.perf_counter() - clock
        video = codec.video(seen)
        executed = codec.executed(controls, per_frame)
        if held:
            video = torch.cat([first, video], 2)
            executed = torch.cat([executed.new_zeros(episodes, channels, held, per_frame, 1), executed], 2)
        rollout.observe({"video": video, "action": executed})
        held = 0
    start = np.concatenate(leading, 1)[:, :_LEADING_CONTROLS, 0]
    return TaskResult(
        task=task.name,
        multimodal=task.multimodal,
        success=tuple(bool(env.success) for env in envs),
        ways=tuple(env.way() for env in envs),
        commitment=commitment(start, threshold=task.commit_threshold)[0] if task.multimodal else None,
        steps=tuple(env.steps for env in envs),
        chunks=rollout.chunks,
        seconds=dict(rollout.seconds),
        environment_seconds=environment_seconds,
    )


def _execute(envs: list[MetaWorldEnv], controls: np.ndarray, running: np.ndarray, per_frame: int) -> np.ndarray:
    """Executes [B, F * N, U] and returns the picture after every N controls, [B, F, H, W, 3]; ended episodes rest."""
    frames = controls.shape[1] // per_frame
    size = envs[0].size
    seen = np.zeros((len(envs), frames, size, size, 3), dtype=np.uint8)
    for i, env in enumerate(envs):
        for frame in range(frames):
            for n in range(per_frame):
                if running[i]:
                    done, _, _ = env.step(controls[i, frame * per_frame + n])
                    running[i] = not done
            if running[i]:
                seen[i, frame] = env.render()
    return seen
