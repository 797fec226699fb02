# SPDX-License-Identifier: Apache-2.0
import numpy as np

from flashwam.sim.ways import commitment, leading, way_of


def test_way_is_the_side_of_the_first_clear_departure():
    assert way_of(np.array([0.0, 0.02, 0.06, -0.2])) == 1
    assert way_of(np.array([0.0, -0.06, 0.3])) == 0
    assert way_of(np.array([0.04, -0.04, 0.0])) == -1
    assert way_of(np.array([0.3, 0.33, 0.36]), 0.3) == 1


def test_commitment_counts_chunks_that_leave_to_a_side():
    chunks = np.array([[1.0, 0.8], [-0.9, -0.7], [0.9, -0.9], [0.1, 0.2]])
    share, way = commitment(chunks, threshold=0.5)
    assert share == 0.5
    assert way.tolist() == [1, 0, -1, -1]


def test_average_of_two_committed_chunks_is_not_committed():
    left, right = -np.ones((1, 8)), np.ones((1, 8))
    assert commitment((left + right) / 2)[0] == 0.0
    assert commitment(np.concatenate([left, right]))[0] == 1.0


def test_a_first_chunk_s_way_is_told_along_the_axis():
    controls = np.zeros((2, 12, 7))
    controls[0, :8, 0], controls[0, 8:, 0] = 0.5, 9.0
    controls[1, :8, 1] = -0.25
    assert leading(controls, (1.0, 0.0)).tolist() == [[0.5], [0.0]]
    assert leading(controls, (0.0, 1.0)).tolist() == [[0.0], [-0.25]]
    np.testing.assert_allclose(leading(controls, (0.6, 0.8)), [[0.3], [-0.2]])
