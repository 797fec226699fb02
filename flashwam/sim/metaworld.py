# SPDX-License-Identifier: Apache-2.0
"""MetaWorld scenes as closed-loop environments with one fast, headless, upright camera."""

import atexit
import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashwam.data.episodes import CAMERA
from flashwam.sim.experts import make_expert
from flashwam.sim.gl import ensure_gl
from flashwam.sim.tasks import TaskSpec, below, get_task
from flashwam.sim.ways import way_of
from flashwam.system.errors import InputError, MissingPackageError

__all__ = ["MetaWorldEnv", "StepInfo"]

_AFTER = 500
"""Steps that may follow the end of an episode, as a demonstration's last rows do."""
_MODELS: dict[str, Any] = {}
_RENDERERS: dict[tuple[str, int], Any] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInfo:
    """The result of one control step.

    Attributes:
        hand: Position of the hand in metres, [3].
        touched: Whether the forbidden body was touched so far.
        step: Control steps since the reset.
    """

    hand: np.ndarray
    touched: bool
    step: int


def _build(task: TaskSpec) -> Any:
    """Builds a MetaWorld environment; the compiled model is made once per scene and copied (0.7 s against 10 ms)."""
    try:
        ensure_gl()
        import mujoco
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    except ImportError as error:
        raise MissingPackageError("the simulator needs MetaWorld: pip install 'flashwam[sim]'") from error
    if task.env not in ALL_V3_ENVIRONMENTS:
        raise InputError(f"task {task.name!r}: MetaWorld has no scene {task.env!r}")
    base = ALL_V3_ENVIRONMENTS[task.env]

    class Scene(base):  # type: ignore[misc, valid-type]  # the task names its base
        def _initialize_simulation(self) -> tuple[Any, Any]:
            if task.env not in _MODELS:
                _MODELS[task.env] = mujoco.MjModel.from_xml_path(self.fullpath)
            model = copy.copy(_MODELS[task.env])
            model.vis.global_.offwidth = max(model.vis.global_.offwidth, self.width)
            model.vis.global_.offheight = max(model.vis.global_.offheight, self.height)
            return model, mujoco.MjData(model)

        def _reset_hand(self, steps: int = 50) -> None:
            # MetaWorld simulates 250 steps to bring the hand to its start, twice a reset; where it ends is known.
            if self.rest is None:
                super()._reset_hand(steps)
                return
            mujoco.mj_setState(self.model, self.data, self.rest, mujoco.mjtState.mjSTATE_INTEGRATION)
            mujoco.mj_forward(self.model, self.data)
            self.init_tcp = self.tcp_center

    Scene.rest = None
    env = Scene()
    env._freeze_rand_vec = False
    env.seeded_rand_vec = True
    env._set_task_called = True
    env._partially_observable = False
    # MetaWorld refuses to go on after 500 steps; an episode that waits for its policy may be longer.
    env.max_path_length = task.max_steps + _AFTER
    # The space was cached while goals were hidden; states are clipped to it.
    env.__dict__.pop("sawyer_observation_space", None)
    env.hand_init_pos = np.array(task.hand)
    env.init_config["hand_init_pos"] = env.hand_init_pos
    if task.low is not None:
        from gymnasium.spaces import Box

        env._random_reset_space = Box(np.array(task.low), np.array(task.high), dtype=np.float64)
    if task.setup is not None:
        task.setup(env)
    mujoco.mj_resetData(env.model, env.data)
    env._reset_hand()
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    rest = np.zeros(mujoco.mj_stateSize(env.model, kind))
    mujoco.mj_getState(env.model, env.data, rest, kind)
    env.rest = rest
    return env


def _close_renderers() -> None:
    """Before the interpreter takes the GL library apart; a renderer collected after that prints a traceback."""
    for renderer, _ in _RENDERERS.values():
        renderer.close()
    _RENDERERS.clear()


def _renderer(task: TaskSpec, model: Any, size: int) -> tuple[Any, Any]:
    """One renderer per task and size serves every environment of the process."""
    import mujoco

    key = (task.name, size)
    if key not in _RENDERERS:
        model.vis.quality.offsamples = 0
        model.vis.quality.shadowsize = 0
        buffer = model.vis.global_
        buffer.offwidth, buffer.offheight = max(buffer.offwidth, size), max(buffer.offheight, size)
        renderer = mujoco.Renderer(model, size, size)
        if not _RENDERERS:
            # Exit handlers run backwards; MuJoCo's own, which ends the display, was registered by the line above.
            atexit.register(_close_renderers)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            renderer.scene.flags[flag] = 0
        camera = mujoco.MjvCamera()
        view = task.camera
        camera.azimuth, camera.elevation, camera.distance = view.azimuth, view.elevation, view.distance
        camera.lookat[:] = view.lookat
        _RENDERERS[key] = (renderer, camera)
    return _RENDERERS[key]


