# SPDX-License-Identifier: Apache-2.0
"""Drawn latents as the pictures that vision models look at."""

from pathlib import Path

from flashwam.data.pictures import ClipPictures
from flashwam.wam.lingbot_va.vae import WanVae

__all__ = ["WanPictures"]


class WanPictures(ClipPictures):
    """Wan's autoencoder, see `ClipPictures`."""

    @classmethod
    def read(cls, folder: Path) -> WanVae:
        """See `ClipPictures.read`."""
        return WanVae.from_pretrained(folder)
