# SPDX-License-Identifier: Apache-2.0
"""Numbers of the scenes that evaluations are driven in: seeds of the simulator that no demonstration has."""

__all__ = ["DEMO_SEED_BASE", "EVAL_SEED_BASE", "evaluation_scene"]

DEMO_SEED_BASE = 0
EVAL_SEED_BASE = 1_000_000
"""Demonstrations draw seeds below this number, evaluations from it on."""
_APART = 10_000


def evaluation_scene(seed: int, episode: int) -> int:
    """Numbers the scene of an evaluation's episode.

    Args:
        seed: Of the evaluation.
        episode: Its place, from 0.
    """
    return EVAL_SEED_BASE + _APART * seed + episode
