# SPDX-License-Identifier: Apache-2.0
"""Draws of poses: which of what is shown are turns reaches the measures, of a model that is drawn here or served."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from flashwam.data.actions import ActionNorm
from flashwam.data.control_names import ControlNames
from flashwam.evaluation.drawn_controls import drawn_controls
from flashwam.evaluation.served_recordings import _controls
from flashwam.evaluation.trajectories import trajectory_measures

NAMES = ControlNames.of_data(8, relative=True)
RECORDED, STUDENT, TEACHER = 90.0, (-89.0, -91.0), (-91.0, -89.0)


def poses(degrees):
    """Four rows of one arm, float32 [4, 8]."""
    rows = np.zeros((4, 8), np.float32)
    rows[:, 3:7] = Rotation.from_euler("z", degrees, degrees=True).as_quat()
    return rows


def drawn_here():
    def action(degrees):
        return torch.from_numpy(poses(degrees)).T.reshape(1, 8, 1, 4, 1)

    def chunk(angles):
        return [{"action": torch.cat([action(angle) for angle in angles])}]

    clean = {"action": action(RECORDED)}
    batch = SimpleNamespace(size=1, clean=clean, loss_mask=lambda name: torch.ones(1, 1, 1, 1, 1, dtype=torch.bool))
    norm = ActionNorm(q01=(-1.0,) * 8, q99=(1.0,) * 8, used=tuple(range(8)))
    windows = SimpleNamespace(norm=norm, names=NAMES)
    return drawn_controls(chunk(STUDENT), chunk(TEACHER), batch, windows, draws=2)


def drawn_by_a_server():
    drawn = {who: [[[poses(angle)] for angle in at]] for who, at in (("student", STUDENT), ("teacher", TEACHER))}
    return _controls(drawn, [SimpleNamespace(rows=poses(RECORDED))], NAMES)


@pytest.mark.parametrize("draw", [drawn_here, drawn_by_a_server])
def test_two_draws_on_either_side_of_half_a_turn_are_near(draw):
    found = trajectory_measures(draw())
    at = NAMES.names.index("turn z")
    assert (found["error_teacher"][at], found["teacher_spread"][at]) == pytest.approx((2, 2), abs=1e-3)
    assert found["error_recorded"][at] == pytest.approx(179, abs=1e-3)
