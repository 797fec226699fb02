# SPDX-License-Identifier: Apache-2.0
"""Between a robot and a CogVideoX model: the current picture to its latent, actions to controls, prompts to embeddings.

The model knows nothing but the current frame, so every picture is encoded alone and nothing is kept between calls.

Letters: B episodes, C latent channels, F latent frames, H, W latent size, A action channels, N actions per frame,
U controls.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from flashwam.data.encoders import to_pixels
from flashwam.system.errors import InputError
from flashwam.wam.codec import CodecNote, CodecSession, RobotCodec
from flashwam.wam.cogvideox.text import T5Prompts
from flashwam.wam.cogvideox.vae import CogVideoXVae

__all__ = ["CogVideoXCodec", "CogVideoXCodecSession"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CogVideoXCodec(RobotCodec):
    """See `RobotCodec`; for episodes in lock-step it has what `flashwam.data.codec.Codec` has.

    Args:
        vae: Encodes the pictures.

    Raises:
        ValueError: The cameras' layout is made for another autoencoder.
    """

    vae: CogVideoXVae

    keyframes_per_frame: ClassVar[int] = 1
    text_rows: ClassVar[int] = T5Prompts.rows

    def __post_init__(self) -> None:
        if self.cameras.factor != self.vae.factor:
            raise InputError(
                f"the cameras' layout has {self.cameras.factor} pixels a latent, the autoencoder {self.vae.factor}"
            )

    def open(self) -> "CogVideoXCodecSession":
        """See `RobotCodec.open`; sessions share everything."""
        return CogVideoXCodecSession(self)

    def video(self, frames: np.ndarray) -> Tensor:
        """Pictures of one camera, uint8 [B, F, rows, columns, 3] of any size -> latents [B, C, F, H, W]."""
        if len(self.cameras.cameras) != 1:
            raise InputError(f"episodes in lock-step have one camera; this codec has {self.cameras.cameras}")
        pixels = to_pixels(frames.reshape(-1, *frames.shape[2:]), self.cameras.image_size, resize=self.cameras.resize)
        latents = self.vae.encode_alone(pixels[None])[0].cpu()
        return latents.unflatten(1, frames.shape[:2]).transpose(0, 1).contiguous()

    def pictures(self, latents: Tensor) -> np.ndarray:
        """Latents of one camera from a chunk's first frame on, [B, C, F, H, W] -> uint8 [B, 4 F - 3, rows, columns, 3];
        F is odd."""
        return self.vae.decode(latents).numpy()

    def controls(self, actions: Tensor) -> np.ndarray:
        """Model actions [B, A, F, N, 1] -> controls in raw units, float32 [B, F * N, U]."""
        raw = self.actions.denormalise(actions.detach().float().cpu())
        return raw.permute(0, 2, 3, 1).flatten(1, 2).numpy()

    def executed(self, controls: np.ndarray, per_frame: int) -> Tensor:
        """Executed controls [B, F * N, U] -> model actions [B, A, F, N, 1]."""
        return self.actions.executed(controls, per_frame)

    @classmethod
    def from_note(
        cls,
        note: CodecNote,
        *,
        text_cache: str | Path | None = None,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
        text_device: torch.device | str = "cpu",
    ) -> "CogVideoXCodec":
        """With the autoencoder and text encoder of the checkpoint that is noted.

        Args:
            note: What a model was trained with.
            text_cache: Folder of embedded prompts, read and written; see `PromptCache` for None.
            dtype: Of the autoencoder. Prompts are embedded in bfloat16, as those of the data are.
            device: Of the autoencoder.
            text_device: Of the text encoder, which runs once a prompt.

        Raises:
            FileNotFoundError: ``vae/`` is missing.
            ValueError: It holds another autoencoder.
        """
        checkpoint = note.checkpoint
        prompts = T5Prompts(text_cache, checkpoint=checkpoint, device=text_device)
        vae = CogVideoXVae.from_pretrained(checkpoint / "vae", dtype=dtype, device=device)
        return cls(vae=vae, cameras=note.cameras, actions=note.actions, prompts=prompts.encode)


class CogVideoXCodecSession(CodecSession):
    """See `CodecSession`."""

    def __init__(self, codec: CogVideoXCodec) -> None:
        super().__init__(codec)
        codec.vae.passes.begin()

    def encode(self, observations: Sequence[Mapping[str, Any]]) -> Tensor:
        """See `CodecSession.encode`; any number of observations, each a latent frame of its own."""
        codec = self._codec
        views = [
            codec.vae.encode_alone(pixels) for pixels in codec.cameras.pixels(observations, device=codec.vae.device)
        ]
        return codec.cameras.join(views)
