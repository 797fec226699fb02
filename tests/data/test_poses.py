# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest

from flashwam.data.poses import relative_poses


def test_a_turn_about_one_axis_in_closed_form():
    """From 30 to 90 degrees about z is 60 about z, wherever the arm stands."""

    def turn(degrees):
        return [0, 0, math.sin(math.radians(degrees) / 2), math.cos(math.radians(degrees) / 2)]

    rows = np.array([[1, 2, 3, *turn(30), 0.4], [1.5, 2, 2, *turn(90), 0.9]])
    out = relative_poses(rows)
    assert np.allclose(out, [[0, 0, 0, 0, 0, 0, 1, 0.4], [0.5, 0, -1, *turn(60), 0.9]], atol=1e-12)
    assert np.allclose(relative_poses(rows * [1, 1, 1, 3, 3, 3, 3, 1]), out, atol=1e-12)
    # The other sign of the same rotation stays the other sign.
    assert np.allclose(relative_poses(rows * [[1] * 8, [1, 1, 1, -1, -1, -1, -1, 1]])[1, 3:7], [-q for q in turn(60)])


def test_what_is_no_pose_is_refused():
    with pytest.raises(ValueError, match="8 per arm"):
        relative_poses(np.ones((3, 7)))
    rows = np.ones((3, 16))
    rows[2, 11:15] = 0
    with pytest.raises(ValueError, match="columns 11 to 14"):
        relative_poses(rows)
