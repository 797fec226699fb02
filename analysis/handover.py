# SPDX-License-Identifier: Apache-2.0
"""Two policies at one robot: one draws the first chunk, the other all that follows."""

from collections.abc import Mapping

import numpy as np

from flashwam.sim.chunk_policy import ChunkPolicy


class Handover:
    """A policy that draws an episode's first chunk, and another that goes on from what came of it.

    Both spend the noise of the first chunk, so that each has the noise later that it would have had alone.

    Args:
        first: Draws the first chunk.
        then: Draws the others; it is told what the first one did.
    """

    batch = None

    def __init__(self, first: ChunkPolicy, then: ChunkPolicy) -> None:
        self.per_frame = then.per_frame
        self.chunks = 0
        self._first, self._then = first, then
        self._begins = True

    @property
    def seconds(self) -> Mapping[str, float]:
        """See `ChunkPolicy.seconds`: of the one that goes on."""
        return self._then.seconds

    def reset(self, prompt: str, frames: np.ndarray, *, seed: int, state: np.ndarray | None = None) -> None:
        """See `ChunkPolicy.reset`."""
        self._begins = True
        for policy in (self._first, self._then):
            policy.reset(prompt, frames, seed=seed, state=state)

    def controls(self) -> np.ndarray:
        """See `ChunkPolicy.controls`."""
        self.chunks += 1
        controls = self._then.controls()
        return self._first.controls() if self._begins else controls

    def foreseen(self) -> None:
        """Nothing is shown: the pictures are of two models."""

    def observe(
        self, pictures: np.ndarray, controls: np.ndarray, *, state: np.ndarray | None = None, under_way: int = 0
    ) -> None:
        """See `ChunkPolicy.observe`."""
        self._begins = False
        self._then.observe(pictures, controls, state=state, under_way=under_way)
