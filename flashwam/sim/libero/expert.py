# SPDX-License-Identifier: Apache-2.0
"""A scripted hand for tasks of LIBERO that ask to put one thing into or onto another, by what only a simulator knows.

It tries a simulator, and makes episodes where no data set is at hand; it is no policy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flashwam.sim.libero.conventions import CONTROLS
from flashwam.sim.libero.env import LiberoEnv
from flashwam.system.errors import InputError

__all__ = ["PickAndPlace"]

_OPEN, _CLOSED = -1.0, 1.0
_METRES = 0.05
"""Motion that a whole unit of control asks for."""
_GAIN = 3.0
"""The controller covers about a sixth of what it is asked for until the next control."""
_SPAN = 0.068
"""Metres between the open fingers that a thing may fill; a wider one is taken by its rim."""
_RIM, _RIM_REACH = 0.012, 0.025
"""Metres from the outside of a rim to where it is held, inwards and down."""
_FINGER = 0.02
"""Metres beside a rim that a finger takes."""
_REACH = 0.035
"""Metres from a thing's top down to where it is held."""
_TIPS = 0.012
"""Metres that the fingers reach below the point between them."""
_CLEAR = 0.06
"""Metres that are kept above everything that is passed over."""
_DROP = 0.02
"""Metres that a thing may fall."""
_LOOK = 0.03
"""Metres above a thing's top at which the hand stops over it, before it goes down: whoever learns from pictures sees
there, through the hand's own camera, how far off it is."""
_CAREFUL = 0.5
"""Share of its speed at which the hand goes down to a thing."""
_LOOK_STEPS, _SETTLE_STEPS, _GRIP_STEPS, _RELEASE_STEPS = 6, 6, 14, 10
_PATIENCE = 45
"""Controls after which a place that is not reached is taken for reached."""


class PickAndPlace:
    """Puts one thing into or onto another, a control at a time.

    Args:
        env: An environment whose episode has begun.
        goal: Conditions that have to hold, such as ("on", "plate_1", "stove_1"); those of the task if None.

    Raises:
        ValueError: The task asks for something else.
    """

    def __init__(self, env: LiberoEnv, goal: Sequence[tuple[str, ...]] | None = None) -> None:
        goal, bodies = env.task.problem.goal if goal is None else goal, env.domain.obj_body_id
        asked = " and ".join(" ".join(condition) for condition in goal)
        if len(goal) != 1 or goal[0][0] not in ("in", "on") or len(goal[0]) != 3:
            raise InputError(f"the expert puts one thing into or onto another; {env.task.name} asks for {asked}")
        relation, thing, place = goal[0]
        goals = [name for name in bodies if place == name or place.startswith(f"{name}_")]
        if thing not in bodies or not goals:
            raise InputError(f"{env.task.name} asks for {asked}, and its scene has no such bodies")
        self._env = env
        self._way = _way(env, thing, max(goals, key=len), inside=relation == "in")
        self._at = self._waited = 0

    def __call__(self) -> np.ndarray:
        """The next control, [7]; once everything is done, one that holds still."""
        leg = self._way[self._at]
        offset = leg.place - self._env.hand
        control = np.zeros(CONTROLS)
        control[:3] = np.clip(_GAIN * offset / _METRES, -leg.speed, leg.speed)
        control[-1] = leg.effort
        self._waited += 1
        there = bool(np.linalg.norm(offset) < 0.01) if leg.steps is None else self._waited >= leg.steps
        if (there or self._waited >= _PATIENCE) and self._at + 1 < len(self._way):
            self._at, self._waited = self._at + 1, 0
        return control


@dataclass(frozen=True, slots=True)
class _Leg:
    """A place of the hand in metres, [3], the gripper's effort on the way there, controls spent on it (None for
    as many as it takes), and the largest control."""

    place: np.ndarray
    effort: float
    steps: int | None = None
    speed: float = 1.0


def _way(env: LiberoEnv, thing: str, goal: str, *, inside: bool) -> list[_Leg]:
    (low, high), (goal_low, goal_high) = box_of(env, thing), box_of(env, goal)
    centre, goal_centre = (low + high) / 2, (goal_low + goal_high) / 2
    wide, side = (high - low)[1] > _SPAN, np.zeros(3)
    if wide:
        side[1] = _side(env, thing) * ((high - low)[1] / 2 - _RIM)
    grip = centre + side
    grip[2] = max(low[2] + _TIPS, high[2] - (_RIM_REACH if wide else _REACH))
    held = grip[2] - low[2]
    tops = [box_of(env, name)[1][2] for name in env.domain.objects_dict]
    above = max(*tops, goal_high[2]) + held + _CLEAR
    drop = goal_centre + side
    drop[2] = max(goal_low[2] + held + _DROP, goal_high[2] - _DROP) if inside else goal_high[2] + held + _DROP / 4
    over, over_goal = np.array([*grip[:2], above]), np.array([*drop[:2], above])
    near = np.array([*grip[:2], high[2] + _LOOK])
    return [
        _Leg(over, _OPEN),
        _Leg(near, _OPEN),
        _Leg(near, _OPEN, _LOOK_STEPS),
        _Leg(grip, _OPEN, speed=_CAREFUL),
        _Leg(grip, _OPEN, _SETTLE_STEPS, _CAREFUL),
        _Leg(grip, _CLOSED, _GRIP_STEPS),
        _Leg(over, _CLOSED),
        _Leg(over_goal, _CLOSED),
        _Leg(drop, _CLOSED),
        _Leg(drop, _OPEN, _RELEASE_STEPS),
        _Leg(over_goal, _OPEN),
    ]


def _side(env: LiberoEnv, thing: str) -> float:
    """The side of a thing along y, -1 or 1, where its neighbours leave more room for a finger."""
    low, high = box_of(env, thing)
    middle, half = (low + high) / 2, (high - low)[1] / 2
    room = {}
    for side in (-1.0, 1.0):
        finger = np.array([middle[0], middle[1] + side * (half + _FINGER)])
        away = [
            float(np.linalg.norm(np.maximum(0.0, np.maximum(other_low[:2] - finger, finger - other_high[:2]))))
            for other_low, other_high in (box_of(env, name) for name in env.domain.obj_body_id if name != thing)
            if other_high[2] > low[2] + _TIPS
        ]
        room[side] = min(away, default=1.0)
    return max(room, key=lambda side: room[side])


def box_of(env: LiberoEnv, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner in the world of what a thing can be touched by, metres, [3] each."""
    model, data = env.domain.sim.model, env.domain.sim.data
    within = {env.domain.obj_body_id[name]}
    for body in range(model.nbody):
        if model.body_parentid[body] in within:
            within.add(body)
    signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * 3)).reshape(3, -1)
    corners = []
    for geom in range(model.ngeom):
        if model.geom_bodyid[geom] in within and model.geom_group[geom] == 0:
            middle, half = model.geom_aabb[geom][:3, None], model.geom_aabb[geom][3:, None]
            turned = data.geom_xmat[geom].reshape(3, 3) @ (middle + half * signs)
            corners.append(turned.T + data.geom_xpos[geom])
    found = np.concatenate(corners) if corners else np.array(data.body_xpos[env.domain.obj_body_id[name]])[None]
    return found.min(0), found.max(0)
