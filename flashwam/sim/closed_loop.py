# SPDX-License-Identifier: Apache-2.0
"""Drives a policy in closed loop: many episodes of one task in lock-step, chunk after chunk.

Letters: B episodes, F latent frames of a chunk, N actions per latent frame, U controls.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from flashwam.core.scenes import evaluation_scene
from flashwam.data.codec import Codec
from flashwam.sampling import Rollout, StreamSampler
from flashwam.sim.metaworld import MetaWorldEnv, pooled_envs
from flashwam.sim.motion import motion_similarity
from flashwam.sim.tasks import TaskSpec, commitment, get_task
from flashwam.system.errors import InputError
from flashwam.wam.base import WorldActionModel

__all__ = ["ChunkPolicy", "LocalPolicy", "Sensor", "TaskResult", "drive", "run_task"]

_LEADING_CONTROLS = 8
_FILM_PICTURES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """The outcome of the episodes of one task.

    Args:
        task: Its name.
        multimodal: Whether several ways lead to success.
        success: Per episode.
        scenes: Per episode, the number of its scene (`flashwam.core.scenes`), by which models are paired.
        ways: Per episode, the way its hand took, -1 for none.
        commitment: Share of episodes whose first controls clearly leave to one side; None for ordinary tasks.
        steps: Control steps per episode.
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


class ChunkPolicy(Protocol):
    """The interface of a policy that can be driven: B episodes in lock-step, here or behind a server."""

    @property
    def batch(self) -> int | None:
        """Episodes that it runs at once; None for any number."""

    @property
    def per_frame(self) -> int:
        """N."""

    @property
    def chunks(self) -> int:
        """Chunks drawn so far."""

    @property
    def seconds(self) -> Mapping[str, float]:
        """Stage -> seconds spent so far."""

    def reset(self, prompt: str, frames: np.ndarray, *, seed: int, state: np.ndarray | None = None) -> None:
        """Begins B episodes: first pictures uint8 [B, H, W, 3], seed of the noise, the robot's state [B, S]."""

    def controls(self) -> np.ndarray:
        """Controls to execute now, float32 [B, F' * N, U]: those of the F' frames that are executed before the next
        call, all of a chunk that are not observed yet or fewer."""

    def foreseen(self) -> np.ndarray | None:
        """The picture imagined for the moment after these controls, uint8 [B, H, W, 3]; None where that is unknown."""

    def observe(self, pictures: np.ndarray, controls: np.ndarray, *, state: np.ndarray | None = None) -> None:
        """Pictures after every N controls, uint8 [B, F', H, W, 3], the robot's state then, [B, F', S], and what was
        executed, [B, F' * N, U]."""


class Sensor(Protocol):
    """Makes one of a model's senses of the pictures."""

    def reset(self) -> None:
        """Episodes begin."""

    def sense(self, pictures: np.ndarray) -> Tensor:
        """uint8 [B, F', H, W, 3] -> [B, numbers, F', 1, 1]."""


