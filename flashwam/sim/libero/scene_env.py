# SPDX-License-Identifier: Apache-2.0
"""LIBERO as small models see it: both views side by side in one small picture."""

from collections.abc import Callable

import numpy as np

from flashwam.core.scenes import evaluation_episode
from flashwam.data.episodes import CAMERA
from flashwam.sim.libero.conventions import get_convention
from flashwam.sim.libero.env import LiberoEnv, LiberoStep
from flashwam.sim.libero.expert import PickAndPlace
from flashwam.sim.libero.scenes import SceneTask
from flashwam.sim.ways import way_of
from flashwam.system.errors import InputError

__all__ = ["SceneEnv"]

_OF_A_SEED = 20
"""Initial states that an evaluation's seed has for itself."""


class SceneEnv:
    """One episode at a time of one task, see `flashwam.sim.contract.ScriptedEnvironment`.

    The first 20 episodes of an evaluation begin in initial states of the benchmark, of which each seed has 20 for
    itself while there are any, so that no two scenes are the same one; all others, those of a judge, demonstrations
    and recordings begin in places that are drawn anew, as those were.

    Args:
        task: The task.
        size: Height of the pictures, which are twice as wide, in pixels.
    """

    def __init__(self, task: SceneTask, *, size: int = 64) -> None:
        self.task = task
        self.size = size
        self.prompt = task.prompt
        self.cameras = (CAMERA,)
        self.success = False
        convention = get_convention("small").changed(size=size, max_steps=task.max_steps)
        self._env = LiberoEnv(task.scene, convention=convention)
        self._hands: list[np.ndarray] = []

    def reset(self, scene: int, *, render: bool = True) -> np.ndarray | None:
        """Starts an episode that depends on the number of its scene alone.

        Args:
            scene: See `flashwam.core.scenes`.
            render: Whether to take a picture.

        Returns:
            The first picture, uint8 [H, 2 H, 3], or None without `render`.
        """
        state = _initial_state(scene, len(self.task.scene.states))
        if state is None:
            self._env.draw(scene, render=False)
        else:
            self._env.reset(state, render=False)
        self.success = False
        self._hands = [self._env.hand]
        return self.render() if render else None

    def step(self, action: np.ndarray) -> tuple[bool, bool, LiberoStep]:
        """Executes one control step (50 ms), see `LiberoEnv.step`."""
        done, success, info = self._env.step(action)
        if self.task.goals:
            success = self.success or any(self._env.holds(goal) for goal in self.task.goals)
            done = success or self.steps >= self.task.max_steps
        self.success = success
        self._hands.append(info.hand)
        return done, success, info

    def expert(self, way: int = -1) -> Callable[[], np.ndarray]:
        """A scripted expert for the episode that has begun, see `PickAndPlace`: the next control, [7].

        Raises:
            ValueError: The task has no such way, or is not of the kind that it does.
        """
        ways = range(len(self.task.ways)) if self.task.multimodal else (-1,)
        if way not in ways:
            raise InputError(f"{self.task.name}: expected a way of {list(ways)}, got {way}")
        return PickAndPlace(self._env, [self.task.goals[way]] if self.task.multimodal else None)

    @property
    def steps(self) -> int:
        """Control steps since the reset."""
        return self._env.steps

    @property
    def proprioception(self) -> np.ndarray:
        """The robot's own state, see `LiberoEnv.proprioception`, [8]."""
        return self._env.proprioception

    def way(self) -> int:
        """The way the hand has taken so far: an index into `SceneTask.ways`, or -1."""
        if not self.task.multimodal:
            return -1
        along = np.stack(self._hands)[:, :2] @ np.array(self.task.axis)
        return way_of(along, along[0])

    def render(self) -> np.ndarray:
        """The present picture: the scene, then the view from the hand, uint8 [H, 2 H, 3]."""
        return np.concatenate(list(self._env.look().values()), axis=1)

    def look(self) -> dict[str, np.ndarray]:
        """The present picture by its key."""
        return {CAMERA: self.render()}

    def close(self) -> None:
        """Frees the simulation."""
        self._env.close()


def _initial_state(scene: int, count: int) -> int | None:
    """The initial state, of so many, that a scene is; None for one that is drawn anew."""
    asked = evaluation_episode(scene)
    if asked is None or asked[1] >= _OF_A_SEED:
        return None
    seed, episode = asked
    state = _OF_A_SEED * seed + episode
    return state if state < count else None
