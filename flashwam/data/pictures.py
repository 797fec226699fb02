# SPDX-License-Identifier: Apache-2.0
"""From drawn latents to the pictures that vision models look at."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from flashwam.data.autoencoder import FrameAutoencoder
from flashwam.data.fingerprint import tensors_fingerprint

__all__ = ["DECODERS", "ClipPictures", "FramePictures", "PictureDecoder", "latent_frames"]

DECODERS: dict[str, str] = {
    "cogvideox": "flashwam.wam.cogvideox.pictures:CogVideoXPictures",
    "frames": "flashwam.data.pictures:FramePictures",
    "lingbot_va": "flashwam.wam.lingbot_va.pictures:WanPictures",
}
"""Name in a saved policy -> import path of its `PictureDecoder`."""


class PictureDecoder(nn.Module, ABC):
    """Decodes a video stream's latents; frozen.

    Attributes:
        causal: What it makes of a latent frame depends on those before it.
    """

    causal = True

    @abstractmethod
    def pictures(self, latents: Tensor) -> Tensor:
        """Latents [n, C, F, H, W] -> uint8 [n, P, height, width, 3], P = F or 1 + r (F - 1)."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes a folder that `load` reads."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """Reads what `save` wrote."""

    @property
    @abstractmethod
    def parameter_count(self) -> int:
        """Parameters that decoding takes."""

    def fingerprint(self) -> str:
        """Tells this decoder from another one: its class and its tensors. One that depends on more adds that."""
        return _fingerprint(self, self.state_dict())


class FramePictures(PictureDecoder):
    """The miniature's autoencoder: one picture is one latent frame.

    Args:
        autoencoder: Taken over and frozen.
    """

    causal = False

    def __init__(self, autoencoder: FrameAutoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder.requires_grad_(False).eval()

    @torch.no_grad()
    def pictures(self, latents: Tensor) -> Tensor:
        """See `PictureDecoder.pictures`."""
        return self.autoencoder.decode(latents.transpose(1, 2))

    def save(self, folder: Path) -> None:
        """See `PictureDecoder.save`."""
        self.autoencoder.save_pretrained(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See `PictureDecoder.load`."""
        return cls(FrameAutoencoder.from_pretrained(folder))

    @property
    def parameter_count(self) -> int:
        """See `PictureDecoder.parameter_count`."""
        return sum(p.numel() for p in self.autoencoder.vae.decoder.parameters())


class ClipPictures(PictureDecoder):
    """A video autoencoder: the chunk's first latent frame becomes one picture and every other one several, as if a clip
    began with the chunk. The canvas of all cameras is one picture.

    Args:
        vae: Decodes [1, C, F, h, w] to uint8 pictures and holds diffusers' model as `model`; taken over and frozen.
    """

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae.requires_grad_(False).eval()

    @classmethod
    @abstractmethod
    def read(cls, folder: Path) -> Any:
        """The autoencoder of a folder."""

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
        return cls(cls.read(folder / "vae"))

    def fingerprint(self) -> str:
        """See `PictureDecoder.fingerprint`; with the model's settings, which hold the latents' scale."""
        model = self.vae.model
        told = {name: value for name, value in model.config.items() if not name.startswith("_")}
        return _fingerprint(self, model.state_dict(), json.dumps(told, sort_keys=True, default=str))

    @property
    def parameter_count(self) -> int:
        """See `PictureDecoder.parameter_count`."""
        parts = [self.vae.model.decoder, getattr(self.vae.model, "post_quant_conv", None)]
        return sum(p.numel() for part in parts if part is not None for p in part.parameters())


def _fingerprint(decoder: PictureDecoder, tensors: Mapping[str, Tensor], settings: str = "") -> str:
    text = f"{type(decoder).__qualname__} {settings} {tensors_fingerprint(tensors)}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def latent_frames(pictures: int, frames: int) -> np.ndarray:
    """Numbers of the latent frames that a clip's pictures are of, [P]: a picture each, or one of the first and as many
    of every other one.

    Args:
        pictures: P.
        frames: Latent frames of the clip.
    """
    each = max(1, (pictures - 1) // max(1, frames - 1))
    return np.asarray((np.arange(pictures) + each - 1) // each)
