# SPDX-License-Identifier: Apache-2.0
"""Tasks of LIBERO as closed-loop environments with upright pictures."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashwam.sim.gl import ensure_gl
from flashwam.sim.libero.conventions import CAMERAS, CONTROLS, CONVENTIONS, Convention
from flashwam.sim.libero.packages import require_packages
from flashwam.sim.libero.rendering import SceneCameras
from flashwam.sim.libero.substeps import Substeps
from flashwam.sim.libero.tasks import LiberoTask
from flashwam.system.errors import FailedError, InputError

__all__ = ["LiberoEnv", "LiberoStep"]

_ATTEMPTS = 100
"""Draws of a placement of the scene's objects; one in many is refused because two of them touch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiberoStep:
    """The result of one control step.

    Attributes:
        hand: Position of the hand in metres, [3].
        step: Control steps since the reset.
    """

    hand: np.ndarray
    step: int


class LiberoEnv:
    """One episode at a time of one task, see `flashwam.sim.contract.Environment`.

    Args:
        task: Of a suite, see `suite_tasks`.
        convention: How an episode is run.

    Raises:
        ImportError: LIBERO is not installed.
        RuntimeError: No OpenGL backend renders.
    """

    def __init__(self, task: LiberoTask, *, convention: Convention = CONVENTIONS["lingbot_va"]) -> None:
        require_packages()
        ensure_gl()
        self.task = task
        self.convention = convention
        self.size = convention.size
        self.max_steps = convention.steps(task.suite)
        self.cameras = tuple(CAMERAS)
        self.prompt = task.instruction(convention.instruction)
        self.success = False
        self.steps = 0
        self._domain = _build(task)
        self._substeps = Substeps(self._domain)
        self._shots: SceneCameras | None = None

    def reset(self, scene: int, *, render: bool = True) -> np.ndarray | None:
        """Starts an episode from one of the task's initial states, and lets the idle steps pass.

        Args:
            scene: Number of the initial state, from 0. What a state does not hold, such as the places of furniture, is
                drawn from this number too, so an episode depends on it alone.
            render: Whether to take a picture.

        Returns:
            The first picture of the first camera, uint8 [H, W, 3], or None without `render`.

        Raises:
            ValueError: The task has no such state.
        """
        states = self.task.states
        if not 0 <= scene < len(states):
            raise InputError(
                f"{self.task.name} has {len(states)} initial states, numbered from 0; scene {scene} is none of them"
            )
        self._start(scene, states[scene])
        return self.render() if render else None

    def draw(self, seed: int, *, render: bool = True) -> np.ndarray | None:
        """Starts an episode from places that are drawn as those of the initial states were, in the task's regions.

        Args:
            seed: Decides them alone.
            render: Whether to take a picture.

        Returns:
            As `reset`.
        """
        self._start(seed, None)
        return self.render() if render else None

    def step(self, action: np.ndarray) -> tuple[bool, bool, LiberoStep]:
        """Executes one control step (50 ms).

        Args:
            action: Motion of the hand towards x, y, z and about them, then the gripper (-1 opens, 1 closes), clipped to
                [-1, 1], [7]. A whole unit is 5 cm or half a radian beyond where the hand is.

        Returns:
            Whether the episode is over, whether it has succeeded, and what happened.

        Raises:
            ValueError: The action has another shape.
        """
        action = np.asarray(action, dtype=np.float64)
        if action.shape != (CONTROLS,):
            raise ValueError(f"a control of LIBERO is [{CONTROLS}]; got {list(action.shape)}")
        _, _, reached, _ = self._substeps.step(np.clip(action, -1.0, 1.0))
        self.steps += 1
        self.success = self.success or bool(reached)
        done = self.success or self.steps >= self.max_steps
        return done, self.success, LiberoStep(hand=self.hand, step=self.steps)

    @property
    def hand(self) -> np.ndarray:
        """Position of the hand in metres, [3]."""
        return np.array(self._sim.data.site_xpos[self._robot.eef_site_id])

    @property
    def proprioception(self) -> np.ndarray:
        """The robot's own state: position of the hand in metres, its rotation vector in radians (0 to a whole turn),
        positions of the two fingers in metres, [8]; LIBERO's data sets keep it so."""
        hand = self._sim.model.body_name2id(self._robot.robot_model.eef_name)
        turned = _rotation_vector(np.array(self._sim.data.body_xquat[hand]))
        fingers = self._sim.data.qpos[self._robot._ref_gripper_joint_pos_indexes]
        return np.concatenate([self.hand, turned, fingers])

    def look(self) -> dict[str, np.ndarray]:
        """The present pictures, camera -> uint8 [H, W, 3]."""
        return {key: self._picture(key) for key in self.cameras}

    def render(self) -> np.ndarray:
        """The present picture of the first camera, uint8 [H, W, 3]."""
        return self._picture(self.cameras[0])

    def close(self) -> None:
        """Frees the pictures' buffers and the simulation."""
        if self._shots is not None:
            self._shots.close()
            self._shots = None
        self._domain.close()

    def holds(self, condition: tuple[str, ...]) -> bool:
        """Tells whether a condition such as ("on", "milk_1", "plate_1") is true now."""
        return bool(self._domain._eval_predicate(list(condition)))

    @property
    def domain(self) -> Any:
        """The benchmark's own environment, for what is not behind this class."""
        return self._domain

    @property
    def _sim(self) -> Any:
        return self._domain.sim

    @property
    def _robot(self) -> Any:
        return self._domain.robots[0]

    def _picture(self, key: str) -> np.ndarray:
        if self._shots is None:
            model, view = self._sim.model._model, self.convention
            self._shots = SceneCameras(model, CAMERAS, size=view.size, shading=view.shading)
        return self._shots.picture(self._sim.data._data, key)

    def _start(self, seed: int, state: np.ndarray | None) -> None:
        """Draws places, takes those of a state [n] where there is one, and lets the idle steps pass."""
        with _drawn_from(seed):
            self._place()
        # The gripper's last command outlives a reset that keeps the model.
        self._robot.gripper.current_action = np.zeros(self._robot.gripper.dof)
        if state is not None:
            self._begin(state)
        idle = np.zeros(CONTROLS)
        idle[-1] = self.convention.idle_gripper
        for _ in range(self.convention.idle_steps):
            self._substeps.step(idle)
        self.steps, self.success = 0, False

    def _place(self) -> None:
        """Resets the benchmark's environment, which draws places for everything in the scene."""
        from robosuite.utils.errors import RandomizationError

        for _ in range(_ATTEMPTS):
            try:
                self._domain.reset()
                return
            except RandomizationError:
                continue
        raise FailedError(f"{self.task.name}: in {_ATTEMPTS} draws the objects never lay apart from each other")

    def _begin(self, state: np.ndarray) -> None:
        """Brings the simulation to a state [n], and what is derived from it up to date."""
        expected = 1 + self._sim.model.nq + self._sim.model.nv
        if state.shape != (expected,):
            raise InputError(
                f"initial states of {self.task.name} have {state.size} numbers and its scene {expected}: the files of "
                "LIBERO do not belong together; install it anew"
            )
        self._sim.set_state_from_flattened(state)
        self._sim.forward()
        self._domain._post_process()
        self._domain._update_observables(force=True)


def _build(task: LiberoTask) -> Any:
    """Builds the benchmark's environment of a task, without its own pictures; resets keep the model."""
    # It warns at every start that it has no settings of the user's own.
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    from libero.libero.envs.env_wrapper import ControlEnv

    wrapper = ControlEnv(
        bddl_file_name=str(task.bddl_file),
        use_camera_obs=False,
        has_offscreen_renderer=False,
        hard_reset=False,
        ignore_done=True,
    )
    return wrapper.env


def _rotation_vector(quaternion: np.ndarray) -> np.ndarray:
    """Axis times angle of a unit quaternion w, x, y, z."""
    sine = float(np.linalg.norm(quaternion[1:]))
    if sine < 1e-9:
        return np.zeros(3)
    return quaternion[1:] / sine * 2 * np.arctan2(sine, quaternion[0])


@contextmanager
def _drawn_from(seed: int) -> Iterator[None]:
    """Seeds NumPy's global generator, from which the benchmark draws, and puts it back as it was."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
