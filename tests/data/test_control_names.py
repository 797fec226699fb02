# SPDX-License-Identifier: Apache-2.0
"""Controls as people read them."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from flashwam.data.control_names import ControlNames


def test_poses_are_shown_in_millimetres_and_degrees():
    names = ControlNames.of_data(16, relative=True)
    assert names.names[:2] == ("left x", "left y")
    assert (names.names[9], names.units[9], names.names[-1]) == ("right z", "mm", "right gripper")
    turn = Rotation.from_rotvec([0, 30, 0], degrees=True).as_quat()
    arm = np.array([0.1, -0.02, 0.0, *turn, 0.7])
    shown = names.readable(np.concatenate([arm, [*arm[:3], *-turn, 0.1]])[None, None])
    assert shown.shape == (1, 1, 14)
    for first, gripper in ((0, 0.7), (7, 0.1)):
        assert shown[0, 0, first : first + 7] == pytest.approx([100, -20, 0, 0, 30, 0, gripper], abs=1e-9)


def test_a_quaternion_of_zeros_is_no_turn():
    assert ControlNames.of_data(8, relative=True).readable(np.zeros((2, 8))) == pytest.approx(np.zeros((2, 7)))


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"action": {"names": ["x", "y"]}}, ("x", "y")),
        ({"action": {"names": {"motors": ["x", "y"]}}}, ("x", "y")),
        ({"action": {"names": ["x"]}}, ("control 0", "control 1")),
        ({"action": {"names": [1, 2]}}, ("control 0", "control 1")),
        ({"action": {}}, ("control 0", "control 1")),
        ({}, ("control 0", "control 1")),
    ],
)
def test_names_are_the_datas_own_where_they_fit(features, expected):
    names = ControlNames.of_data(2, relative=False, info={"features": features})
    assert (names.names, names.units) == (expected, ("", ""))
    assert names.readable(np.float32([[1, 2]])).tolist() == [[1, 2]]


def test_poses_that_are_two_degrees_apart_differ_by_two_degrees():
    names = ControlNames.of_data(16, relative=True)

    def poses(*degrees):
        turns = [Rotation.from_euler("z", angle, degrees=True).as_quat() for angle in degrees]
        return np.concatenate([np.concatenate([np.zeros(3), turn, [0.5]]) for turn in turns])

    near = names.readable(poses(181, 10))
    drawn = names.readable(np.stack([poses(179, 12), poses(-175, 8), poses(0, 10)]), near=near[None])
    np.testing.assert_allclose(np.abs(drawn - near)[:, [5, 12]], [[2, 2], [4, 2], [179, 0]], atol=1e-9)
    np.testing.assert_allclose(np.delete(drawn - near, [5, 12], axis=1), 0, atol=1e-9)
    np.testing.assert_array_equal(
        names.readable(poses(0, 0), near=names.readable(poses(0, 0))), names.readable(poses(0, 0))
    )


def test_turns_are_told_where_there_are_any():
    assert ControlNames.of_data(16, relative=True).turns == (3, 10)
    assert ControlNames.of_data(16, relative=False).turns == ()
