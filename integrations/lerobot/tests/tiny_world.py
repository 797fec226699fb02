# SPDX-License-Identifier: Apache-2.0
"""A world of coloured noise that LeRobot's commands make by ``--env.type=tiny_world``: no physics, one camera."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import gymnasium
import numpy as np
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs import EnvConfig
from lerobot.utils.constants import ACTION

__all__ = ["TinyWorld", "TinyWorldConfig"]


class TinyWorld(gymnasium.Env):
    """Pictures follow from the seed and the sum of the actions; an episode succeeds after `length` steps.

    Attributes:
        told: Every action that was executed, float32 [U] each.
    """

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 10}
    render_mode = "rgb_array"

    def __init__(self, length: int, limit: int) -> None:
        self.observation_space = gymnasium.spaces.Dict(
            {"pixels": gymnasium.spaces.Dict({"front": gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)})}
        )
        self.action_space = gymnasium.spaces.Box(-2, 2, (4,), np.float32)
        self.task = self.task_description = "turn the faucet"
        self._length, self._max_episode_steps = length, limit
        self.told: list[np.ndarray] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode."""
        super().reset(seed=seed)
        self._base = self.np_random.integers(0, 256, (64, 64, 3))
        self.told = []
        return self._seen(), {"is_success": False}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Executes an action, float32 [4]."""
        self.told.append(np.array(action))
        done = len(self.told) == self._length
        return self._seen(), float(done), done, False, {"is_success": done}

    def render(self) -> np.ndarray:
        """The camera's picture, uint8 [64, 64, 3]."""
        return self._seen()["pixels"]["front"]

    def _seen(self) -> dict[str, Any]:
        moved = int(1000 * float(np.sum(self.told))) if self.told else 0
        return {"pixels": {"front": ((self._base + moved) % 256).astype(np.uint8)}}


@EnvConfig.register_subclass("tiny_world")
@dataclass
class TinyWorldConfig(EnvConfig):
    """Options of the world: steps until success, and at most."""

    fps: int = 10
    length: int = 13
    limit: int = 20
    features: dict[str, PolicyFeature] = field(
        default_factory=lambda: {
            ACTION: PolicyFeature(type=FeatureType.ACTION, shape=(4,)),
            "pixels/front": PolicyFeature(type=FeatureType.VISUAL, shape=(64, 64, 3)),
        }
    )
    features_map: dict[str, str] = field(
        default_factory=lambda: {ACTION: ACTION, "pixels/front": "observation.images.front"}
    )

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """None: `create_envs` needs none."""
        return {}

    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> dict[str, dict[int, Any]]:
        """Makes worlds in this process."""
        make: Callable[[], TinyWorld] = lambda: TinyWorld(self.length, self.limit)  # noqa: E731
        return {"tiny_world": {0: gymnasium.vector.SyncVectorEnv([make] * n_envs)}}
