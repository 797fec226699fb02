# SPDX-License-Identifier: Apache-2.0
"""The encoders that a conversion needs: pictures to latents and prompts to embeddings.

Letters: T pictures, C latent channels, F latent frames, h and w latent rows and columns, L text tokens, D text width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from flashwam.data.autoencoder import FrameAutoencoder
from flashwam.data.hashed_text import encode_text
from flashwam.data.latents import fingerprint
from flashwam.data.pixels import PixelAutoencoder, load_autoencoder
from flashwam.system.errors import InputError

__all__ = ["Encoders", "Resize", "check_resize", "encode_frames", "frame_encoders", "to_pictures", "to_pixels"]

Resize = Literal["stretch", "cover"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoders:
    """Two functions and what is known of them.

    Attributes:
        video: A clip from its first picture on, float32 pixels [3, T, H, W] in [-1, 1] with T = 1 modulo
            `pictures_per_frame`, to normalised latents [C, F, h, w].
        text: A prompt to its embedding [L, D]; "" gives what guidance needs.
        pictures_per_frame: Pictures per latent frame after the first: 4 for video autoencoders.
        name: Tells these weights from others, so that one data set never mixes two.
        prepare: Called once with every prompt, before any other process is started: what embeds with a large model
            can do so here and keep the results on disk for all.
        unit: Pictures that are encoded together: a clip has one and a multiple of them. None: `pictures_per_frame`.
        clips: The model sees the first picture of a sample encoded alone, which is not the first of its latents. So
            every sample is a clip of its own, and the latent of its first picture is kept beside.
    """

    video: Callable[[Tensor], Tensor]
    text: Callable[[str], Tensor]
    pictures_per_frame: int
    name: str
    prepare: Callable[[Sequence[str]], None] | None = None
    unit: int | None = None
    clips: bool = False

    def __post_init__(self) -> None:
        if self.pictures_per_frame not in (1, 4):
            raise InputError(f"pictures_per_frame must be 1 or 4, got {self.pictures_per_frame}")
        if self.unit is None:
            object.__setattr__(self, "unit", self.pictures_per_frame)
        if self.unit < 1 or self.unit % self.pictures_per_frame:
            raise InputError(
                f"unit must be a multiple of {self.pictures_per_frame} (pictures_per_frame), got {self.unit}"
            )


def check_resize(resize: str) -> None:
    """Refuses an unknown way to resize, see `to_pixels`."""
    if resize not in get_args(Resize):
        raise InputError(f"resize: expected one of {', '.join(get_args(Resize))}, got {resize!r}")


def to_pixels(
    pictures: np.ndarray,
    size: tuple[int, int],
    *,
    resize: Resize = "stretch",
    device: torch.device | str = "cpu",
) -> Tensor:
    """Resizes pictures on the 0 to 255 scale.

    Args:
        pictures: uint8 [T, H, W, 3].
        size: Rows and columns of the result.
        resize: "stretch" as LingBot-VA does: bilinear, corners not aligned, no antialiasing. "cover" as VideoVLA does:
            bicubic with antialiasing until the size is covered, then the middle.
        device: Where they are resized; they go there as they are, four times smaller than what is made of them.

    Returns:
        float32 [3, T, *size] in [-1, 1], on the device.
    """
    check_resize(resize)
    values = torch.from_numpy(np.ascontiguousarray(pictures)).to(device).permute(0, 3, 1, 2).float()
    if tuple(values.shape[-2:]) != tuple(size):
        values = _covering(values, size) if resize == "cover" else _stretched(values, size)
    return (values / 255 * 2 - 1).transpose(0, 1).contiguous()


def _stretched(values: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(values, size=tuple(size), mode="bilinear", align_corners=False)


def _covering(values: Tensor, size: tuple[int, int]) -> Tensor:
    own = values.shape[-2:]
    scale = max(wanted / side for wanted, side in zip(size, own, strict=True))
    larger = tuple(max(wanted, int(side * scale)) for wanted, side in zip(size, own, strict=True))
    if larger != tuple(own):
        values = functional.interpolate(values, size=larger, mode="bicubic", align_corners=False, antialias=True)
    top, left = ((side - wanted) // 2 for side, wanted in zip(larger, size, strict=True))
    return values[..., top : top + size[0], left : left + size[1]].clamp(0, 255)


def to_pictures(pixels: Tensor) -> Tensor:
    """Pixels about [-1, 1], [B, 3, T, rows, columns], of any dtype -> uint8 [B, T, rows, columns, 3] on the CPU."""
    pixels = pixels.float().cpu().clamp(-1, 1)
    return ((pixels + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1)


@torch.no_grad()
def encode_frames(autoencoder: FrameAutoencoder, pixels: Tensor) -> Tensor:
    """Pixels [3, T, H, W] in [-1, 1] -> normalised latents [C, T, h, w], picture by picture."""
    latents = autoencoder.raw_encode(pixels.transpose(0, 1))
    return ((latents - autoencoder.mean[:, None, None]) / autoencoder.std[:, None, None]).transpose(0, 1)


def frame_encoders(folder: Path | str | None) -> Encoders:
    """The per-picture autoencoder that `train_autoencoder` made, with the hashed text embedding beside it.

    Args:
        folder: Of the autoencoder; None for one that leaves pictures as they are.

    Raises:
        FileNotFoundError: The folder holds no complete autoencoder.
    """
    model = PixelAutoencoder().eval() if folder is None else load_autoencoder(folder)

    def prepare(prompts: Sequence[str]) -> None:
        for prompt in prompts:
            encode_text(prompt)

    return Encoders(
        video=partial(encode_frames, model),
        text=encode_text,
        pictures_per_frame=1,
        name=f"frame autoencoder {fingerprint(model)}",
        prepare=prepare,
    )
