# SPDX-License-Identifier: Apache-2.0
"""The interface of a simulated environment, which every simulator here has (docs/simulators.md).

Letters: H, W pixels, U controls, S numbers of the robot's state.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

__all__ = ["Environment"]


@runtime_checkable
class Environment(Protocol):
    """One episode at a time of one task.

    Attributes:
        size: H and W of every picture.
        success: Whether the present episode has succeeded.
    """

    size: int
    success: bool

    @property
    def prompt(self) -> str:
        """The instruction that a policy is given."""

    @property
    def cameras(self) -> tuple[str, ...]:
        """Keys of the pictures, the one that looks at the whole scene first."""

    @property
    def steps(self) -> int:
        """Control steps since the reset."""

    @property
    def proprioception(self) -> np.ndarray:
        """The robot's own state, [S]."""

    def reset(self, scene: int, *, render: bool = True) -> np.ndarray | None:
        """Starts an episode that depends on the number of its scene alone.

        Args:
            scene: See `flashwam.core.scenes`, or the number of an initial state where a benchmark has a fixed set.
            render: Whether to take a picture.

        Returns:
            The first picture of the first camera, uint8 [H, W, 3], or None without `render`.

        Raises:
            ValueError: There is no such scene.
        """

    def step(self, action: np.ndarray) -> tuple[bool, bool, Any]:
        """Executes one control step.

        Args:
            action: Raw units, clipped to [-1, 1], [U].

        Returns:
            Whether the episode is over, whether it has succeeded, and what else happened, with `step` and `hand` in it.
        """

    def render(self) -> np.ndarray:
        """The present picture of the first camera, row 0 on top, uint8 [H, W, 3]."""

    def look(self) -> Mapping[str, np.ndarray]:
        """The present pictures, camera -> uint8 [H, W, 3]."""
