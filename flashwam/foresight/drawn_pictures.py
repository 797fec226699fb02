# SPDX-License-Identifier: Apache-2.0
"""Drawn videos of several chunks as pictures, for vision models to look at.

Letters: B windows, C channels, F latent frames, H and W the rest of a stream's tokens, P pictures.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.data.pictures import PictureDecoder, latent_frames
from flashwam.distillation.rollouts import Extras

__all__ = ["PICTURES", "drawn_pictures", "pictures_of_chunks"]

PICTURES = "video/pictures"
"""Name under which a rollout holds its video's pictures, uint8 [P, height, width, 3]."""
_VIDEO = "video"


def pictures_of_chunks(decoder: PictureDecoder, drawn: Tensor, recorded: Tensor, *, chunk_frames: int) -> Tensor:
    """Decodes chunks that were drawn under the recorded past, each after that past.

    A causal autoencoder makes of a latent frame what came before it, and the chunk before is another future than the
    one that a chunk was drawn under.

    Args:
        decoder: Of the video.
        drawn: Whole chunks, [B, C, F, H, W].
        recorded: The windows, of the same shape.
        chunk_frames: Latent frames of a chunk.

    Returns:
        uint8 [B, P, height, width, 3], as many pictures as of one clip.
    """
    frames = drawn.shape[2]
    if not decoder.causal or frames <= chunk_frames:
        return decoder.pictures(drawn)
    parts = []
    for begin in range(0, frames, chunk_frames):
        clip = torch.cat([recorded[:, :, :begin].to(drawn), drawn[:, :, begin : begin + chunk_frames]], 2)
        shown = decoder.pictures(clip)
        own = torch.from_numpy(latent_frames(shown.shape[1], clip.shape[2]) >= begin)
        parts.append(shown[:, own.to(shown.device)])
    return torch.cat(parts, 1)


def drawn_pictures(decoder: PictureDecoder, *, frames: int, chunk_frames: int) -> Extras:
    """Tells a store of rollouts to keep the pictures of what was drawn.

    Args:
        decoder: Of the video.
        frames: Latent frames of a window.
        chunk_frames: Of a chunk.
    """

    def make(batch: Batch, drawn: Mapping[str, Tensor]) -> dict[str, Tensor]:
        recorded = batch.history[_VIDEO].cpu()
        return {PICTURES: pictures_of_chunks(decoder, drawn[_VIDEO], recorded, chunk_frames=chunk_frames)}

    # Those of one chunk are what they were.
    after = f" each {chunk_frames} of {frames} after their past" if decoder.causal and frames > chunk_frames else ""
    return Extras(fingerprint=f"{decoder.fingerprint()}{after}", make=make)
