# SPDX-License-Identifier: Apache-2.0
"""Tells which of two ways a hand, or a first chunk of controls, takes, and tosses the coin for a demonstration."""

import zlib

import numpy as np

from flashwam.sim.contract import Task

__all__ = ["chosen_ways", "commitment", "leading", "toss_way", "way_of"]

_LEADING_CONTROLS = 8


def way_of(along: np.ndarray, reference: float = 0.0, *, threshold: float = 0.05) -> int:
    """Tells which way a trajectory took: the side of its first departure of more than `threshold` metres.

    Args:
        along: The hand's place along the ways' axis over time, metres, [T].
        reference: The place about which the ways are mirrored.
        threshold: Distance that counts as having chosen.

    Returns:
        0 for the negative side, 1 for the positive one, -1 if the hand never left the middle.
    """
    offset = np.asarray(along, dtype=np.float64) - reference
    away = np.flatnonzero(np.abs(offset) > threshold)
    return -1 if away.size == 0 else int(offset[away[0]] > 0)


def leading(controls: np.ndarray, axis: tuple[float, float]) -> np.ndarray:
    """The mean of the first executed controls along the ways' axis, by which `commitment` tells a first chunk's way.

    Args:
        controls: Raw units in [-1, 1], those in x and y first, [B, T, U]; eight count, or all where there are fewer.
        axis: See `flashwam.sim.contract.Task`.

    Returns:
        float64 [B, 1].
    """
    along = controls[:, :_LEADING_CONTROLS, :2].astype(np.float64) @ np.array(axis)
    return along.mean(1, keepdims=True)


def chosen_ways(controls: np.ndarray, task: Task) -> np.ndarray:
    """The way that each first chunk of controls, [B, T, U], clearly takes in a task: 0, 1, or -1 for none, [B]."""
    return commitment(leading(controls, task.axis), threshold=task.commit_threshold)[1]


def commitment(along: np.ndarray, *, threshold: float = 0.5) -> tuple[float, np.ndarray]:
    """Measures how many action chunks clearly leave to one side; an average of two ways leaves to neither.

    Args:
        along: The first executed controls along the ways' axis, raw units in [-1, 1], [B, T].
        threshold: Least |mean over T| that counts as a choice (the ways' own chunks have about 0.7 to 1).

    Returns:
        The share of committed chunks, and the chosen way per chunk (0, 1, or -1 for none), [B].
    """
    mean = np.asarray(along, dtype=np.float64).mean(axis=1)
    way = np.where(np.abs(mean) < threshold, -1, (mean > 0).astype(int))
    return float((way >= 0).mean()), way


def toss_way(task: Task, index: int, seed: int) -> int:
    """Chooses an episode's way: blind to the scene, and equally often each in every run of as many episodes as ways.

    Args:
        task: The task.
        index: Episode number.
        seed: Of the collection.
    """
    if not task.multimodal:
        return -1
    count = len(task.ways)
    rng = np.random.default_rng([seed, zlib.crc32(task.name.encode()), index // count])
    return int(rng.permutation(count)[index % count])
