# SPDX-License-Identifier: Apache-2.0
"""The pictures that a policy imagines, beside those that come."""

import numpy as np
import torch

from flashwam.sim.motion import motion_similarity

__all__ = ["Imagined"]

_FILM_PICTURES = 12


class Imagined:
    """The imagined pictures of a group of episodes beside the real ones.

    Args:
        frames: Their first pictures, uint8 [B, H, W, 3].
    """

    def __init__(self, frames: np.ndarray) -> None:
        self._before = frames
        self._compared: list[np.ndarray] = []
        self._pictures: list[np.ndarray] = []

    def compare(self, foreseen: np.ndarray, actual: np.ndarray, running: np.ndarray) -> None:
        """One chunk: pictures uint8 [B, H, W, 3] for its end, and which episodes [B] still run there."""
        foreseen = _resized(foreseen, actual.shape[1:3])
        alike = np.full(len(actual), np.nan)
        alike[running] = motion_similarity(self._before[running], foreseen[running], actual[running])
        self._compared.append(alike)
        if running[0] and len(self._pictures) < _FILM_PICTURES:
            self._pictures.append(np.stack([actual[0], foreseen[0]]))
        self._before = actual

    def similarity(self, *, chunks: int | None = None) -> np.ndarray:
        """[B], mean over those of the first `chunks` (all if None) that moved; NaN where none did."""
        compared = np.stack([np.full(len(self._before), np.nan), *self._compared[:chunks]])
        moved = np.isfinite(compared)
        total = np.where(moved, compared, 0).sum(0)
        return np.divide(total, moved.sum(0), out=np.full(len(total), np.nan), where=moved.any(0))

    def film(self) -> np.ndarray | None:
        """[2, K, H, W, 3]."""
        return np.stack(self._pictures, 1) if self._pictures else None


def _resized(pictures: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [B, H, W, 3] at the simulator's size, for a codec that works at another."""
    if pictures.shape[1:3] == size:
        return pictures
    values = torch.from_numpy(pictures).movedim(-1, 1).float()
    values = torch.nn.functional.interpolate(values, size=size, mode="area")
    return values.round().to(torch.uint8).movedim(1, -1).numpy()
