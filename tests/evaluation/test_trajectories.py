# SPDX-License-Identifier: Apache-2.0
"""Measures of drawn controls, on controls whose measures are known."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from flashwam.data.control_names import ControlNames
from flashwam.evaluation.trajectories import Drawn, split_ways, trajectory_measures

WINDOWS, DRAWS, CHUNKS, LENGTH, CONTROLS = 6, 8, 2, 5, 3


def drawn(student, teacher, recorded, *, valid=None, scale=1.0):
    """Of [B, D, T, U] and [B, T, U]; shown at `scale`."""
    count = recorded.shape[1]
    valid = np.ones(recorded.shape[:2], bool) if valid is None else valid
    shown = {"student": student, "teacher": teacher, "recorded": recorded}
    return Drawn(
        student=student,
        teacher=teacher,
        recorded=recorded,
        shown={name: scale * values for name, values in shown.items() if values is not None},
        valid=valid,
        chunk=np.repeat(np.arange(CHUNKS), count // CHUNKS),
    )


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def noise(rng):
    return rng.normal(size=(WINDOWS, DRAWS, CHUNKS * LENGTH, CONTROLS))


def test_errors_are_those_put_in_and_spread_is_that_of_two_draws(noise):
    recorded = np.zeros((WINDOWS, CHUNKS * LENGTH, CONTROLS))
    found = trajectory_measures(drawn(noise + np.array([0.3, 0.0, 0.4]), noise, recorded, scale=1000.0))
    assert found["error_teacher"] == pytest.approx([300.0, 0.0, 400.0])
    assert found["all_error_teacher"] == pytest.approx(math.sqrt(0.25 / 3))
    assert found["over_chunk"] == pytest.approx([math.sqrt(0.25 / 3)] * LENGTH)
    assert found["variance_ratio"] == pytest.approx([1.0, 1.0, 1.0])
    pairs = [noise[:, i] - noise[:, j] for i in range(DRAWS) for j in range(i)]
    by_hand = 1000 * np.sqrt(np.mean(np.stack(pairs) ** 2, axis=(0, 1, 2)))
    assert found["teacher_spread"] == pytest.approx(by_hand.tolist())
    assert found["teacher_error_recorded"] == pytest.approx((1000 * np.sqrt((noise**2).mean((0, 1, 2)))).tolist())


def test_what_is_not_valid_counts_nowhere(noise, rng):
    recorded = rng.normal(size=(WINDOWS, CHUNKS * LENGTH, CONTROLS))
    valid = rng.random(recorded.shape[:2]) < 0.7
    one = drawn(noise * 0.5, noise, recorded, valid=valid)
    spoilt = [np.where(valid[:, None, :, None], values, 1e6 * (k + 1)) for k, values in enumerate((noise * 0.5, noise))]
    other = drawn(*spoilt, np.where(valid[..., None], recorded, -1e6), valid=valid)
    for name, value in trajectory_measures(one).items():
        assert trajectory_measures(other)[name] == pytest.approx(value), name


def test_a_step_into_a_chunk_is_from_what_was_recorded():
    steps = np.arange(CHUNKS * LENGTH, dtype=float)[:, None] * np.array([1.0, 0.0, 0.0])
    recorded = np.tile(steps, (WINDOWS, 1, 1))
    straight = np.tile(steps, (WINDOWS, DRAWS, 1, 1))
    away = straight.copy()
    away[:, :, LENGTH:, 1] = 3.0
    found = trajectory_measures(drawn(away, straight, recorded))
    assert found["recorded_border"] == found["teacher_border"] == pytest.approx(1.0)
    assert found["student_border"] == pytest.approx(math.sqrt(10))
    assert found["teacher_jerk"] == pytest.approx(0.0, abs=1e-12)
    # The first chunk ended elsewhere, which the second did not see.
    elsewhere = straight.copy()
    elsewhere[:, :, :LENGTH, 2] = 7.0
    assert trajectory_measures(drawn(elsewhere, straight, recorded))["student_border"] == pytest.approx(1.0)


def test_jerk_is_the_third_difference():
    cubes = (np.arange(CHUNKS * LENGTH, dtype=float) ** 3)[:, None] * np.array([1.0, 0.0, 0.0])
    draws = np.tile(cubes, (WINDOWS, DRAWS, 1, 1))
    assert trajectory_measures(drawn(draws, draws, draws[:, 0]))["recorded_jerk"] == pytest.approx(6.0)


def test_a_gripper_is_found_and_its_switches_are_counted(rng):
    recorded = rng.normal(size=(WINDOWS, CHUNKS * LENGTH, CONTROLS))
    recorded[..., 2] = np.where(np.arange(CHUNKS * LENGTH) < 4, -1.0, 1.0)
    teacher = np.tile(recorded[:, None], (1, DRAWS, 1, 1))
    student = teacher.copy()
    student[..., 2] = np.where(np.arange(CHUNKS * LENGTH) % 2, -1.0, 1.0)
    found = trajectory_measures(drawn(student, teacher, recorded))
    gaps = CHUNKS * LENGTH - 1
    assert found["recorded_flips"] == found["teacher_flips"] == pytest.approx(100 / gaps)
    assert found["student_flips"] == pytest.approx(100.0)
    assert "student_flips" not in trajectory_measures(drawn(student[..., :2], teacher[..., :2], recorded[..., :2]))


def test_a_switch_at_a_border_is_from_what_was_recorded():
    """The first chunk's draw ended with a shut gripper, which the second did not see."""
    recorded = np.where(np.arange(CHUNKS * LENGTH) < 7, -1.0, 1.0)[None, :, None]
    student = np.tile(recorded[:, None], (1, DRAWS, 1, 1))
    student[:, :, 3:LENGTH] = 1.0
    late = np.tile(recorded[:, None], (1, DRAWS, 1, 1))
    late[:, :, LENGTH:] = 1.0
    gaps = CHUNKS * LENGTH - 1
    assert trajectory_measures(drawn(student, None, recorded))["student_flips"] == pytest.approx(200 / gaps)
    # One that shuts at once, where the recorded one was open, has switched there.
    assert trajectory_measures(drawn(late, None, recorded))["student_flips"] == pytest.approx(100 / gaps)


