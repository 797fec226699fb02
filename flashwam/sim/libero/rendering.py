# SPDX-License-Identifier: Apache-2.0
"""Pictures of a LIBERO scene, upright, by a renderer of our own.

The benchmark draws pictures within its simulator, in a buffer of fixed size, with every step. MuJoCo's own renderer
draws the same ones from the same model, when they are asked for; so nothing of the benchmark has to be patched.
"""

import atexit
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["SceneCameras"]

_OPEN: "weakref.WeakSet[SceneCameras]" = weakref.WeakSet()
_COLLISION, _VISUAL = 0, 1


class SceneCameras:
    """Cameras of one scene.

    Args:
        model: MuJoCo's model.
        cameras: Key of a picture -> name of a camera of the model.
        size: Height and width in pixels.
        shading: See `Convention.shading`.
    """

    def __init__(self, model: Any, cameras: Mapping[str, str], *, size: int, shading: str) -> None:
        import mujoco

        buffer = model.vis.global_
        buffer.offwidth, buffer.offheight = size, size
        if shading == "plain":
            model.vis.quality.offsamples = 0
            model.vis.quality.shadowsize = 0
        self._cameras = dict(cameras)
        self._model = model
        # What casts a shadow or is reflected is seen without standing in view.
        self._left_out = (np.asarray(model.geom_group) == _VISUAL) & (shading == "plain")
        self._renderer: Any = mujoco.Renderer(model, size, size)
        if not _OPEN:
            # Exit handlers run backwards; MuJoCo's own, which ends the display, was registered by the line above.
            atexit.register(_close_all)
        _OPEN.add(self)
        if shading == "plain":
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                self._renderer.scene.flags[flag] = 0
        self._shown = mujoco.MjvOption()
        self._shown.geomgroup[_COLLISION], self._shown.geomgroup[_VISUAL] = 0, 1

    def picture(self, data: Any, key: str) -> np.ndarray:
        """The present picture of one camera, row 0 on top, uint8 [H, W, 3]."""
        groups = self._model.geom_group
        outside = self._left_out & _outside(self._model, data, self._model.camera(self._cameras[key]).id)
        groups[outside] = _COLLISION
        try:
            self._renderer.update_scene(data, self._cameras[key], self._shown)
        finally:
            groups[outside] = _VISUAL
        return np.ascontiguousarray(self._renderer.render())

    def close(self) -> None:
        """Frees the buffers; nothing can be drawn any more."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        _OPEN.discard(self)


def _outside(model: Any, data: Any, camera: int) -> np.ndarray:
    """Tells which shapes lie outside what a camera with a square picture sees, bool [shapes].

    MuJoCo draws every mesh of a scene for every picture, and a processor that draws by itself feels it: the camera on
    the hand sees a fifth of them.
    """
    half = np.deg2rad(model.cam_fovy[camera]) / 2
    seen_from = (data.geom_xpos - data.cam_xpos[camera]) @ data.cam_xmat[camera].reshape(3, 3)
    across = np.abs(seen_from[:, :2]).max(axis=1)
    beyond = across * np.cos(half) + seen_from[:, 2] * np.sin(half)
    bounded = model.geom_rbound > 0
    return bounded & (beyond > model.geom_rbound + 1e-6)


def _close_all() -> None:
    """Before the interpreter takes the GL library apart; a renderer collected after that prints a traceback."""
    for cameras in list(_OPEN):
        cameras.close()
