# SPDX-License-Identifier: Apache-2.0
"""End-effector poses relative to where a segment begins, as the RoboTwin models are given them.

Letters: T rows, K arms.
"""

import numpy as np

from flashwam.system.errors import InputError

__all__ = ["ARM_WIDTH", "relative_poses"]

ARM_WIDTH = 8
"""Numbers per arm: position x, y, z in metres, quaternion x, y, z, w, gripper."""


def relative_poses(rows: np.ndarray) -> np.ndarray:
    """Expresses poses in terms of the first row's: p - p0 in the world's axes, R0^-1 R; grippers stay as they are.

    Quaternions are normalised; their sign is that of conj(q0) q, so the first row's is (0, 0, 0, 1).

    Args:
        rows: Absolute poses, [T, 8 K], per arm position, quaternion (x, y, z, w) and gripper.

    Returns:
        float64 [T, 8 K], in the same order.

    Raises:
        ValueError: The width is no multiple of 8, or a quaternion is zero.
    """
    from scipy.spatial.transform import Rotation

    rows = np.asarray(rows, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[0] < 1 or rows.shape[1] < ARM_WIDTH or rows.shape[1] % ARM_WIDTH:
        raise InputError(f"expected poses [T, {ARM_WIDTH} per arm] with T >= 1, got shape {rows.shape}")
    out = rows.copy()
    for first in range(0, rows.shape[1], ARM_WIDTH):
        turn = slice(first + 3, first + 7)
        if not np.linalg.norm(rows[:, turn], axis=1).all():
            raise InputError(f"columns {first + 3} to {first + 6} hold a zero quaternion, which is no rotation")
        rotations = Rotation.from_quat(rows[:, turn])
        out[:, first : first + 3] -= rows[0, first : first + 3]
        out[:, turn] = (rotations[0].inv() * rotations).as_quat()
    return out