class LocalPolicy:
    """A model in this process.

    Args:
        wam: The model.
        samplers: How its streams are drawn.
        codec: Between world and model.
        sensors: Senses of the model beside the robot's state -> what makes them.

    Raises:
        ValueError: The model is told something that neither the simulator nor a sensor tells.
    """

    batch = None

    def __init__(
        self,
        wam: WorldActionModel,
        samplers: Mapping[str, StreamSampler],
        codec: Codec,
        *,
        sensors: Mapping[str, Sensor] = MappingProxyType({}),
    ) -> None:
        if not set(wam.senses) <= {"state", *sensors}:
            raise InputError(f"known are the robot's state and {list(sensors)}; the model is told {dict(wam.senses)}")
        self.per_frame = wam.shapes["action"][1]
        self.chunks = 0
        self.seconds: dict[str, float] = {}
        self._wam, self._samplers, self._codec, self._sensors = wam, samplers, codec, sensors
        self._first: Tensor | None = None
        self._last: Tensor | None = None

    def reset(self, prompt: str, frames: np.ndarray, *, seed: int, state: np.ndarray | None = None) -> None:
        """See `ChunkPolicy.reset`."""
        self._first = self._codec.video(frames[:, None])
        for sensor in self._sensors.values():
            sensor.reset()
        told = self._told(frames[:, None], None if state is None else state[:, None])
        self._rollout = Rollout(
            self._wam,
            self._samplers,
            text=self._codec.text(prompt).expand(len(frames), -1, -1),
            null_text=self._codec.text(""),
            first={"video": self._first, "action": self._padding(len(frames)), **told},
            generator=torch.Generator().manual_seed(seed),
        )

    def controls(self) -> np.ndarray:
        """See `ChunkPolicy.controls`."""
        before, executed = dict(self._rollout.seconds), self._rollout.executed
        drawn = self._rollout.predict()
        self.chunks += 1
        for name, seconds in self._rollout.seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds - before[name]
        self._last = drawn["video"][:, :, executed][:, :, -1:] if "video" in drawn else None
        return self._codec.controls(drawn["action"][:, :, executed])

    def foreseen(self) -> np.ndarray | None:
        """See `ChunkPolicy.foreseen`; None for a model that never draws the video."""
        return None if self._last is None else self._codec.pictures(self._last)[:, 0]

    def observe(self, pictures: np.ndarray, controls: np.ndarray, *, state: np.ndarray | None = None) -> None:
        """See `ChunkPolicy.observe`."""
        video = self._codec.video(pictures)
        executed = self._codec.executed(controls, self.per_frame)
        if self._first is not None:
            video = torch.cat([self._first, video], 2)
            executed = torch.cat([self._padding(len(pictures)), executed], 2)
            self._first = None
        self._rollout.observe({"video": video, "action": executed, **self._told(pictures, state)})

    def _told(self, pictures: np.ndarray, state: np.ndarray | None) -> dict[str, Tensor]:
        """The model's senses, of pictures [B, F, H, W, 3] and the robot's state [B, F, S]."""
        told = {name: sensor.sense(pictures) for name, sensor in self._sensors.items()}
        if "state" not in self._wam.senses or state is None:
            return told
        size = self._wam.senses["state"]
        if state.shape[-1] != size:
            raise InputError(f"the model is told {size} numbers of the robot's state; got {state.shape[-1]}")
        return {**told, "state": torch.from_numpy(state.astype(np.float32)).transpose(1, 2)[..., None, None]}

    def _padding(self, episodes: int) -> Tensor:
        channels, per_frame, _ = self._wam.shapes["action"]
        return torch.zeros(episodes, channels, 1, per_frame, 1)


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
    """`drive` for a model in this process.

    Args:
        wam: The model.
        samplers: How its streams are drawn.
        codec: Between world and model.
        task: A task or its name.
        episodes: B.
        seed: Chooses the evaluation seeds and the noise.
        size: Pixels of a picture's side.
    """
    return drive(LocalPolicy(wam, samplers, codec), task, episodes=episodes, seed=seed, size=size)


def drive(
    policy: ChunkPolicy,
    task: TaskSpec | str,
    *,
    episodes: int,
    seed: int = 0,
    size: int = 64,
    scenes: Sequence[int] | None = None,
    seen_as: Callable[[MetaWorldEnv], Any] = lambda env: env,
) -> TaskResult:
    """Runs `episodes` episodes whose seeds no demonstration has.

    The first chunk has the observation as its frame 0 and executes what follows it; every chunk is executed whole,
    then replanned from what was seen and done. A policy that runs fewer at once gets one group after another; the
    scenes are the same, the noise is drawn anew for each group.

    Args:
        policy: What is driven.
        task: A task or its name.
        episodes: How many.
        seed: Chooses the evaluation seeds and the noise.
        size: Pixels of a picture's side.
        scenes: The scene of every episode; those of the evaluation of that seed if None.
        seen_as: What stands between policy and environment, such as one that records.
    """
    task = get_task(task) if isinstance(task, str) else task
    if scenes is None:
        scenes = [evaluation_scene(seed, episode) for episode in range(episodes)]
    if len(scenes) != episodes:
        raise ValueError(f"expected a scene for each of {episodes} episodes; got {len(scenes)}")
    before, chunks = dict(policy.seconds), policy.chunks
    group = episodes if policy.batch is None else policy.batch
    success: list[bool] = []
    ways: list[int] = []
    steps: list[int] = []
    starts: list[np.ndarray] = []
    environment_seconds = 0.0
    imagined: list[_Imagined] = []
    for begin in range(0, episodes, group):
        envs = [seen_as(env) for env in pooled_envs(task, min(group, episodes - begin), size=size)]
        clock = time.perf_counter()
        frames = np.stack([env.reset(scenes[begin + i]) for i, env in enumerate(envs)])
        environment_seconds += time.perf_counter() - clock
        felt = np.stack([env.proprioception for env in envs])
        policy.reset(task.prompt, frames, seed=1_000_003 * seed + 17 + begin, state=felt)
        leading, beside, seconds = _run(policy, envs, frames)
        environment_seconds += seconds
        if beside is not None:
            imagined.append(beside)
        success += [bool(env.success) for env in envs]
        ways += [env.way() for env in envs]
        steps += [env.steps for env in envs]
        # Means, because a group whose episodes ended early has fewer controls than another.
        start = np.concatenate(leading, 1)[:, :_LEADING_CONTROLS, 0]
        starts.append(start.astype(np.float64).mean(1, keepdims=True))
    committed = commitment(np.concatenate(starts), threshold=task.commit_threshold)[0] if task.multimodal else None
    return TaskResult(
        task=task.name,
        multimodal=task.multimodal,
        success=tuple(success),
        ways=tuple(ways),
        commitment=committed,
        steps=tuple(steps),
        chunks=policy.chunks - chunks,
        seconds={name: seconds - before.get(name, 0.0) for name, seconds in policy.seconds.items()},
        environment_seconds=environment_seconds,
        scenes=tuple(scenes),
        motion=tuple(float(value) for one in imagined for value in one.similarity()),
        first_motion=tuple(float(value) for one in imagined for value in one.similarity(chunks=1)),
        film=imagined[0].film() if imagined else None,
    )


