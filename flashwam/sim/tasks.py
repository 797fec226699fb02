# SPDX-License-Identifier: Apache-2.0
"""The task suite: which MetaWorld scene, how it is changed, what counts as success, which ways lead there.

Ordinary tasks have one way. Multi-modal tasks have two ways of equal length, mirrored about the hand's start; a
demonstration picks one by a coin that nothing in the picture shows. Their average runs the hand into the wall or onto
the tip of the handle. The walls stand so close that the choice must be made in the first chunk: a policy that blurs the
two ways has touched the wall before it looks again. The faucet forgives a late choice, and so tells methods apart less.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from flashwam.system.errors import InputError, nearest_hint

__all__ = [
    "BUTTON_DRIFT",
    "CONTROL_HZ",
    "TASKS",
    "CameraView",
    "TaskSpec",
    "below",
    "get_task",
    "task_names",
]

WALL_Y = {"reach-wall": 0.66, "button-wall": 0.64}
"""y of the post, which the hand meets within its first chunk unless it leaves to a side at once."""
WALL_HALF_WIDTH = 0.03
FAUCET_TURN = 1.0
CONTROL_HZ = 80
"""Controls that the simulator executes in a second of its physics."""
BUTTON_DRIFT = 0.00075
"""Metres that the moving button is carried while a control is executed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraView:
    """A free camera: it looks at `lookat` (metres) from `distance`, along `azimuth` and `elevation` (degrees)."""

    lookat: tuple[float, float, float] = (0.0, 0.68, 0.1)
    distance: float = 0.95
    azimuth: float = 285.0
    elevation: float = -42.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """One closed-loop task.

    Attributes:
        name: The task's name in recipes and folders.
        env: MetaWorld's name of the scene.
        prompt: The instruction given to the model.
        max_steps: Control steps after which an episode has failed; a multiple of 4, the controls per latent frame.
        ways: Names of the ways, empty for an ordinary task. Way 0 leaves to negative x, way 1 to positive x.
        hand: Where the hand starts, in metres.
        low, high: Bounds of the random object and goal positions, in the scene's own order.
        setup: Changes the MuJoCo model once, after it was built.
        moves: Moves the scene on, before every control; None for one that stands still. What moves is gone after
            `max_steps`, however long a robot is waited for.
        success: Success rule `(env, info) -> bool`; None takes MetaWorld's.
        forbidden: A body that must not be touched; touching it fails the episode.
        reference_x: The x about which the ways are mirrored, `(env) -> metres`.
        commit_threshold: Least |mean x action| of a first chunk that counts as having chosen a way; see
            `flashwam.sim.ways`.
        axis, controls, control_hz, robot, together: See `flashwam.sim.contract.Task`.
        camera: The view every picture is taken from.
    """

    name: str
    env: str
    prompt: str
    max_steps: int
    ways: tuple[str, ...] = ()
    hand: tuple[float, float, float] = (0.0, 0.48, 0.2)
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    setup: Callable[[Any], None] | None = None
    moves: Callable[[Any], None] | None = None
    success: Callable[[Any, dict], bool] | None = None
    forbidden: str | None = None
    reference_x: Callable[[Any], float] | None = None
    axis: ClassVar[tuple[float, float]] = (1.0, 0.0)
    commit_threshold: float = 0.5
    controls: ClassVar[int] = 4
    control_hz: ClassVar[int] = CONTROL_HZ
    robot: ClassVar[str] = "sawyer"
    together: ClassVar[int] = 96
    camera: CameraView = field(default_factory=CameraView)

    @property
    def moving(self) -> bool:
        """True if the scene goes on by itself."""
        return self.moves is not None

    @property
    def multimodal(self) -> bool:
        """True if more than one way leads to success."""
        return len(self.ways) > 1


def _hide_puck(env: Any) -> None:
    env.model.geom_rgba[env.model.geom("objGeom").id] = 0.0


def below(model: Any, name: str) -> set[int]:
    """A body and all bodies fixed to it."""
    found = {model.body(name).id}
    for body in range(model.nbody):
        if model.body_parentid[body] in found:
            found.add(body)
    return found