class MetaWorldEnv:
    """One episode at a time of one task, see `flashwam.sim.contract.ScriptedEnvironment`.

    Args:
        task: A task or its name.
        size: Height and width of the pictures in pixels.
    """

    def __init__(self, task: TaskSpec | str, *, size: int = 64) -> None:
        self.task = get_task(task) if isinstance(task, str) else task
        self.size = size
        self.env = _build(self.task)
        forbidden = self.task.forbidden
        self._forbidden = set() if forbidden is None else below(self.env.model, forbidden)
        self.state = np.zeros(39)
        self.seed = -1
        self._hands: list[np.ndarray] = []
        self._touched = False
        self.success = False

    def reset(self, seed: int, *, render: bool = True) -> np.ndarray | None:
        """Starts an episode that depends on the seed alone.

        Args:
            seed: Seed of object and goal positions.
            render: Whether to take a picture.

        Returns:
            The first picture, uint8 [H, W, 3], or None without `render`.
        """
        import mujoco

        self.seed = seed
        self.env.seed(seed)
        self.env.curr_path_length = 0
        self.env.reset()
        # MetaWorld moves bodies after its last kinematics pass; without another one the first picture is stale.
        mujoco.mj_forward(self.env.model, self.env.data)
        self.env._prev_obs = self.env._get_curr_obs_combined_no_goal()
        self.state = self.env._get_obs()
        self._hands = [self.state[:3].copy()]
        self._touched = False
        self.success = False
        self.reference_x = 0.0 if self.task.reference_x is None else self.task.reference_x(self.env)
        return self.render() if render else None

    def step(self, action: np.ndarray) -> tuple[bool, bool, StepInfo]:
        """Executes one control step (12.5 ms).

        Args:
            action: Hand motion and gripper effort, clipped to [-1, 1], [4].

        Returns:
            Whether the episode is over, whether it has succeeded, and what happened.
        """
        if self.task.moves is not None:
            self.task.moves(self.env)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.state, _, _, _, info = self.env.step(np.clip(action, -1.0, 1.0).astype(np.float64))
        self._hands.append(self.state[:3].copy())
        if self._forbidden and not self._touched:
            bodies = self.env.model.geom_bodyid
            self._touched = any(
                bodies[c.geom1] in self._forbidden or bodies[c.geom2] in self._forbidden for c in self.env.data.contact
            )
        rule = self.task.success
        reached = bool(info["success"]) if rule is None else rule(self.env, info)
        self.success = self.success or (reached and not self._touched)
        done = self.success or self._touched or self.steps >= self.task.max_steps
        return done, self.success, StepInfo(hand=self._hands[-1], touched=self._touched, step=self.steps)

    @property
    def prompt(self) -> str:
        """The instruction that a policy is given."""
        return self.task.prompt

    @property
    def cameras(self) -> tuple[str, ...]:
        """The key of the only picture."""
        return (CAMERA,)

    def look(self) -> dict[str, np.ndarray]:
        """The present picture by its key, uint8 [H, W, 3]."""
        return {CAMERA: self.render()}

    @property
    def steps(self) -> int:
        """Control steps since the reset."""
        return len(self._hands) - 1

    @property
    def proprioception(self) -> np.ndarray:
        """The robot's own state: position of the hand in metres, opening of the gripper, [4]."""
        return self.state[:4].copy()

    @property
    def hand_path(self) -> np.ndarray:
        """Positions of the hand since the reset, [T + 1, 3]."""
        return np.stack(self._hands)

    def way(self) -> int:
        """The way the hand has taken so far: an index into `task.ways`, or -1."""
        return way_of(self.hand_path[:, 0], self.reference_x) if self.task.multimodal else -1

    def close(self) -> None:
        """Nothing is its alone: the renderers are the process's."""

    def expert(self, way: int = -1) -> Callable[[], np.ndarray]:
        """A scripted expert for the episode that has begun, see `make_expert`: the next control, [4]."""
        act = make_expert(self.task, self.env, way)
        return lambda: act(self.state)

    def view(self) -> Any:
        """The task's MuJoCo renderer, looking at the present scene; the next environment's picture moves it on."""
        renderer, camera = _renderer(self.task, self.env.model, self.size)
        renderer.update_scene(self.env.data, camera)
        return renderer

    def render(self) -> np.ndarray:
        """The present picture, uint8 [H, W, 3]."""
        return self.view().render().copy()
