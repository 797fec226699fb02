# SPDX-License-Identifier: Apache-2.0
"""Privileged views of a simulated scene: depth, classes of things, and where points appear.

Letters: H, W pixels, P pictures, T points.
"""

from typing import Any

import numpy as np

from flashwam.data.privileged import Camera
from flashwam.sim.metaworld import MetaWorldEnv
from flashwam.sim.tasks import below

__all__ = ["CLASSES", "PrivilegedView"]

CLASSES = ("background", "arm", "hand", "object", "obstacle", "goal")
"""Meaning of the numbers in a segmentation."""
_STAGE = ("world", "tablelink", "RetainingWall", "mocap")


class PrivilegedView:
    """The privileged pictures of an environment, taken by the camera of its ordinary ones.

    Args:
        env: Which environment; it may be reset and stepped as ever.
    """

    def __init__(self, env: MetaWorldEnv) -> None:
        import mujoco

        self.env = env
        model = env.env.model
        # A last entry, for pixels that show nothing: the renderer numbers them -1.
        self._bodies = np.full(model.nbody + 1, CLASSES.index("object"), np.uint8)
        self._bodies[[model.body(name).id for name in _STAGE if _has_body(model, name)] + [-1]] = 0
        parts = {"arm": "base", "hand": "hand", "obstacle": env.task.forbidden}
        for name, body in parts.items():
            if body is not None:
                self._bodies[list(below(model, body))] = CLASSES.index(name)
        geoms = np.append(self._bodies[model.geom_bodyid], 0)
        sites = np.append(self._bodies[model.site_bodyid], 0)
        sites[:-1][model.site_bodyid == 0] = CLASSES.index("goal")
        self._tables = {int(mujoco.mjtObj.mjOBJ_GEOM): geoms, int(mujoco.mjtObj.mjOBJ_SITE): sites}

    def depth(self) -> np.ndarray:
        """Distance from the camera's plane in metres, float32 [H, W]."""
        renderer = self.env.view()
        renderer.enable_depth_rendering()
        try:
            return renderer.render().copy()
        finally:
            renderer.disable_depth_rendering()

    def segmentation(self) -> np.ndarray:
        """Numbers into `CLASSES`, uint8 [H, W]."""
        renderer = self.env.view()
        renderer.enable_segmentation_rendering()
        try:
            seen = renderer.render()
        finally:
            renderer.disable_segmentation_rendering()
        number, kind = seen[..., 0], seen[..., 1]
        out = np.zeros(number.shape, np.uint8)
        for each, table in self._tables.items():
            shown = kind == each
            out[shown] = table[number[shown]]
        return out

    def camera(self) -> Camera:
        """The camera of every picture."""
        left, right = self.env.view().scene.camera[:2]
        position = (np.array(left.pos) + np.array(right.pos)) / 2
        forward = np.array(left.forward, np.float64)
        right_hand = np.cross(forward, left.up)
        axes = np.stack([right_hand, np.cross(forward, right_hand), forward], 1)
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = axes / np.linalg.norm(axes, axis=0), position
        size = self.env.size
        focal = size / 2 / np.tan(np.radians(self.env.env.model.vis.global_.fovy) / 2)
        intrinsics = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]])
        return Camera(intrinsics=intrinsics, pose=pose)


def _has_body(model: Any, name: str) -> bool:
    return any(model.body(number).name == name for number in range(model.nbody))
