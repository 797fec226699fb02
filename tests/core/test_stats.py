# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
from scipy.stats import binomtest, pearsonr, ttest_1samp

from flashwam.core.stats import difference_interval, mean_interval, paired_difference, wilson, within_correlation


@pytest.mark.parametrize(("k", "n"), [(0, 12), (12, 12), (7, 30), (1, 1), (50, 250)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_equals_scipy_and_the_score_formula(k, n, confidence):
    low, high = wilson(k, n, confidence)
    reference = binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert (low, high) == pytest.approx((reference.low, reference.high), abs=1e-12)
    from scipy.stats import norm

    z = norm.ppf(0.5 + confidence / 2)
    centre = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    assert (low, high) == pytest.approx((max(0, centre - half), min(1, centre + half)), abs=1e-9)


def test_mean_interval_equals_scipys_and_one_value_has_no_bounds():
    values = [0.02, 0.05, -0.01, 0.04]
    expected = ttest_1samp(values, 0).confidence_interval(0.9)
    assert mean_interval(values, 0.9) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert mean_interval([0.3]) == (-math.inf, math.inf)
    with pytest.raises(ValueError, match="got none"):
        mean_interval([])


def test_nothing_tried_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0)
    assert difference_interval((0, 0), (3, 4)) == (-1.0, 1.0)


def test_difference_equals_newcombes_published_example():
    # 56/70 against 48/80, Newcombe (1998), table II, method 10.
    assert difference_interval((56, 70), (48, 80)) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_difference_is_antisymmetric():
    low, high = difference_interval((9, 10), (3, 10))
    assert difference_interval((3, 10), (9, 10)) == pytest.approx((-high, -low))


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="0 <= successes <= n"):
        wilson(5, 4)
    with pytest.raises(ValueError, match="confidence"):
        wilson(1, 4, 1.0)


def test_one_group_is_pearsons_correlation_with_fishers_interval():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(40)
    y = (x + rng.standard_normal(40) > 0).astype(float)
    reference = pearsonr(x, y)
    interval = reference.confidence_interval(0.9)
    assert within_correlation(x, y, [0] * 40, 0.9) == pytest.approx((reference.statistic, *interval), abs=1e-12)


def test_what_only_tells_groups_apart_is_no_correlation():
    rng = np.random.default_rng(1)
    group = np.repeat([0, 1], 200)
    x, y = (3 * group + rng.standard_normal(400) for _ in range(2))
    assert pearsonr(x, y).statistic > 0.6
    r, low, high = within_correlation(x, y, group.tolist())
    assert low < 0 < high
    assert abs(r) < 0.1


def test_a_correlation_that_cannot_be_told_is_none():
    assert within_correlation([1, 2, 3, 4], [1, 0, 1, 0], ["a", "a", "b", "b"]) is None
    assert within_correlation([1, 2, 3, 4, 5, 6], [1, 1, 1, 1, 1, 1], "a" * 6) is None
    assert within_correlation([], [], []) is None
    assert within_correlation([1, 2, 3, 4, 5, 6], [2, 4, 6, 8, 10, 12], "a" * 6) == pytest.approx((1, 1, 1))


def test_a_paired_difference_looks_at_the_episodes_that_one_of_two_won_alone():
    first, second = [1, 1, 1, 0, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0, 0, 0]
    difference, low, high = paired_difference(first, second)
    assert difference == pytest.approx((2 - 1) / 8)
    assert low < difference < high
    assert high - difference == pytest.approx(difference - low)
    # Episodes that both win or both lose add nothing but their number.
    assert paired_difference([*first, *([1] * 8)], [*second, *([1] * 8)])[0] == pytest.approx(difference / 2)
    assert paired_difference(second, first) == pytest.approx((-difference, -high, -low))
    same = paired_difference([1] * 100, [1] * 100)
    assert same[0] == 0
    assert same[1] < 0 < same[2]


def test_a_paired_interval_covers_the_truth():
    """0.95 of the intervals of correlated pairs, which an unpaired interval would cover far too often."""
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(1500):
        episode = rng.uniform(size=120)
        first, second = episode < 0.7, np.where(rng.uniform(size=120) < 0.2, rng.uniform(size=120), episode) < 0.6
        _, low, high = paired_difference(first, second)
        inside.append(low < 0.1 < high)
    assert 0.94 < np.mean(inside) < 0.985


@pytest.mark.parametrize(("first", "second"), [([], []), ([True], [True, False])])
def test_a_pair_needs_the_same_episodes(first, second):
    with pytest.raises(ValueError, match="same episodes"):
        paired_difference(first, second)
