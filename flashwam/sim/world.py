# SPDX-License-Identifier: Apache-2.0
"""Several environments in lock-step, and what is seen and felt in them.

Letters: B episodes, F latent frames, N controls per latent frame, U controls, S numbers of the robot's state.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from flashwam.sim.contract import ScriptedEnvironment

__all__ = ["Seen", "World"]

_OPEN = -1.0
"""Effort of the gripper that a reset leaves behind."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Pictures of the world and the robot's state after every N controls.

    Args:
        pictures: uint8 [B, F, H, W, 3].
        felt: The robot's state then, [B, F, S].
    """

    pictures: np.ndarray
    felt: np.ndarray

    def then(self, later: Self) -> "Seen":
        """This, and what followed."""
        pictures = np.concatenate([self.pictures, later.pictures], 1)
        return Seen(pictures, np.concatenate([self.felt, later.felt], 1))


class World:
    """B environments that are stepped together; ended episodes rest.

    Args:
        envs: Of one task.
        per_frame: N.

    Attributes:
        running: Episodes that have not ended, [B].
        seconds: Spent on physics and pictures.
    """

    def __init__(self, envs: Sequence[ScriptedEnvironment], per_frame: int) -> None:
        self.running = np.ones(len(envs), dtype=bool)
        self.seconds = 0.0
        self._envs, self._per_frame = envs, per_frame
        self._rest = np.zeros((len(envs), envs[0].task.controls))
        self._rest[:, -1] = _OPEN
        self._picture: tuple[int, ...] = ()

    def reset(self, scenes: Sequence[int]) -> np.ndarray:
        """Begins an episode in every scene: the first pictures, uint8 [B, H, W, 3]."""
        clock = time.perf_counter()
        frames = np.stack([env.reset(scene) for env, scene in zip(self._envs, scenes, strict=True)])
        self._picture = frames.shape[1:]
        self.seconds += time.perf_counter() - clock
        return frames

    @property
    def felt(self) -> np.ndarray:
        """The robot's state now, [B, S]."""
        return np.stack([env.proprioception for env in self._envs])

    @property
    def nothing(self) -> Seen:
        """No frames."""
        return self._unseen(0)

    def execute(self, controls: np.ndarray) -> Seen:
        """Executes [B, F * N, U]; there is nothing to see of an episode that has ended."""
        clock = time.perf_counter()
        frames = controls.shape[1] // self._per_frame
        seen = self._unseen(frames)
        for i, env in enumerate(self._envs):
            for frame in range(frames):
                for n in range(self._per_frame):
                    self._step(i, controls[i, frame * self._per_frame + n])
                if self.running[i]:
                    seen.pictures[i, frame], seen.felt[i, frame] = env.render(), env.proprioception
        if frames:
            self._rest[:, -1] = controls[:, -1, -1]
        self.seconds += time.perf_counter() - clock
        return seen

    def hold(self, steps: int) -> None:
        """Lets `steps` controls pass: the hand comes to rest where the last control sent it, and the gripper keeps its
        effort."""
        clock = time.perf_counter()
        for i in range(len(self._envs)):
            for _ in range(steps):
                if not self.running[i]:
                    break
                self._step(i, self._rest[i])
        self.seconds += time.perf_counter() - clock

    def _step(self, i: int, control: np.ndarray) -> None:
        if self.running[i]:
            done, _, _ = self._envs[i].step(control)
            self.running[i] = not done

    def _unseen(self, frames: int) -> Seen:
        count = len(self._envs)
        pictures = np.zeros((count, frames, *self._picture), dtype=np.uint8)
        return Seen(pictures, np.zeros((count, frames, len(self._envs[0].proprioception))))
