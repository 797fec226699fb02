# SPDX-License-Identifier: Apache-2.0
"""Likeness of motion in two short films: motion fields between two pictures, the cosine between two such fields.

Letters: B pairs of pictures, H and W pixels of a side.
"""

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

__all__ = ["RESTING", "MotionField", "motion_similarity"]

RESTING = 0.05
"""Mean motion, in pixels, below which a picture counts as resting."""

_LEVELS = 3
_WINDOW = 2.0
_ITERATIONS = 2
_DAMPING = 1e-3


class _Scale:
    """One picture at one size, with what every field that starts from it needs."""

    def __init__(self, picture: np.ndarray) -> None:
        self.picture = picture
        self.gradient = np.stack(np.gradient(picture))
        down, right = self.gradient
        self.window = _blurred(np.stack([down * down, down * right, right * right]))
        self.window[[0, 2]] += _DAMPING


class MotionField:
    """The motion of every pixel of a picture: Lucas and Kanade (1981), coarse to fine, in Gaussian windows.

    Damped least squares: where a window shows too little texture to tell, the motion tends to zero.

    Args:
        first: uint8 [H, W, 3] or float [H, W].
    """

    def __init__(self, first: np.ndarray) -> None:
        self._scales = [_Scale(picture) for picture in _pyramid(first)]

    def to(self, second: np.ndarray) -> np.ndarray:
        """Pixels down and to the right, float [2, H, W]: `second` at p + field(p) looks like the first at p."""
        field = np.zeros((2, *self._scales[-1].picture.shape))
        for scale, target in reversed(list(zip(self._scales, _pyramid(second), strict=True))):
            if field.shape[1:] != target.shape:
                rows, columns = target.shape
                field = 2 * field.repeat(2, 1).repeat(2, 2)[:, :rows, :columns]
            field = _refined(field, scale, target)
        return field


def motion_similarity(observed: np.ndarray, imagined: np.ndarray, happened: np.ndarray) -> np.ndarray:
    """Cosine between imagined and real motion since a common first picture, over all pixels together.

    Args:
        observed: uint8 [B, H, W, 3], the picture that both films begin with.
        imagined: uint8 [B, H, W, 3], the picture foreseen for a later moment.
        happened: uint8 [B, H, W, 3], the picture taken at that moment.

    Returns:
        float64 [B] in [-1, 1]; 0 where the imagined film rests and the real one does not; NaN where the real one rests
        (mean motion below `RESTING`), which says nothing about the imagination.
    """
    if not observed.shape == imagined.shape == happened.shape:
        raise ValueError(
            f"films must be alike in shape; got {observed.shape}, imagined {imagined.shape}, real {happened.shape}"
        )
    found = np.full(len(observed), np.nan)
    for i, pictures in enumerate(zip(observed, imagined, happened, strict=True)):
        start = MotionField(pictures[0])
        real = start.to(pictures[2])
        if np.hypot(*real).mean() < RESTING:
            continue
        foreseen = start.to(pictures[1])
        norm = np.sqrt((foreseen**2).sum() * (real**2).sum())
        found[i] = (foreseen * real).sum() / norm if norm > 0 else 0.0
    return found


def _blurred(x: np.ndarray) -> np.ndarray:
    return gaussian_filter(x, (0, _WINDOW, _WINDOW), truncate=2.5)


def _pyramid(picture: np.ndarray) -> list[np.ndarray]:
    """The picture in grey, then at halves of its size."""
    grey = picture.astype(np.float64)
    levels = [grey.mean(-1) / 255 if picture.ndim == 3 else grey]
    while len(levels) < _LEVELS and min(levels[-1].shape) >= 16:
        levels.append(gaussian_filter(levels[-1], 1.0, truncate=2.5)[::2, ::2])
    return levels


def _refined(field: np.ndarray, scale: _Scale, target: np.ndarray) -> np.ndarray:
    """Gauss-Newton steps on windows of the first picture against `target` moved back by the field."""
    grid = np.mgrid[: target.shape[0], : target.shape[1]]
    a, b, c = scale.window
    for _ in range(_ITERATIONS):
        moved = map_coordinates(target, grid + field, order=1, mode="nearest")
        p, q = _blurred(scale.gradient * (scale.picture - moved))
        field = field + np.stack([c * p - b * q, a * q - b * p]) / (a * c - b * b)
    return field