@pytest.mark.parametrize(("recorded", "drawn_at"), [(90, -90), (10, 10), (170, -95), (0, 180)])
def test_turns_a_degree_apart_are_so_wherever_the_recorded_one_is(rng, recorded, drawn_at):
    """Turns are shown near the recorded one: of draws opposite of it some lie a whole turn from the others."""
    names = ControlNames.of_data(16, relative=True)

    def poses(degrees):
        turns = Rotation.from_euler("z", degrees.reshape(-1, 1), degrees=True).as_quat().reshape(*degrees.shape, 4)
        arm = np.concatenate([np.zeros((*degrees.shape, 3)), turns, np.zeros((*degrees.shape, 1))], -1)
        still = np.zeros_like(arm)
        still[..., 6] = 1
        return np.concatenate([still, arm], -1)

    count = (WINDOWS, DRAWS, CHUNKS * LENGTH)
    sides = {who: poses(drawn_at + rng.normal(size=count)) for who in ("student", "teacher")}
    real = poses(np.full((WINDOWS, CHUNKS * LENGTH), float(recorded)))
    shown = {"recorded": names.readable(real)}
    shown |= {who: names.readable(side, near=shown["recorded"][:, None]) for who, side in sides.items()}
    one = drawn(sides["student"], sides["teacher"], real)
    found = trajectory_measures(replace(one, shown=shown, turns=names.turns))
    at = names.names.index("right turn z")
    for name in ("error_teacher", "teacher_spread"):
        assert found[name][at] == pytest.approx(math.sqrt(2), rel=0.15)
        assert np.delete(found[name], at) == pytest.approx(0, abs=1e-6)
    assert found["variance_ratio"][at] == pytest.approx(1, rel=0.15)
    away = abs((drawn_at - recorded + 180) % 360 - 180)
    assert found["error_recorded"][at] == pytest.approx(math.hypot(away, 1), rel=0.05)


def two_ways(rng, share):
    """Draws of which a share goes one way, whose second chunk has no choice left."""
    side = np.where(np.arange(DRAWS) < share * DRAWS, 1.0, -1.0)
    draws = 0.05 * rng.normal(size=(WINDOWS, DRAWS, CHUNKS * LENGTH, CONTROLS))
    draws[:, :, :LENGTH, 0] += side[:, None]
    return draws


def test_who_hesitates_where_the_teacher_chooses_is_found(rng):
    teacher, recorded = two_ways(rng, 0.75), np.zeros((WINDOWS, CHUNKS * LENGTH, CONTROLS))
    same = trajectory_measures(drawn(teacher, teacher, recorded))
    assert same["split"] == pytest.approx(0.5, abs=0.1)
    assert (same["same_way"], same["student_between"], same["teacher_between"]) == (1.0, 0.0, 0.0)
    assert same["student_first"] == same["teacher_first"] == pytest.approx(0.75)
    mean = np.broadcast_to(np.where(np.arange(CHUNKS * LENGTH) < LENGTH, 0.1, 0.0)[:, None], teacher.shape)
    hesitant = trajectory_measures(drawn(mean.copy(), teacher, recorded))
    assert hesitant["student_between"] > 0.9
    mirrored = trajectory_measures(drawn(-teacher, teacher, recorded))
    assert (mirrored["student_between"], mirrored["same_way"]) == (0.0, 0.0)
    assert mirrored["student_first"] == pytest.approx(0.25)


@pytest.mark.parametrize("draws", [8, 16])
def test_draws_with_one_way_are_seldom_taken_for_two(rng, draws):
    found = sum(split_ways(rng.normal(size=(draws, 12)) * np.exp(-np.arange(12))) is not None for _ in range(1000))
    assert 1 <= found <= 25


def test_without_a_teacher_the_recording_is_all_there_is(noise):
    recorded = np.zeros((WINDOWS, CHUNKS * LENGTH, CONTROLS))
    found = trajectory_measures(drawn(noise, None, recorded))
    assert found["error_recorded"] == pytest.approx(np.sqrt((noise**2).mean((0, 1, 2))).tolist())
    assert not any("teacher" in name for name in found)
    few = trajectory_measures(drawn(noise[:, :4], noise[:, :4], recorded))
    assert "split" not in few
