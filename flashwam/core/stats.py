# SPDX-License-Identifier: Apache-2.0
"""Intervals for shares of successes, and of means."""

import math
import statistics
from collections.abc import Hashable, Sequence
from functools import cache

import numpy as np

__all__ = ["difference_interval", "mean_interval", "paired_difference", "wilson", "within_correlation"]


@cache
def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share, (low, high); (0, 1) where nothing was tried.

    Raises:
        ValueError: unless 0 <= successes <= n and 0 < confidence < 1.
    """
    from scipy.stats import binomtest

    if not (0 <= successes <= n and 0 < confidence < 1):
        raise ValueError(
            f"expected 0 <= successes <= n and a confidence in (0, 1); got {successes} of {n} at {confidence}"
        )
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(int(successes), int(n)).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def difference_interval(
    first: tuple[int, int], second: tuple[int, int], confidence: float = 0.95
) -> tuple[float, float]:
    """Newcombe's hybrid score interval of p1 - p2 (Newcombe 1998, method 10, unpaired).

    Args:
        first: (successes, n) of p1.
        second: (successes, n) of p2.
        confidence: Two-sided level.

    Returns:
        (low, high) within [-1, 1]; an interval that leaves out 0 is a difference.
    """
    (k1, n1), (k2, n2) = first, second
    low1, high1 = wilson(k1, n1, confidence)
    low2, high2 = wilson(k2, n2, confidence)
    if n1 == 0 or n2 == 0:
        return -1.0, 1.0
    p1, p2 = k1 / n1, k2 / n2
    low = p1 - p2 - math.hypot(p1 - low1, high2 - p2)
    high = p1 - p2 + math.hypot(high1 - p1, p2 - low2)
    return low, high


def within_correlation(
    first: Sequence[float], second: Sequence[float], groups: Sequence[Hashable], confidence: float = 0.95
) -> tuple[float, float, float] | None:
    """Pearson's r of two quantities after each group's own means are taken away, with Fisher's interval.

    What only sets the groups apart, such as one task being harder and slower than another, is thereby left out.

    Args:
        first, second: n values each.
        groups: Of each value.
        confidence: Two-sided level.

    Returns:
        (r, low, high); None where the groups leave fewer than four degrees of freedom or one quantity never varies.
    """
    from scipy.stats import norm

    kinds = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    member = np.array([kinds[group] for group in groups], dtype=int)
    if len(member) - len(kinds) < 4:
        return None
    centred = []
    for values in (first, second):
        x = np.asarray(values, dtype=float)
        centred.append(x - (np.bincount(member, x) / np.bincount(member))[member])
    norms = np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())
    if norms < 1e-12:
        return None
    r = float(np.clip((centred[0] * centred[1]).sum() / norms, -1, 1))
    if abs(r) > 1 - 1e-12:
        return r, r, r
    # A correlation of n pairs has n - 3 in Fisher's formula; every further mean that was taken away costs one more.
    reach = norm.ppf(0.5 + confidence / 2) / math.sqrt(len(member) - len(kinds) - 2)
    return r, math.tanh(math.atanh(r) - reach), math.tanh(math.atanh(r) + reach)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Student's t interval of a mean, (low, high); without bounds for a single value, which tells of no spread.

    Raises:
        ValueError: There is no value.
    """
    from scipy.stats import t

    if not values:
        raise ValueError("expected values; got none")
    mean = statistics.fmean(values)
    if len(values) == 1:
        return -math.inf, math.inf
    reach = t.ppf(0.5 + confidence / 2, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - reach, mean + reach


def paired_difference(
    first: Sequence[bool], second: Sequence[bool], confidence: float = 0.95
) -> tuple[float, float, float]:
    """Difference of two shares of successes over the same n episodes, with its interval.

    The normal approximation of McNemar's setting: only episodes that one of the two won alone tell them apart. With
    one such episode added on either side, as an interval of no width would claim to know everything.

    Args:
        first, second: Success of each episode, in the same order.
        confidence: Two-sided level.

    Returns:
        (first - second, low, high).

    Raises:
        ValueError: There is not one outcome of each for every episode, or no episode.
    """
    from scipy.stats import norm

    if len(first) != len(second) or not len(first):
        raise ValueError(f"expected outcomes of the same episodes; got {len(first)} and {len(second)}")
    n = len(first)
    won = sum(bool(a) and not b for a, b in zip(first, second, strict=True))
    lost = sum(bool(b) and not a for a, b in zip(first, second, strict=True))
    difference = (won - lost) / n
    spread = math.sqrt((won + lost + 2) / n - difference**2) / math.sqrt(n)
    reach = norm.ppf(0.5 + confidence / 2) * spread
    return difference, max(-1.0, difference - reach), min(1.0, difference + reach)
