# SPDX-License-Identifier: Apache-2.0
"""Drawn latents as the pictures that vision models look at."""

from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from flashwam.data.pictures import PictureDecoder
from flashwam.wam.lingbot_va.vae import WanVae

__all__ = ["WanPictures"]


class WanPictures(PictureDecoder):
    """Wan's autoencoder on the canvas of all cameras, as one picture.

    The chunk's first latent frame becomes one picture and every other one four, as if a clip began with the chunk.

    Args:
        vae: Taken over and frozen.
    """

    def __init__(self, vae: WanVae) -> None:
        super().__init__()
        self.vae = vae.requires_grad_(False).eval()

    @torch.no_grad()
    def pictures(self, latents: Tensor) -> Tensor:
        """See `PictureDecoder.pictures`; clip after clip, since decoding takes much memory."""
        return torch.cat([self.vae.decode(clip) for clip in latents.split(1)])

    def save(self, folder: Path) -> None:
        """See `PictureDecoder.save`."""
        self.vae.model.save_pretrained(folder / "vae")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See `PictureDecoder.load`."""
        return cls(WanVae.from_pretrained(folder / "vae"))

    @property
    def parameter_count(self) -> int:
        """See `PictureDecoder.parameter_count`."""
        parts = (self.vae.model.decoder, self.vae.model.post_quant_conv)
        return sum(p.numel() for part in parts for p in part.parameters())
