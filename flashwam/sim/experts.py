# SPDX-License-Identifier: Apache-2.0
"""Scripted experts: functions of the present state alone, so that they also know the way back after a disturbance."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from flashwam.sim.tasks import WALL_Y, TaskSpec
from flashwam.system.errors import InputError

__all__ = ["Expert", "make_expert"]

Expert = Callable[[np.ndarray], np.ndarray]
"""Maps MetaWorld's state, [39], to an action in [-1, 1], [4]."""

_GAIN = 12.0


def _towards(hand: np.ndarray, target: np.ndarray, *, grip: float = 1.0) -> np.ndarray:
    """A step towards `target` that keeps its direction when it saturates."""
    delta = _GAIN * (np.asarray(target, dtype=np.float64) - hand)
    return np.append(delta / max(1.0, float(np.abs(delta).max())), grip)


def _round_the_wall(env: Any, side: int, *, wall_y: float, height: float, then: Expert) -> Expert:
    """Leaves to a side at once, passes the wall's edge, and does the rest behind it."""
    corridor = 0.12

    def act(state: np.ndarray) -> np.ndarray:
        hand = state[:3]
        if hand[1] < wall_y - 0.02 and side * hand[0] < corridor - 0.03:
            return _towards(hand, np.array([side * (corridor + 0.01), wall_y - 0.02, height]))
        if hand[1] < wall_y + 0.05:
            return _towards(hand, np.array([side * corridor, wall_y + 0.12, height]))
        return then(state)

    return act


def _reach_behind_the_wall(env: Any, side: int) -> Expert:
    # The hand frame sits 4.5 cm above the finger tips, which are what must reach the goal.
    def reach(state: np.ndarray) -> np.ndarray:
        return _towards(state[:3], env._target_pos + np.array([0.0, 0.0, 0.045]))

    return _round_the_wall(env, side, wall_y=WALL_Y["reach-wall"], height=0.10, then=reach)


def _press_behind_the_wall(env: Any, side: int) -> Expert:
    def press(state: np.ndarray) -> np.ndarray:
        hand, button = state[:3], state[4:7] + np.array([0.0, 0.0, 0.04])
        if np.abs(hand[[0, 2]] - button[[0, 2]]).max() > 0.02:
            return _towards(hand, button + np.array([0.0, -0.06, 0.0]), grip=1.0)
        return _towards(hand, button + np.array([0.0, 0.10, 0.0]), grip=1.0)

    return _round_the_wall(env, side, wall_y=WALL_Y["button-wall"], height=0.12, then=press)


def _turn_the_handle(env: Any, side: int) -> Expert:
    height = 0.13

    def act(state: np.ndarray) -> np.ndarray:
        hand = state[:3]
        base = env.data.body("faucet_link2").xpos[:2]
        angle = float(env.data.joint("knob_Joint_1").qpos[0])
        along = np.array([np.sin(angle), -np.cos(angle)])
        outward = side * np.array([np.cos(angle), np.sin(angle)])
        lateral, reach = (hand[:2] - base) @ outward, (hand[:2] - base) @ along
        if reach > 0.19:
            # In front of the tip: get clear to the side first, then go beside the handle.
            goal = base + (0.22 * along + 0.11 * outward if lateral < 0.07 else 0.12 * along + 0.085 * outward)
        elif lateral > 0.02:
            goal = base + 0.125 * along - 0.06 * outward
        else:
            goal = base + 0.27 * along + 0.05 * outward
        return _towards(hand, np.append(goal, height))

    return act


def _open_the_drawer(env: Any, side: int) -> Expert:
    """Quicker than MetaWorld's own: the hand travels lower and does not slow down before it descends."""

    def act(state: np.ndarray) -> np.ndarray:
        hand, handle = state[:3], state[4:7] - np.array([0.0, 0.0, 0.02])
        if np.linalg.norm(hand[:2] - handle[:2]) > 0.06:
            return _towards(hand, handle + np.array([0.0, 0.0, 0.14]), grip=-1.0)
        if abs(hand[2] - handle[2]) > 0.04:
            return _towards(hand, handle, grip=-1.0)
        return _towards(hand, handle + np.array([0.0, -0.09, 0.0]), grip=-1.0)

    return act


_SCRIPTS: dict[str, Callable[[Any, int], Expert]] = {
    "drawer-open": _open_the_drawer,
    "reach-wall": _reach_behind_the_wall,
    "button-wall": _press_behind_the_wall,
    "faucet-turn": _turn_the_handle,
}


def make_expert(task: TaskSpec, env: Any, way: int = -1) -> Expert:
    """Builds the expert of a task.

    Args:
        task: The task.
        env: The MetaWorld environment the expert looks into.
        way: Index into `task.ways`; -1 for an ordinary task.

    Raises:
        ValueError: The task has no such way.
    """
    if task.multimodal and not 0 <= way < len(task.ways):
        raise InputError(f"{task.name}: expected a way in 0..{len(task.ways) - 1}, got {way}")
    if not task.multimodal and way != -1:
        raise InputError(f"{task.name} has one way only: expected way -1, got {way}")
    if task.name in _SCRIPTS:
        return _SCRIPTS[task.name](env, 2 * way - 1)
    from metaworld.policies import ENV_POLICY_MAP

    policy = ENV_POLICY_MAP[task.env]()

    def act(state: np.ndarray) -> np.ndarray:
        with warnings.catch_warnings():
            # MetaWorld's experts saturate on purpose and warn about it at every step.
            warnings.simplefilter("ignore")
            return np.clip(policy.get_action(state), -1.0, 1.0)

    return act
