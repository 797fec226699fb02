# SPDX-License-Identifier: Apache-2.0
"""The interfaces of a simulated task and of its environment, which every simulator here has (docs/simulators.md).

Letters: H, W pixels, U controls, S numbers of the robot's state.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

__all__ = ["Environment", "ScriptedEnvironment", "Task"]


@runtime_checkable
class Task(Protocol):
    """One thing that is asked of a policy, before there is any environment.

    Attributes:
        name: In recipes, folders and results.
        max_steps: Control steps after which an episode has failed; a multiple of 4, the controls per latent frame.
        ways: Names of the ways that lead to success, empty where there is one.
        axis: Direction in x and y, a unit long, that tells two ways apart: way 0 leaves against it, way 1 along it.
        commit_threshold: Least |mean control along `axis`| of a first chunk that counts as having chosen a way.
        controls: U.
        control_hz: Controls that the simulator executes in a second of its physics.
        robot: Of the data sets.
        together: Most environments that are kept at once.
    """

    name: str
    max_steps: int
    ways: tuple[str, ...]
    axis: tuple[float, float]
    commit_threshold: float
    controls: int
    control_hz: int
    robot: str
    together: int

    @property
    def prompt(self) -> str:
        """The instruction that a policy is given."""

    @property
    def multimodal(self) -> bool:
        """True if more than one way leads to success."""

    @property
    def moving(self) -> bool:
        """True if the scene goes on by itself."""


@runtime_checkable
class Environment(Protocol):
    """One episode at a time of one task.

    Attributes:
        size: H of every picture, and W of each of the views that stand side by side in it.
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


class ScriptedEnvironment(Environment, Protocol):
    """One that miniatures are collected, trained and compared in: what it asks can be shown by a script."""

    task: Task

    def way(self) -> int:
        """The way the hand has taken so far: an index into `Task.ways`, or -1."""

    def close(self) -> None:
        """Frees what is its alone; it is not used any more."""

    def expert(self, way: int = -1) -> Callable[[], np.ndarray]:
        """A scripted expert for the episode that has begun, by what only the simulator knows: the next control, [U].

        Args:
            way: Index into `Task.ways`; -1 for an ordinary task.

        Raises:
            ValueError: The task has no such way.
        """
