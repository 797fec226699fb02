# SPDX-License-Identifier: Apache-2.0
"""Actions without a model, to tell what success on a task is worth."""

from collections.abc import Mapping

import numpy as np

__all__ = ["RandomPolicy"]

_FRAMES = 2


class RandomPolicy:
    """Controls drawn evenly from all that the robot can do; a `ChunkPolicy`.

    Args:
        width: U.
    """

    batch = None
    per_frame = 4

    def __init__(self, width: int = 4) -> None:
        self._width = width
        self.chunks = 0
        self.seconds: Mapping[str, float] = {}
        self._episodes = 0
        self._generator = np.random.default_rng()

    def reset(self, prompt: str, frames: np.ndarray, *, seed: int, state: np.ndarray | None = None) -> None:
        """See `ChunkPolicy.reset`."""
        self._episodes, self._generator = len(frames), np.random.default_rng(seed)

    def controls(self) -> np.ndarray:
        """See `ChunkPolicy.controls`."""
        self.chunks += 1
        shape = (self._episodes, _FRAMES * self.per_frame, self._width)
        return self._generator.uniform(-1, 1, shape).astype(np.float32)

    def foreseen(self) -> None:
        """See `ChunkPolicy.foreseen`: nothing is imagined."""

    def observe(
        self, pictures: np.ndarray, controls: np.ndarray, *, state: np.ndarray | None = None, under_way: int = 0
    ) -> None:
        """See `ChunkPolicy.observe`: nothing is looked at."""
