# SPDX-License-Identifier: Apache-2.0
"""An environment that keeps what is seen of it and done in it."""

from typing import Any

import numpy as np

from flashwam.sim.contract import ScriptedEnvironment

__all__ = ["TapedEnv"]


class TapedEnv:
    """Stands where an environment is expected, and keeps its present episode.

    Args:
        env: The environment.

    Attributes:
        controls: What was executed, [U] each.
        states: The robot's own state before each of them, [S].
        pictures: What was looked at, uint8 [H, W, 3] each.
        rows: How many controls had been executed at each look.
    """

    def __init__(self, env: ScriptedEnvironment) -> None:
        self._env = env
        self.controls: list[np.ndarray] = []
        self.states: list[np.ndarray] = []
        self.pictures: list[np.ndarray] = []
        self.rows: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def reset(self, seed: int) -> np.ndarray:
        """See `Environment.reset`."""
        self.controls, self.states, self.pictures, self.rows = [], [], [], []
        return self._looked(self._env.reset(seed))

    def step(self, action: np.ndarray) -> tuple[bool, bool, Any]:
        """See `Environment.step`."""
        self.controls.append(np.array(action))
        self.states.append(self._env.proprioception)
        return self._env.step(action)

    def render(self) -> np.ndarray:
        """See `Environment.render`."""
        return self._looked(self._env.render())

    def _looked(self, picture: np.ndarray) -> np.ndarray:
        self.pictures.append(picture.copy())
        self.rows.append(len(self.controls))
        return picture

    def columns(self) -> dict[str, np.ndarray]:
        """A row for every control: what was done, twice, since nobody knows what would have been better; and felt."""
        done = np.stack(self.controls).astype(np.float32)
        return {"action": done, "executed_action": done, "observation.state": np.stack(self.states).astype(np.float32)}

    def frames(self) -> np.ndarray:
        """The last picture before every control, uint8 [T, H, W, 3]."""
        held = np.searchsorted(self.rows, np.arange(len(self.controls)), side="right") - 1
        return np.stack(self.pictures)[held]
