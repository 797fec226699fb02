# SPDX-License-Identifier: Apache-2.0
"""Drawn latents as the pictures that vision models look at."""

from pathlib import Path

from flashwam.data.pictures import ClipPictures
from flashwam.wam.cogvideox.vae import CogVideoXVae

__all__ = ["CogVideoXPictures"]


class CogVideoXPictures(ClipPictures):
    """CogVideoX's autoencoder, see `ClipPictures`."""

    @classmethod
    def read(cls, folder: Path) -> CogVideoXVae:
        """See `ClipPictures.read`."""
        return CogVideoXVae.from_pretrained(folder)
