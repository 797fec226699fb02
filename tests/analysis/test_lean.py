# SPDX-License-Identifier: Apache-2.0
"""First chunks of a student and its teacher are counted by the way that they take."""

import numpy as np
from lean import line


def test_a_row_counts_ways_beside_the_teachers():
    own = np.array([0, 0, 0, 1, -1, 0, 1, -1])
    reference = np.array([0, 1, 1, 1, 0, -1, 0, -1])
    told = line("pairs", 1.25, own, reference)
    # Six choose, four of them left; five have both, of which two take the teacher's way.
    assert told.startswith("| pairs | 1.25 | 0.750 | 66.7 (")
    assert told.endswith("| 40.0 | 2 | 1 |")
