# SPDX-License-Identifier: Apache-2.0
"""The interface of a policy that can be driven in the simulator.

Letters: B episodes, F latent frames of a chunk, N actions per latent frame, U controls.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

__all__ = ["ChunkPolicy"]


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
        """Controls to execute after those that are under way, float32 [B, F' * N, U]: those of the F' frames that come
        before the next call, all of a chunk that are not observed yet or fewer."""

    def foreseen(self) -> np.ndarray | None:
        """The picture imagined for the moment after these controls, uint8 [B, H, W, 3]; None where that is unknown."""

    def observe(
        self, pictures: np.ndarray, controls: np.ndarray, *, state: np.ndarray | None = None, under_way: int = 0
    ) -> None:
        """Tells what happened since the last call.

        Args:
            pictures: Those after every N controls that were not told before, uint8 [B, F'', H, W, 3].
            controls: What `controls` gave and was executed, or will have been, [B, F' * N, U].
            state: The robot's state at the pictures, [B, F'', S].
            under_way: Last of the F' frames that are not executed yet, at most F' - 1; their pictures come with the
                next call, so that F'' is F' without them, and those of the last call before it.
        """
