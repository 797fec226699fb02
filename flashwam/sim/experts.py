# SPDX-License-Identifier: Apache-2.0
"""Scripted experts: functions of the present state alone, so that they also know the way back after a disturbance."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from flashwam.sim.tasks import WALL_Y, TaskSpec

__all__ = ["Expert", "make_expert"]

Expert = Callable[[np.ndarray], np.ndarray]
"""Maps MetaWorld's state, [39], to an action in [-1, 1], [4]."""

_GAIN = 12.0


def _towards(hand: np.ndarray, target: np.ndarray, *, grip: float = 1.0) -> np.ndarray:
    """A step towards `target` that keeps its direction when it saturates."""
    delta = _GAIN * (np.asarray(target, dtype=np.float64) - hand)
    return np.append(delta / max(1.0, float(np.abs(delta).max())), grip)


def _round_the_wall(env: Any, side: int) -> Expert:
    corridor, height = 0.165, 0.10

    def act(state: np.ndarray) -> np.ndarray:
        hand = state[:3]
        lateral = side * hand[0]
        if hand[1] < WALL_Y - 0.02 and lateral < corridor - 0.035:
            target = np.array([side * (corridor + 0.01), WALL_Y - 0.06, height])
        elif hand[1] < WALL_Y + 0.10:
            target = np.array([side * corridor, WALL_Y + 0.16, height])
        else:
            # The hand frame sits 4.5 cm above the finger tips, which are what must reach the goal.
            target = env._target_pos + np.array([0.0, 0.0, 0.045])
        return _towards(hand, target)

    return act


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
    "reach-wall": _round_the_wall,
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
        raise ValueError(f"{task.name}: expected a way in 0..{len(task.ways) - 1}, got {way}")
    if not task.multimodal and way != -1:
        raise ValueError(f"{task.name} has one way only: expected way -1, got {way}")
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
