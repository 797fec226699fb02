# SPDX-License-Identifier: Apache-2.0
"""A trained model in flashwam's MetaWorld: LeRobot's rollout and flashwam's own loop drive the same episodes."""

from importlib.util import find_spec
from typing import Any

import gymnasium
import numpy as np
import pytest
from conftest import FRONT
from lerobot.policies import make_pre_post_processors
from lerobot.processor import PolicyProcessorPipeline
from lerobot.scripts.lerobot_eval import rollout

from flashwam.core.scenes import evaluation_scene
from flashwam.serve.model import load_served
from flashwam.serve.remote_policy import RemotePolicy
from flashwam.serve.session import PolicySession
from flashwam.system.paths import ASSETS

# MuJoCo is not imported before its OpenGL backend is chosen.
pytestmark = pytest.mark.skipif(find_spec("metaworld") is None, reason="needs pip install 'flashwam[sim]'")

TASK, EPISODES, SEED = "reach-wall", 2, 3


class Client(PolicySession):
    """A session that stands for one behind a server."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.metadata = model.metadata


class World(gymnasium.Env):
    """flashwam's simulator as an environment of gymnasium's, as LeRobot's evaluation asks of one."""

    def __init__(self) -> None:
        from flashwam.sim.metaworld import MetaWorldEnv

        self._inner = MetaWorldEnv(TASK)
        picture = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
        self.observation_space = gymnasium.spaces.Dict({"pixels": gymnasium.spaces.Dict({"front": picture})})
        self.action_space = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
        self.task, self.task_description = TASK, self._inner.task.prompt
        self._max_episode_steps = self._inner.task.max_steps
        self._scene = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins the scene of this number, or the last one again."""
        self._scene = self._scene if seed is None else seed
        return {"pixels": {"front": self._inner.reset(self._scene)}}, {"is_success": False}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Executes an action, float32 [4]."""
        done, success, _ = self._inner.step(action)
        return {"pixels": {"front": self._inner.render()}}, float(success), done, False, {"is_success": success}


@pytest.mark.parametrize("nfe", ["1v/1a", "5v/10a"])
def test_lerobots_rollout_is_flashwams(make_policy, nfe):
    from flashwam.sim.closed_loop import drive
    from flashwam.sim.gl import ensure_gl

    ensure_gl()
    model = load_served(ASSETS / "teacher", nfe=nfe)
    assert model.metadata["cameras"] == [FRONT]
    ours = drive(RemotePolicy(Client(model)), TASK, episodes=EPISODES, seed=SEED)

    policy = make_policy(ASSETS / "teacher", nfe=nfe, seed=1_000_003 * SEED + 17)
    before, after = make_pre_post_processors(policy.config)
    nothing = PolicyProcessorPipeline(steps=[])
    envs = gymnasium.vector.SyncVectorEnv([World] * EPISODES)
    scenes = [evaluation_scene(SEED, episode) for episode in range(EPISODES)]
    theirs = rollout(envs, policy, nothing, nothing, before, after, seeds=scenes)
    steps = theirs["done"].int().argmax(1)
    assert tuple((steps + 1).tolist()) == ours.steps
    assert tuple(theirs["success"].gather(1, steps[:, None])[:, 0].tolist()) == ours.success
