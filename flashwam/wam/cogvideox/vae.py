# SPDX-License-Identifier: Apache-2.0
"""The video autoencoder of CogVideoX, with latents scaled as its transformers were trained on.

Its normalisations see all pictures that are encoded at once, so the first latent of a clip is not the latent of that
picture encoded alone. A model is shown the latter.

Letters: B clips, T pictures, C latent channels, F latent frames, h, w latent size.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX
from torch import Tensor, nn

from flashwam.core.checks import check_number
from flashwam.data.encoders import to_pictures
from flashwam.system.errors import InputError
from flashwam.system.json_file import built_from
from flashwam.system.paths import user_path
from flashwam.wam.autoencoders import load_autoencoder
from flashwam.wam.encoder_passes import EncoderPasses

__all__ = ["PICTURES_PER_FRAME", "UNIT", "CogVideoXVae"]

PICTURES_PER_FRAME = 4
"""Pictures that a latent frame spans; the very first one spans 1."""
UNIT = 8
"""Pictures that diffusers encodes at a time: a clip has 1 + 8 k of them, or it decodes to another number."""

_TOGETHER = 16


class CogVideoXVae(nn.Module):
    """diffusers' autoencoder with scaled latents [B, C, F, h, w], float32 outside.

    Args:
        model: Its configuration carries the scale.

    Raises:
        ValueError: It is that of another version, or the scale makes no sense.
    """

    def __init__(self, model: AutoencoderKLCogVideoX) -> None:
        super().__init__()
        config = model.config
        if config.invert_scale_latents or config.temporal_compression_ratio != PICTURES_PER_FRAME:
            raise InputError(
                f"expected the autoencoder of CogVideoX-2b, -5b or -5b-I2V with {PICTURES_PER_FRAME} pictures a latent "
                f"frame; got invert_scale_latents {config.invert_scale_latents} (version 1.5), "
                f"temporal_compression_ratio {config.temporal_compression_ratio}"
            )
        check_number("scaling_factor", config.scaling_factor, low=1e-4, high=1e4, hint="1.15258426 released with 2b")
        self.model = model.eval().requires_grad_(False)
        self.passes = EncoderPasses(self.model, _means(self.model))

    def choose_encoder(self, way: str, **options: Any) -> None:
        """Chooses how pictures are encoded alone from now on: any way but "plain" takes one at a time.

        Args:
            way: See `EncoderPasses`.
            options: Of it.

        Raises:
            ValueError: The way is unknown.
        """
        self.passes = EncoderPasses(self.model, _means(self.model), way, **options)

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return next(self.model.parameters()).device

    @property
    def channels(self) -> int:
        """Latent channels C."""
        return int(self.model.config.latent_channels)

    @property
    def factor(self) -> int:
        """Pixels per latent row and column."""
        return 2 ** (len(self.model.config.block_out_channels) - 1)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
    ) -> "CogVideoXVae":
        """Loads ``vae/`` of a checkpoint, see `load_autoencoder`."""
        model = load_autoencoder(AutoencoderKLCogVideoX, folder, dtype=dtype, device=device)
        return built_from(user_path(folder) / "config.json", lambda: cls(model))

    @classmethod
    def blank(cls, *, dtype: torch.dtype, device: torch.device | str, **changes: Any) -> "CogVideoXVae":
        """One of the released size, but for some keywords of diffusers' class, with fresh weights."""
        with torch.device(device):
            model = AutoencoderKLCogVideoX(**changes)
        return cls(nn.Module.to(model, dtype=dtype))

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Whole clips to latents: the means of their posteriors, so that the same pictures give the same latents.

        Args:
            pixels: [B, 3, 1 + 8 k, rows, columns] in [-1, 1], rows and columns multiples of `factor`.

        Returns:
            [B, C, 1 + 2 k, h, w], float32.

        Raises:
            ValueError: For another number of pictures, or another size.
        """
        count, *size = pixels.shape[2:]
        if count < 1 or (count - 1) % UNIT:
            raise ValueError(f"a clip has 1 and a multiple of {UNIT} pictures, which decode to as many; got {count}")
        if any(side % self.factor for side in size):
            raise InputError(f"rows and columns must be multiples of {self.factor}, got {tuple(size)}")
        pixels = pixels.to(next(self.model.parameters()))
        means: Tensor = self.passes(pixels) if len(pixels) == count == 1 else _means(self.model)(pixels)
        return means.float() * self.model.config.scaling_factor

    def encode_alone(self, pictures: Tensor) -> Tensor:
        """Every picture as a clip of its own: [B, 3, T, rows, columns] in [-1, 1] -> [B, C, T, h, w], float32."""
        batch, count = pictures.shape[0], pictures.shape[2]
        alone = pictures.transpose(1, 2).flatten(0, 1)[:, :, None]
        # Many episodes at once would take as much memory each.
        together = _TOGETHER if self.passes.way == "plain" else 1
        latents = torch.cat([self.encode(part)[:, :, 0] for part in alone.split(together)])
        return latents.unflatten(0, (batch, count)).transpose(1, 2).contiguous()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, C, 1 + 2 k, h, w] from the first frame on -> uint8 pictures [B, 1 + 8 k, rows, columns, 3]."""
        if not latents.shape[2] % 2:
            raise ValueError(f"a clip has an odd number of latent frames, got {latents.shape[2]}")
        raw = latents.float() / self.model.config.scaling_factor
        return to_pictures(self.model.decode(raw.to(next(self.model.parameters()))).sample)


def _means(model: AutoencoderKLCogVideoX) -> Callable[[Tensor], Tensor]:
    """The encoder as a function of clips, to the means of their posteriors before they are scaled."""

    def encode(pixels: Tensor) -> Tensor:
        means: Tensor = model.encode(pixels).latent_dist.mode()
        return means

    return encode