def _setup_post(env: Any, y: float) -> None:
    """Turns the scene's wall into a narrow post right before the hand, too high to pass over, painted yellow."""
    model = env.model
    bodies = below(model, "wall")
    for body in bodies:
        model.body_pos[body] = [0.0, y, 0.10] if body == model.body("wall").id else 0.0
    for geom in range(model.ngeom):
        if model.geom_bodyid[geom] in bodies:
            model.geom_pos[geom] = 0.0
            model.geom_size[geom] = [WALL_HALF_WIDTH, 0.01, 0.10]
            model.geom_rbound[geom] = float(np.linalg.norm(model.geom_size[geom]))
            model.geom_aabb[geom] = [0.0, 0.0, 0.0, *model.geom_size[geom]]
            model.geom_matid[geom] = -1
            model.geom_rgba[geom] = [0.95, 0.75, 0.1, 1.0]


def _setup_reach_wall(env: Any) -> None:
    _setup_post(env, WALL_Y["reach-wall"])
    goal = env.model.site("goal").id
    env.model.site_size[goal] = 0.03
    env.model.site_rgba[goal] = [0.0, 0.9, 0.1, 1.0]
    _hide_puck(env)


def _setup_button_wall(env: Any) -> None:
    _setup_post(env, WALL_Y["button-wall"])


def _setup_faucet(env: Any) -> None:
    """Hides the sites that mark an opening direction (either way is right) and paints the handle unlike the arm."""
    model = env.model
    for name in ("goal_open", "goal_close", "handleStartOpen", "handleStartClose"):
        model.site_rgba[model.site(name).id] = 0.0
    red = model.material("faucet_red").id
    for geom in np.flatnonzero(model.geom_matid == red):
        model.geom_matid[geom] = -1
        model.geom_rgba[geom] = [0.1, 0.2, 1.0, 1.0]


def _faucet_turned(env: Any, info: dict) -> bool:
    return abs(float(env.data.joint("knob_Joint_1").qpos[0])) > FAUCET_TURN


def _move_button(env: Any) -> None:
    """Carries the button through the middle to the other side, and on, as a belt would: it does not come back."""
    way = -1.0 if env.obj_init_pos[0] > 0 else 1.0
    carried = way * BUTTON_DRIFT * (env.curr_path_length + 1)
    env.model.body("box").pos[0] = env.obj_init_pos[0] + carried


_SUITE = (
    TaskSpec(name="button-press", env="button-press-topdown-v3", prompt="press the button from above", max_steps=96),
    TaskSpec(name="drawer-open", env="drawer-open-v3", prompt="open the drawer", max_steps=108),
    TaskSpec(name="window-open", env="window-open-v3", prompt="slide the window open", max_steps=140),
    TaskSpec(
        name="button-moving",
        env="button-press-topdown-v3",
        prompt="press the button from above",
        max_steps=160,
        moves=_move_button,
    ),
    TaskSpec(
        name="reach-wall",
        env="reach-wall-v3",
        prompt="reach the green goal behind the wall",
        max_steps=92,
        ways=("left", "right"),
        hand=(0.0, 0.54, 0.10),
        low=(0.6, 0.6, 0.015, -0.04, 0.80, 0.06),
        high=(0.61, 0.61, 0.015, 0.04, 0.84, 0.061),
        setup=_setup_reach_wall,
        forbidden="wall",
        reference_x=lambda env: 0.0,
    ),
    TaskSpec(
        name="button-wall",
        env="button-press-wall-v3",
        prompt="push the button behind the wall",
        max_steps=108,
        ways=("left", "right"),
        hand=(0.0, 0.52, 0.12),
        low=(-0.03, 0.96, 0.115),
        high=(0.03, 0.98, 0.1151),
        setup=_setup_button_wall,
        forbidden="wall",
        reference_x=lambda env: 0.0,
    ),
    TaskSpec(
        name="faucet-turn",
        env="faucet-open-v3",
        prompt="turn the faucet",
        max_steps=64,
        ways=("left", "right"),
        hand=(0.0, 0.46, 0.2),
        low=(-0.03, 0.8, 0.0),
        high=(0.03, 0.85, 0.0),
        setup=_setup_faucet,
        success=_faucet_turned,
        reference_x=lambda env: float(env.data.body("faucet_link2").xpos[0]),
        commit_threshold=0.35,
    ),
)

TASKS: dict[str, TaskSpec] = {spec.name: spec for spec in _SUITE}


def task_names() -> tuple[str, ...]:
    """Names of all tasks, ordinary ones first."""
    return tuple(TASKS)


def get_task(name: str) -> TaskSpec:
    """Looks a task up by its name.

    Raises:
        ValueError: The name is unknown; the message names the nearest one.
    """
    if name not in TASKS:
        hint = nearest_hint(name, TASKS)
        raise InputError(f"unknown task {name!r}{hint} Known tasks: {', '.join(TASKS)}")
    return TASKS[name]