def _run(
    policy: ChunkPolicy, envs: list[Any], frames: np.ndarray
) -> tuple[list[np.ndarray], "_Imagined | None", float]:
    """Drives episodes that have begun to their ends: controls of every chunk, what was imagined beside what was seen
    (None where the policy does not show it), and seconds of physics and pictures."""
    running = np.ones(len(envs), dtype=bool)
    leading: list[np.ndarray] = []
    beside, seconds = _Imagined(frames), 0.0
    while True:
        controls = policy.controls()
        leading.append(controls)
        foreseen = policy.foreseen()
        clock = time.perf_counter()
        seen, felt = _execute(envs, controls, running, policy.per_frame)
        seconds += time.perf_counter() - clock
        if not running.any():
            return leading, beside if foreseen is not None else None, seconds
        if foreseen is not None:
            beside.compare(foreseen, seen[:, -1], running)
        policy.observe(seen, controls, state=felt)


class _Imagined:
    """The imagined pictures of a group of episodes beside the real ones.

    Args:
        frames: Their first pictures, uint8 [B, H, W, 3].
    """

    def __init__(self, frames: np.ndarray) -> None:
        self._before = frames
        self._compared: list[np.ndarray] = []
        self._pictures: list[np.ndarray] = []

    def compare(self, foreseen: np.ndarray, actual: np.ndarray, running: np.ndarray) -> None:
        """One chunk: pictures uint8 [B, H, W, 3] for its end, and which episodes [B] still run there."""
        foreseen = _resized(foreseen, actual.shape[1:3])
        alike = np.full(len(actual), np.nan)
        alike[running] = motion_similarity(self._before[running], foreseen[running], actual[running])
        self._compared.append(alike)
        if running[0] and len(self._pictures) < _FILM_PICTURES:
            self._pictures.append(np.stack([actual[0], foreseen[0]]))
        self._before = actual

    def similarity(self, *, chunks: int | None = None) -> np.ndarray:
        """[B], mean over those of the first `chunks` (all if None) that moved; NaN where none did."""
        compared = np.stack([np.full(len(self._before), np.nan), *self._compared[:chunks]])
        moved = np.isfinite(compared)
        total = np.where(moved, compared, 0).sum(0)
        return np.divide(total, moved.sum(0), out=np.full(len(total), np.nan), where=moved.any(0))

    def film(self) -> np.ndarray | None:
        """[2, K, H, W, 3]."""
        return np.stack(self._pictures, 1) if self._pictures else None


def _resized(pictures: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [B, H, W, 3] at the simulator's size, for a codec that works at another."""
    if pictures.shape[1:3] == size:
        return pictures
    values = torch.from_numpy(pictures).movedim(-1, 1).float()
    values = torch.nn.functional.interpolate(values, size=size, mode="area")
    return values.round().to(torch.uint8).movedim(1, -1).numpy()


def _execute(
    envs: list[MetaWorldEnv], controls: np.ndarray, running: np.ndarray, per_frame: int
) -> tuple[np.ndarray, np.ndarray]:
    """Executes [B, F * N, U] and returns the picture after every N controls, [B, F, H, W, 3], and the robot's state
    then, [B, F, S]; ended episodes rest."""
    frames = controls.shape[1] // per_frame
    size = envs[0].size
    seen = np.zeros((len(envs), frames, size, size, 3), dtype=np.uint8)
    felt = np.zeros((len(envs), frames, len(envs[0].proprioception)))
    for i, env in enumerate(envs):
        for frame in range(frames):
            for n in range(per_frame):
                if running[i]:
                    done, _, _ = env.step(controls[i, frame * per_frame + n])
                    running[i] = not done
            if running[i]:
                seen[i, frame], felt[i, frame] = env.render(), env.proprioception
    return seen, felt
