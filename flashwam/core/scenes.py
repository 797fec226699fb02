# SPDX-License-Identifier: Apache-2.0
"""Numbers of the scenes that models are driven in: seeds of the simulator, apart by what they are for."""

from flashwam.system.errors import InputError

__all__ = [
    "DEMO_ATTEMPTS",
    "DEMO_EPISODES",
    "DEMO_SEED_BASE",
    "EVAL_SEED_BASE",
    "HISTORY_SEED_BASE",
    "JUDGED_SEED",
    "NOISES_APART",
    "demonstration_number",
    "demonstration_scene",
    "evaluation_episode",
    "evaluation_scene",
    "noise_seed",
    "recorded_scene",
]

DEMO_SEED_BASE = 0
EVAL_SEED_BASE = 1_000_000
HISTORY_SEED_BASE = 1_000_000_000
"""Demonstrations draw seeds below the second number, evaluations those up to the third, recordings of models from the
third on."""
DEMO_EPISODES = 10_000
"""Most demonstrations of a task that are collected with one seed."""
DEMO_ATTEMPTS = 10
"""Scenes that each of them has, of which it takes the first in which the expert succeeds."""
JUDGED_SEED = 90_000
"""Seed of the evaluations of a model that is still trained, so that it is not chosen by the scenes of a later one."""
NOISES_APART = 1_000_003
"""Noises of neighbouring seeds are others, as far as what is drawn with one seed is fewer."""
_APART = 10_000


def demonstration_scene(seed: int, number: int) -> int:
    """Numbers the first scene of a demonstration.

    Args:
        seed: Of the collection.
        number: Of the episode, from 0.
    """
    return DEMO_SEED_BASE + (seed * DEMO_EPISODES + number) * DEMO_ATTEMPTS


def demonstration_number(seed: int, scene: int) -> int | None:
    """Number of the demonstration of a collection that a scene is of, see `demonstration_scene`; None for scenes of
    other collections and of no demonstrations."""
    number = (scene - DEMO_SEED_BASE) // DEMO_ATTEMPTS - seed * DEMO_EPISODES
    return number if scene < EVAL_SEED_BASE and 0 <= number < DEMO_EPISODES else None


def evaluation_scene(seed: int, episode: int) -> int:
    """Numbers the scene of an evaluation's episode.

    Args:
        seed: Of the evaluation.
        episode: Its place, from 0.

    Raises:
        ValueError: It would be a scene of demonstrations or recordings, or the episode another seed's.
    """
    if not 0 <= episode < _APART:
        raise InputError(f"an evaluation has episodes from 0 on, below {_APART}; got episode {episode}")
    most = (HISTORY_SEED_BASE - EVAL_SEED_BASE) // _APART
    scene = EVAL_SEED_BASE + _APART * seed + episode
    if seed < 0 or scene >= HISTORY_SEED_BASE:
        raise InputError(f"seed of an evaluation: expected 0 to {most - 1}; got {seed}")
    return scene


def evaluation_episode(scene: int) -> tuple[int, int] | None:
    """Seed and episode of the evaluation that a scene is of, see `evaluation_scene`; None for scenes of others."""
    return divmod(scene - EVAL_SEED_BASE, _APART) if EVAL_SEED_BASE <= scene < HISTORY_SEED_BASE else None


def noise_seed(seed: int, episode: int) -> int:
    """Seeds the noise of a policy from an evaluation's episode on.

    Args:
        seed: Of the evaluation.
        episode: The first that is driven with this noise, from 0.
    """
    return NOISES_APART * seed + 17 + episode


def recorded_scene(seed: int, episode: int) -> int:
    """Numbers the scene of an episode that is recorded of a model, see `evaluation_scene`.

    Raises:
        ValueError: The seed is negative, or the episode another seed's.
    """
    if seed < 0 or not 0 <= episode < _APART:
        raise InputError(
            f"a recording has a seed from 0 on and episodes below {_APART}; got seed {seed} and episode {episode}"
        )
    return HISTORY_SEED_BASE + _APART * seed + episode
