# SPDX-License-Identifier: Apache-2.0
"""The variance of controls is parted between the video's noise and the actions' own."""

import numpy as np
import pytest
from noise_roles import HEAD, Parts, table

from flashwam.sim.tasks import get_task
from flashwam.system.paths import ASSETS

ONE_WAY, TWO_WAY = get_task("button-press"), get_task("reach-wall")


def test_parts_are_the_variances_that_controls_were_made_of():
    draws = np.random.default_rng(0)
    many = sum(
        (
            Parts.of(3 * draws.normal(size=(8, 1, 16, 4)) + draws.normal(size=(8, 6, 16, 4)), ONE_WAY)
            for _ in range(200)
        ),
        Parts(),
    )
    assert many.scenes == 200
    assert many.own / many.scenes == pytest.approx(1, rel=0.02)
    assert many.between / many.scenes == pytest.approx(9, rel=0.03)
    assert (many.scatter[2], many.ways) == ("0.90", ["-", "-"])


def test_ways_are_counted_in_pairs_within_a_video_and_between_two():
    """Two videos of three draws: left, left, right; and right, right, neither."""
    along = np.array([[-1, -1, 1], [1, 1, 0]], dtype=float)
    controls = np.zeros((2, 3, 16, 4))
    controls[..., :2] = along[:, :, None, None] * np.array(TWO_WAY.axis)
    parts = Parts.of(controls, TWO_WAY)
    assert parts.same == (2, 4), "of left-left, left-right twice, and right-right two are the same"
    assert parts.ways == ["0.50", "0.33"]
    assert parts.other == (2, 6), "the one right of the first video meets two of the second"


def test_no_scatter_at_all_is_nobodys():
    assert Parts.of(np.ones((2, 3, 16, 4)), ONE_WAY).scatter == ["0.000", "0.000", "0.00"]
    assert Parts().scatter == ["-", "-", "-"]


def test_a_model_is_told_for_both_groups_of_tasks(monkeypatch):
    for name, value in (("SCENES", 1), ("VIDEOS", 2), ("DRAWS", 2)):
        monkeypatch.setattr("noise_roles." + name, value)
    head, _, row = (line.strip("| ").split(" | ") for line in table([(str(ASSETS / "teacher"), "1v/1a")]).splitlines())
    assert tuple(head) == HEAD
    assert row[0] == "teacher 1v/1a"
    assert all(float(cell) > 0 for cell in (row[1], row[4]))
