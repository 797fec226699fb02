# SPDX-License-Identifier: Apache-2.0
"""Intervals over trainings and scenes, where their width is known."""

import math

import numpy as np
import pytest

from flashwam.core.pairing import Pairs, pair_outcomes, paired_ratio, paired_share_difference


def pairs(*trainings, shared=False):
    """Pairs from the outcomes of two models, a training each; every training in scenes of its own, or in the same."""
    return Pairs(
        trainings={
            number: {
                ("task", (0 if shared else number, scene)): pair for scene, pair in enumerate(zip(*both, strict=True))
            }
            for number, both in enumerate(trainings)
        }
    )


def counted(both, won, lost, neither=0):
    """Outcomes of two models, by the number of scenes of each kind."""
    return [1] * both + [1] * won + [0] * lost + [0] * neither, [1] * both + [0] * won + [1] * lost + [0] * neither


def half_width(paired):
    return (paired.high - paired.low) / 2


def test_one_training_has_mcnemars_interval():
    found = paired_share_difference(pairs(counted(700, 60, 140, 100)))
    assert (found.value, found.trainings, found.episodes) == (pytest.approx(-0.08), 1, 1000)
    known = 1.96 * math.sqrt((200 + 2) / 1000 - 0.08**2) / math.sqrt(1000)
    assert half_width(found) == pytest.approx(known, rel=0.06)


def test_a_ratio_has_the_interval_of_the_delta_method():
    found = paired_ratio(pairs(counted(700, 60, 140, 100)))
    assert found.value == pytest.approx(760 / 840)
    first, second = (np.array(x) for x in counted(700, 60, 140, 100))
    known = 1.96 * np.std(first - found.value * second) / math.sqrt(1000) / second.mean()
    assert half_width(found) == pytest.approx(known, rel=0.06)


def test_trainings_that_scatter_widen_the_interval_by_what_is_known():
    """Three trainings whose scenes all go one way: only which of them are drawn is left to chance."""
    scattered = pairs(*(counted(1000 - lost, 0, lost) for lost in (0, 300, 600)))
    found = paired_share_difference(scattered)
    assert found.value == pytest.approx(-0.3)
    assert found.by_training == pytest.approx((0, -0.3, -0.6))
    # Of the 27 draws of three trainings the one of thrice the best, or thrice the worst, is 1 in 27 each.
    assert (found.low, found.high) == (pytest.approx(-0.6, abs=0.03), pytest.approx(0.0, abs=0.03))
    alike = paired_share_difference(pairs(*[counted(700, 0, 300)] * 3))
    assert half_width(alike) < 0.1 * half_width(found)


def test_luck_in_scenes_that_trainings_share_is_not_averaged_away():
    one = counted(90, 4, 6)
    alone = half_width(paired_share_difference(pairs(one)))
    shared = half_width(paired_share_difference(pairs(*[one] * 5, shared=True)))
    apart = half_width(paired_share_difference(pairs(*[one] * 5)))
    assert shared == pytest.approx(alone, rel=0.1)
    assert apart < 0.7 * alone


def test_luck_in_noise_that_tasks_share_is_not_averaged_away():
    """Two tasks that end alike in every scene tell no more than one of them; two that do not tell more."""
    one = counted(90, 4, 6)
    outcomes = list(zip(*one, strict=True))
    alone = half_width(paired_ratio(pairs(one)))
    both = {("first", scene): pair for scene, pair in enumerate(outcomes)}
    alike = Pairs(trainings={0: {**both, **{("second", scene): pair for scene, pair in enumerate(outcomes)}}})
    apart = Pairs(trainings={0: {**both, **{("second", 1000 + scene): pair for scene, pair in enumerate(outcomes)}}})
    assert paired_ratio(alike).value == paired_ratio(apart).value
    assert half_width(paired_ratio(alike)) == pytest.approx(alone, rel=0.1)
    assert half_width(paired_ratio(apart)) < 0.8 * alone


