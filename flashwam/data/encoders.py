# SPDX-License-Identifier: Apache-2.0
"""What a conversion needs of a model: pictures to latents and prompts to embeddings.

Letters: T pictures, C latent channels, F latent frames, h and w latent rows and columns, L text tokens, D text width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from flashwam.data.pixels import load_autoencoder
from flashwam.data.text import encode_text

__all__ = ["Encoders", "frame_encoders", "to_pixels"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoders:
    """Two functions and what is known of them.

    Attributes:
        video: A clip from its first picture on, float32 pixels [3, T, H, W] in [-1, 1] with T = 1 modulo
            `pictures_per_frame`, to normalised latents [C, F, h, w].
        text: A prompt to its embedding [L, D]; "" gives what guidance needs.
        pictures_per_frame: Pictures per latent frame after the first: 4 for Wan's autoencoder.
        name: Tells these weights from others, so that one data set never mixes two.
        prepare: Called once with every prompt, before any other process is started: what embeds with a large model
            can do so here and keep the results on disk for all.
    """

    video: Callable[[Tensor], Tensor]
    text: Callable[[str], Tensor]
    pictures_per_frame: int
    name: str
    prepare: Callable[[Sequence[str]], None] | None = None

    def __post_init__(self) -> None:
        if self.pictures_per_frame not in (1, 4):
            raise ValueError(f"pictures_per_frame must be 1 or 4, got {self.pictures_per_frame}")


def to_pixels(pictures: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Resizes pictures as LingBot-VA does: bilinear on the 0 to 255 scale, corners not aligned, no antialiasing.

    Args:
        pictures: uint8 [T, H, W, 3].
        size: Rows and columns of the result.

    Returns:
        float32 [3, T, *size] in [-1, 1].
    """
    values = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float()
    if tuple(values.shape[-2:]) != tuple(size):
        values = functional.interpolate(values, size=tuple(size), mode="bilinear", align_corners=False)
    return (values / 255 * 2 - 1).transpose(0, 1).contiguous()


def frame_encoders(folder: Path | str) -> Encoders:
    """The per-picture autoencoder that `train_autoencoder` made, with the hashed text embedding beside it.

    Raises:
        FileNotFoundError: The folder holds no complete autoencoder.
    """
    from flashwam.data.latents import fingerprint

    model = load_autoencoder(folder)

    @torch.no_grad()
    def video(pixels: Tensor) -> Tensor:
        latents = model.raw_encode(pixels.transpose(0, 1))
        return ((latents - model.mean[:, None, None]) / model.std[:, None, None]).transpose(0, 1)

    return Encoders(video=video, text=encode_text, pictures_per_frame=1, name=f"frame autoencoder {fingerprint(model)}")
