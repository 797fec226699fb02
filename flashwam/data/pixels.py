# SPDX-License-Identifier: Apache-2.0
"""Pictures as their own latents, for models with eyes of their own: three channels in [-1, 1] at full size."""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from flashwam.data.autoencoder import STATS, FrameAutoencoder
from flashwam.system.errors import InputError
from flashwam.system.files import write_whole
from flashwam.system.json_file import read_mapping
from flashwam.system.paths import user_path

__all__ = ["PixelAutoencoder", "load_autoencoder"]

_KIND = "pixels"


class PixelAutoencoder(FrameAutoencoder):
    """Stands where an autoencoder is expected and leaves pictures as they are; it has no weights."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.config = {}
        self.register_buffer("mean", torch.zeros(self.latent_channels))
        self.register_buffer("std", torch.ones(self.latent_channels))
        self.psnr = None

    @property
    def latent_channels(self) -> int:
        """C: red, green and blue."""
        return 3

    @property
    def factor(self) -> int:
        """Pixels per latent on each axis."""
        return 1

    def raw_encode(self, pixels: Tensor) -> Tensor:
        """Pixels as they are."""
        return pixels

    def raw_decode(self, latents: Tensor) -> Tensor:
        """Pixels as they are."""
        return latents

    def save_pretrained(self, folder: Path | str) -> None:
        """Writes what `load_autoencoder` knows it by."""
        write_whole(user_path(folder) / STATS, json.dumps({"kind": _KIND}).encode())

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> "PixelAutoencoder":
        """Reads what `save_pretrained` wrote.

        Raises:
            ValueError: The folder holds another autoencoder.
        """
        found = load_autoencoder(folder)
        if not isinstance(found, cls):
            raise InputError(f"{folder} holds a trained autoencoder, not pixels")
        return found


def load_autoencoder(folder: Path | str) -> FrameAutoencoder:
    """Loads a trained autoencoder, or one that leaves pictures as they are.

    Raises:
        FileNotFoundError: The folder holds no complete one.
    """
    path = user_path(folder) / STATS
    if path.exists() and read_mapping(path).get("kind") == _KIND:
        return PixelAutoencoder().eval()
    return FrameAutoencoder.from_pretrained(folder)
