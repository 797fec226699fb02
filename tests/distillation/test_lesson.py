# SPDX-License-Identifier: Apache-2.0
"""The levels at which a method says that it trains a stream, against those that it really draws."""

import pytest
import torch
from distill_toys import GaussianTeacher, ToySource, ToyWam

from flashwam.core.noise import NoiseSchedule
from flashwam.core.streams import StreamSpec
from flashwam.distillation.draws import Draws
from flashwam.distillation.methods import METHODS, ConsistencyDistillation, FlowMatching, OnPolicy
from flashwam.distillation.methods.distribution_matching import DistributionMatching
from flashwam.distillation.methods.lesson import NEAR
from flashwam.distillation.methods.pairs import Pairs

SAMPLES = 4000


def spec(shift, **rest):
    return StreamSpec(name="action", schedule=NoiseSchedule(shift), **rest)


def trained_levels(kind, streams, **options):
    """The level of every sample and free frame of a large step, stream by stream."""
    method = kind(streams, ToyWam.create(seed=1), teacher=GaussianTeacher(), **options)
    batch = ToySource().batch(range(SAMPLES))
    terms = method.loss(batch, Draws(seed=3, step=0, positions=range(SAMPLES))).terms
    return {name: term.sigma[term.frame_mask].double() for name, term in terms.items()}


@pytest.mark.parametrize(
    ("kind", "options"), [(ConsistencyDistillation, {}), (OnPolicy, {"start_share": 0.7, "teacher_steps": 4})]
)
def test_the_share_of_samples_near_the_sampler_is_that_of_the_levels_drawn(kind, options):
    streams = {
        "video": StreamSpec(name="video", schedule=NoiseSchedule(5.0), steps=2),
        "action": StreamSpec(name="action", schedule=NoiseSchedule(0.2), anchors=4, steps=2),
    }
    drawn = trained_levels(kind, streams, **options)
    for name, stream in streams.items():
        for level in stream.schedule.sampling_grid(stream.steps)[:-1].tolist():
            lesson = kind.lesson(stream, level, options)
            near = ((drawn[name] - level).abs() <= NEAR).double().mean()
            within = ((drawn[name] <= level + 1e-6) & (drawn[name] >= lesson.jump_end - 1e-6)).double().mean()
            assert lesson.near == pytest.approx(float(near), abs=0.02), (name, level)
            assert lesson.within_jump == pytest.approx(float(within), abs=0.02), (name, level)


@pytest.mark.parametrize(("shift", "share"), [(5.0, 0.357143), (1.0, 0.1), (0.2, 0.021739), (0.05, 0.005525)])
def test_the_share_near_pure_noise_is_the_closed_form_and_the_count_on_the_training_grid(shift, share):
    lesson = ConsistencyDistillation.lesson(spec(shift), 1.0, {})
    assert lesson.near == pytest.approx(1 - 0.9 / (shift - (shift - 1) * 0.9), abs=1e-12)
    assert lesson.near == pytest.approx(share, abs=1e-6)
    grid = spec(shift).schedule.training_grid()
    assert lesson.near == pytest.approx(float((grid >= 0.9).double().mean()), abs=1.001e-3)


@pytest.mark.parametrize("anchors", [1, 2, 3, 7, 25])
def test_hops_are_the_jumps_that_the_method_makes_until_the_data(anchors):
    stream = spec(1.0, anchors=anchors, teacher_substeps=4)
    grid = stream.schedule.training_grid()
    for start in (0, 250, 500, 998):
        index, jumps = torch.tensor(start), 0
        while index < len(grid) - 1:
            index, jumps = stream.schedule.jump(index, anchors), jumps + 1
        lesson = ConsistencyDistillation.lesson(stream, float(grid[start]), {})
        assert (lesson.hops, lesson.teacher_steps) == (jumps, 4 * jumps)
        assert lesson.jump_end == pytest.approx(float(grid[min(999, start + 1000 // anchors)]), abs=1e-12)


@pytest.mark.parametrize("shift", [5.0, 1.0, 0.05])
def test_a_jump_spans_the_same_share_of_every_schedule(shift):
    for anchors in (2, 4, 25):
        lesson = ConsistencyDistillation.lesson(spec(shift, anchors=anchors), 1.0, {})
        assert lesson.within_jump == pytest.approx(1 / anchors, abs=1e-9)


def test_on_policy_targets_are_the_end_of_the_teachers_own_path():
    first = OnPolicy.lesson(spec(1.0), 1.0, {"teacher_steps": 6, "start_share": 0.9})
    second = OnPolicy.lesson(spec(1.0), 0.5, {"teacher_steps": 6, "start_share": 0.9})
    assert (first.hops, first.jump_end, first.teacher_steps) == (1, 0.0, 6)
    assert (second.hops, second.teacher_steps) == (1, 3)
    assert second.near == pytest.approx(0.1 * 0.2, abs=1e-9)
    assert OnPolicy.lesson(spec(1.0), 1.0, {"teacher_steps": 1}).near == 1


def test_pairs_stand_at_the_levels_of_the_samplers_that_they_are_trained_for():
    stream = spec(1.0, teacher_steps=12)
    one = Pairs.lesson(stream, 1.0, {"steps": 1})
    assert (one.near, one.hops, one.jump_end, one.teacher_steps) == (1.0, 1, 0.0, 12)
    options = {"steps": 3, "further_share": 0.4}
    # Two steps stand at 1/2 too, three at 2/3 and 1/3: each sampler has half of the 0.4, a level its even part of it.
    shares = {level: Pairs.lesson(stream, level, options).near for level in (1.0, 2 / 3, 0.5, 1 / 3, 0.75)}
    assert shares == pytest.approx({1.0: 0.6, 2 / 3: 0.1, 0.5: 0.2, 1 / 3: 0.1, 0.75: 0.1})
    assert Pairs.lesson(stream, 0.5, options).within_jump == pytest.approx(0.3)


def test_matching_stands_at_the_last_steps_of_its_own_rollouts():
    streams = {"video": StreamSpec(name="video", schedule=NoiseSchedule(5.0)), "action": spec(0.2, weight=0.1)}
    method = DistributionMatching(streams, ToyWam.create(seed=1), teacher=GaussianTeacher(), rollout_steps=3)
    batch, stood = ToySource().batch(range(2)), {name: [] for name in streams}
    for step in range(300):
        rollout = method.rollouts(method.roles.model, batch, Draws(seed=3, step=step, positions=range(2)))
        for name, sigma in rollout.sigma.items():
            stood[name].append(float(sigma[~rollout.chunk.given].unique()))
    for name, stream in streams.items():
        levels = sorted(set(stood[name]), reverse=True)
        assert levels == pytest.approx([float(stream.schedule.sigma(u)) for u in (1.0, 2 / 3, 1 / 3)])
        for level in levels:
            lesson = DistributionMatching.lesson(stream, level, {"rollout_steps": 3})
            near = sum(abs(each - level) <= NEAR for each in stood[name]) / len(stood[name])
            within = sum(each <= level for each in stood[name]) / len(stood[name])
            assert lesson.near == pytest.approx(near, abs=0.08), (name, level)
            assert lesson.within_jump == pytest.approx(within, abs=0.08), (name, level)
            assert (lesson.hops, lesson.jump_end, lesson.teacher_steps) == (1, 0.0, 1)
    assert DistributionMatching.lesson(spec(1.0, weight=0.0), 1.0, {}) is None


def test_methods_without_a_student_of_few_steps_say_nothing():
    assert FlowMatching.lesson(spec(1.0), 1.0, {}) is None
    assert {"consistency", "on_policy"} <= METHODS.keys()
