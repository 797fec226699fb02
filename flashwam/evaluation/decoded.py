# SPDX-License-Identifier: Apache-2.0
"""Measures of decoded video: what a model draws as pictures, beside what its teacher draws and what was recorded.

Letters: B windows, D draws a window, K chunks, C channels, F latent frames of a chunk, H and W the rest of a stream's
tokens, P pictures.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.data.pictures import latent_frames
from flashwam.evaluation.reference import Chunks

__all__ = ["DECODED_WINDOWS", "DecodedDraws", "decoded_draws"]

logger = logging.getLogger(__name__)

DECODED_WINDOWS = 16
"""Windows of which a chunk is decoded: a video autoencoder takes longer than a one-step student."""
_VIDEO = "video"


@dataclass(frozen=True, kw_only=True)
class DecodedDraws:
    """Pictures of the first windows' first draws, one chunk of each window: of window i that of number i modulo K.

    A causal autoencoder makes of a latent frame what came before it, so a chunk is decoded after the recorded past that
    it was drawn under, from the window's beginning on; what came before the window is not there. Frames that are given
    or beyond the recording's end are left out.

    Args:
        pictures: Latents [n, C, F', H, W] -> uint8 [n, P, height, width, 3], P = F' or 1 + r (F' - 1).
        batch: The windows, restricted to what the model puts out.
        reference: The teacher's draws of them, as `chunk_draws` returns them.
        draws: D.
        alone: Every chunk is a clip of its own that begins with the observation, see
            `WorldActionModel.conditions_on_first`.
        windows: At most so many are decoded.
    """

    pictures: Callable[[Tensor], np.ndarray]
    batch: Batch
    reference: Chunks
    draws: int
    alone: bool
    windows: int = DECODED_WINDOWS

    def measures(self, drawn: Chunks) -> dict[str, float]:
        """Mean absolute differences of pictures in grey levels of 255, and how sharp they are.

        Args:
            drawn: As `chunk_draws` returns them.

        Returns:
            `video_decoded_error_teacher` (same noise) and `video_decoded_error_expert` (to what was recorded, as the
            autoencoder shows it); `video_decoded_sharpness_ratio`, mean absolute differences of neighbouring pixels
            over the teacher's. Empty where one side draws no video, or there is nothing to look at.
        """
        if _VIDEO not in drawn[0] or _VIDEO not in self.reference[0]:
            return {}
        began = time.perf_counter()
        ours = self.frames(drawn)
        if not sum(map(len, ours)):
            return {}
        found = {
            f"{_VIDEO}_decoded_error_teacher": _difference(ours, self._teacher),
            f"{_VIDEO}_decoded_error_expert": _difference(ours, self._recorded),
        }
        if (sharpness := _sharpness(self._teacher)) > 0:
            found[f"{_VIDEO}_decoded_sharpness_ratio"] = _sharpness(ours) / sharpness
        logger.info("decoding video of %d windows took %.1f s", len(ours), time.perf_counter() - began)
        return found

    def frames(self, drawn: Chunks | None) -> list[np.ndarray]:
        """Decodes.

        Args:
            drawn: As `chunk_draws` returns them; None for what was recorded.

        Returns:
            Of every window uint8 [P, height, width, 3], P the pictures of its chunk that count.
        """
        size = self.reference[0][_VIDEO].shape[2]
        count = min(self.windows, self.batch.size)
        found: dict[int, np.ndarray] = {}
        for number in range(min(len(self.reference), count)):
            rows = list(range(number, count, len(self.reference)))
            begin, end = number * size, (number + 1) * size
            if drawn is None:
                chunk = self.batch.clean[_VIDEO][rows, :, begin:end]
            else:
                chunk = drawn[number][_VIDEO][[row * self.draws for row in rows]]
            seen = self.batch.history[_VIDEO][rows].to(chunk)
            clip = [seen[:, :, begin : begin + 1], chunk[:, :, 1:]] if self.alone else [seen[:, :, :begin], chunk]
            counted = self.batch.loss_mask(_VIDEO)[rows, :, begin:end].amax((1, 3, 4)).cpu().numpy()
            shown = self.pictures(torch.cat(clip, 2))
            frames = latent_frames(shown.shape[1], sum(part.shape[2] for part in clip))
            # Numbers of the chunk's own frames, negative before it.
            frames = frames - (frames[-1] + 1 - size)
            found |= {
                row: shown[place][(frames >= 0) & counted[place][np.maximum(frames, 0)]]
                for place, row in enumerate(rows)
            }
        return [found[row] for row in range(count)]

    @cached_property
    def _recorded(self) -> list[np.ndarray]:
        return self.frames(None)

    @cached_property
    def _teacher(self) -> list[np.ndarray]:
        return self.frames(self.reference)


def decoded_draws(
    pictures: Callable[[Tensor], np.ndarray] | None, reference: Chunks | None, **told: Any
) -> DecodedDraws | None:
    """A look at decoded draws; None where nothing decodes them, or there is no teacher.

    Args:
        pictures, reference, told: See `DecodedDraws`.
    """
    if pictures is None or reference is None:
        return None
    return DecodedDraws(pictures=pictures, reference=reference, **told)


def _difference(ours: Iterable[np.ndarray], theirs: Iterable[np.ndarray]) -> float:
    """Mean absolute difference of windows' pictures [P, height, width, 3], in grey levels."""
    return _mean(np.abs(a.astype(np.float32) - b) for a, b in zip(ours, theirs, strict=True))


def _sharpness(windows: Iterable[np.ndarray]) -> float:
    """Mean absolute difference of neighbouring pixels, along rows and along columns, in grey levels."""
    grey = [each.astype(np.float32) for each in windows]
    return sum(_mean(np.abs(np.diff(each, axis=axis)) for each in grey) for axis in (1, 2))


def _mean(arrays: Iterable[np.ndarray]) -> float:
    """Mean of all numbers."""
    totals = [(float(array.sum(dtype=np.float64)), array.size) for array in arrays]
    return sum(total for total, _ in totals) / sum(size for _, size in totals)
