# SPDX-License-Identifier: Apache-2.0
"""Two models held against each other scene by scene and training by training, with intervals that hold both."""

from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

__all__ = ["Episode", "Outcomes", "Paired", "Pairs", "pair_outcomes", "paired_ratio", "paired_share_difference"]

Episode = tuple[Hashable, Hashable]
"""(task, scene); a scene of the same number has the same noise in every task. Where a scene is driven at several seeds,
the first member tells the seed too."""
Outcomes = Mapping[Hashable, Mapping[Episode, bool]]
"""Training -> episode -> success."""

_DRAWS = 2000
_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """A quantity of two models over the same scenes, with its interval.

    Args:
        value: Its estimate.
        low, high: Ends of the interval; with one training the spread of trainings is not in it.
        trainings: How many it is over.
        episodes: Pairs of episodes it is over, those of all trainings together.
        by_training: The same quantity of each training, in their order; of those that have it.
    """

    value: float
    low: float
    high: float
    trainings: int
    episodes: int
    by_training: tuple[float, ...]

    @property
    def distinct(self) -> bool:
        """Tells whether a difference is told from 0; not for ratios."""
        return self.low > 0 or self.high < 0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "by_training": list(self.by_training)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Episodes of two models in the same scenes.

    Args:
        trainings: Training -> episode -> success of the first model and of the second.
    """

    trainings: Mapping[Hashable, Mapping[Episode, tuple[bool, bool]]]

    @property
    def episodes(self) -> int:
        """The number of pairs."""
        return sum(map(len, self.trainings.values()))

    @property
    def counts(self) -> list[tuple[int, int, int]]:
        """Of each training, successes of the first model, of the second, and pairs."""
        return [
            (sum(bool(first) for first, _ in own), sum(bool(second) for _, second in own), len(own))
            for own in (episodes.values() for episodes in self.trainings.values())
        ]

    def __bool__(self) -> bool:
        return self.episodes > 0


def pair_outcomes(first: Outcomes, second: Outcomes, *, fixed: bool = False) -> Pairs:
    """Pairs the episodes of two models by training and scene; what only one of them has is left out.

    Args:
        first: Of a model.
        second: Of another, or of the teacher.
        fixed: The second model is given, as a teacher is: with one training it is paired with each of the first's.
    """
    (only,) = second.values() if fixed and len(second) == 1 else (None,)
    trainings = {}
    for training, episodes in first.items():
        others = second.get(training, {}) if only is None else only
        common = {episode: (won, others[episode]) for episode, won in episodes.items() if episode in others}
        if common:
            trainings[training] = common
    return Pairs(trainings=trainings)


def paired_ratio(pairs: Pairs, confidence: float = 0.95) -> Paired | None:
    """Successes of the first model over those of the second in the same scenes; None where the second had none.

    The interval is a two-level bootstrap of fixed seed. Trainings are drawn with replacement, and for each one drawn
    its scenes, a scene with both models' outcomes in all its tasks, since they had the same noise there; scenes that
    several trainings were driven in are drawn once for all of them, since luck in them is shared. Two episodes are
    added to what is drawn from, one that each model wins alone: without them equal models would have an interval of no
    width. The interval is the estimate plus the quantiles of what is drawn less its centre.

    Luck in scenes is counted again in the spread of trainings, which makes up for the narrowness that drawing from few
    of them has: simulated for two to five trainings of 100 scenes, 95 % intervals hold the truth in 93 to 99 % of the
    cases where trainings scatter no more than luck in their scenes does, and in 88 to 97 % where they scatter half as
    much again. One training is not drawn from: its interval holds for that training alone. One scene tells nothing of
    the luck in scenes: its interval holds 1, whatever came out.

    Args:
        pairs: See `pair_outcomes`.
        confidence: Two-sided level.
    """
    ours, theirs = (sum(count[k] for count in pairs.counts) for k in (0, 1))
    if not theirs:
        return None
    drawn, centre = _draws(pairs)
    # A draw in which the second never succeeds counts as one success of it, so that the interval ends somewhere.
    deviations = drawn[:, 0] / np.maximum(drawn[:, 1], 1) - centre[0] / centre[1]
    single = tuple(first / second for first, second, _ in pairs.counts if second)
    found = _interval(ours / theirs, single, deviations, pairs, confidence, (0.0, np.inf))
    if len({scene for episodes in pairs.trainings.values() for _, scene in episodes}) < 2:
        found = replace(found, low=min(found.low, 1.0), high=max(found.high, 1.0))
    return found


def paired_share_difference(pairs: Pairs, confidence: float = 0.95) -> Paired:
    """Share of successes of the first model less that of the second in the same scenes.

    Args:
        pairs: See `pair_outcomes`.
        confidence: Two-sided level; the interval is that of `paired_ratio`.

    Raises:
        ValueError: There are no pairs.
    """
    if not pairs:
        raise ValueError("expected episodes of both models in the same scenes; got none")
    single = tuple((first - second) / count for first, second, count in pairs.counts)
    value = sum(first - second for first, second, _ in pairs.counts) / pairs.episodes
    drawn, centre = _draws(pairs)
    deviations = (drawn[:, 0] - drawn[:, 1]) / drawn[:, 2] - (centre[0] - centre[1]) / centre[2]
    return _interval(value, single, deviations, pairs, confidence, (-1.0, 1.0))


def _interval(
    value: float,
    single: tuple[float, ...],
    deviations: np.ndarray,
    pairs: Pairs,
    confidence: float,
    bounds: tuple[float, float],
) -> Paired:
    if not 0 < confidence < 1:
        raise ValueError(f"expected a confidence in (0, 1); got {confidence}")
    low, high = np.quantile(deviations, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Paired(
        value=value,
        low=float(np.clip(value + low, *bounds)),
        high=float(np.clip(value + high, *bounds)),
        trainings=len(pairs.trainings),
        episodes=pairs.episodes,
        by_training=single,
    )


def _draws(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Successes of the first, of the second and episodes in every draw, [draws, 3], and what they scatter about, [3].

    A block is the scenes that the same trainings were driven in; its scenes differ in the pattern of outcomes alone.
    """
    generator = np.random.default_rng(_SEED)
    counted = [_scenes(episodes) for episodes in pairs.trainings.values()]
    driven: dict[Hashable, list[int]] = {}
    for number, own_scenes in enumerate(counted):
        for scene in own_scenes:
            driven.setdefault(scene, []).append(number)
    blocks: dict[tuple[int, ...], list[Hashable]] = {}
    for scene, numbers in driven.items():
        blocks.setdefault(tuple(numbers), []).append(scene)
    count = len(counted)
    totals = np.zeros((_DRAWS, count, count, 3))
    centre = np.zeros(3)
    for members, scenes in blocks.items():
        table = np.array([[counted[k][scene] for k in members] for scene in scenes], dtype=int)
        patterns, seen = np.unique(table.reshape(len(scenes), -1), axis=0, return_counts=True)
        alone = np.tile([[1, 0, 1], [0, 1, 1]], len(members))
        patterns, weights = np.concatenate([patterns, alone]), np.append(seen, [1 / len(blocks)] * 2)
        weights = weights / weights.sum()
        # Each drawn training has its own draw of scenes, but for scenes that it shares with others.
        drawn = generator.multinomial(len(scenes), weights, size=(_DRAWS, count if len(members) == 1 else 1))
        for position, member in enumerate(members):
            own = patterns[:, 3 * position : 3 * position + 3]
            totals[:, :, member] += drawn @ own
            centre += len(scenes) * weights @ own
    chosen = generator.integers(count, size=(_DRAWS, count))
    return np.take_along_axis(totals, chosen[:, :, None, None], 2).sum((1, 2)), centre


def _scenes(episodes: Mapping[Episode, tuple[bool, bool]]) -> dict[Hashable, tuple[int, int, int]]:
    """Scene -> successes of the first, of the second, and episodes, over its tasks."""
    counted: dict[Hashable, tuple[int, int, int]] = {}
    for (_, scene), (first, second) in episodes.items():
        ours, theirs, count = counted.get(scene, (0, 0, 0))
        counted[scene] = (ours + bool(first), theirs + bool(second), count + 1)
    return counted