def test_the_interval_holds_the_truth():
    """Trainings of success 0.8 that scatter by 3 points, against a teacher of success 0.9 in the same scenes."""
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(60):
        trainings = []
        for level in 0.8 + 0.03 * rng.standard_normal(3):
            scenes = rng.uniform(size=100)
            own = np.where(rng.uniform(size=100) < 0.5, scenes, rng.uniform(size=100))
            trainings.append((own < level, scenes < 0.9))
        found = paired_ratio(pairs(*trainings))
        inside.append(found.low <= 0.8 / 0.9 <= found.high)
    assert 0.88 <= np.mean(inside) < 1


@pytest.mark.parametrize("outcomes", [[1, 0] * 50, [1] * 100], ids=["half", "all"])
@pytest.mark.parametrize("trainings", [1, 3])
def test_equal_models_are_told_so_without_claiming_to_know_everything(outcomes, trainings):
    same = pairs(*[(outcomes, outcomes)] * trainings)
    ratio, difference = paired_ratio(same), paired_share_difference(same)
    assert (ratio.value, difference.value) == (1, 0)
    assert ratio.low < 1 < ratio.high
    assert difference.low < 0 < difference.high
    # No more than two episodes of all would do.
    assert half_width(difference) < 2 * 2 / (100 * trainings) ** 0.5 / 100**0.5


def test_the_sign_turns_with_the_order():
    there, back = counted(60, 5, 25, 10), counted(60, 25, 5, 10)
    first, second = (paired_share_difference(pairs(one)) for one in (there, back))
    assert first.value == pytest.approx(-second.value)
    assert first.high < 0 < second.low


def test_equal_pairs_have_equal_intervals():
    one = pairs(counted(60, 5, 25, 10), counted(70, 5, 15, 10))
    assert paired_ratio(one) == paired_ratio(one)


def test_a_teacher_that_never_succeeds_has_no_ratio():
    assert paired_ratio(pairs(([1, 0], [0, 0]))) is None
    assert paired_ratio(Pairs(trainings={})) is None
    with pytest.raises(ValueError, match="same scenes; got none"):
        paired_share_difference(Pairs(trainings={}))


def test_a_ratio_to_a_few_successes_is_wide_and_ends_somewhere():
    found = paired_ratio(pairs(counted(2, 1, 1, 8), counted(0, 2, 0, 10)))
    assert found.value == 5 / 3
    assert 0 <= found.low < 1
    assert 2 < found.high < 10
    assert found.by_training == (1.0,)


@pytest.mark.parametrize("outcomes", [([0], [1]), ([1], [1]), ([1], [0]), ([0] * 4, [1] * 4)])
def test_one_scene_tells_no_ratio_from_1(outcomes):
    """However many tasks were driven in it: their noise is one."""
    ours, theirs = outcomes
    one = Pairs(trainings={0: {(task, 0): pair for task, pair in enumerate(zip(ours, theirs, strict=True))}})
    found = paired_ratio(one)
    if any(theirs):
        assert found.low <= 1 <= found.high
    else:
        assert found is None


def test_episodes_are_paired_by_training_and_scene():
    a, b, c, d = (("task", scene) for scene in "abcd")
    student = {1: {a: 1, b: 0}, 2: {b: 1, c: 1}}
    teacher = {0: {a: 1, b: 1, d: 0}}
    assert pair_outcomes(student, teacher).episodes == 0
    assert pair_outcomes(student, teacher, fixed=True).trainings == {1: {a: (1, 1), b: (0, 1)}, 2: {b: (1, 1)}}
    other = {2: {c: 0, b: 0}, 3: {a: 1}}
    assert pair_outcomes(student, other).trainings == {2: {b: (1, 0), c: (1, 0)}}
    # A given model of several trainings is paired with its own namesakes.
    assert pair_outcomes(student, other, fixed=True).episodes == 2
