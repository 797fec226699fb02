# SPDX-License-Identifier: Apache-2.0
"""Between a robot and LingBot-VA: pictures to latents, controls to actions, prompts to embeddings.

Letters: C latent channels, F latent frames, H, W latent size, A action channels, N actions per frame, U controls,
L text tokens, D text width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from flashwam.data.actions import ActionNorm
from flashwam.data.cameras import CameraLayout
from flashwam.system.paths import user_path
from flashwam.wam.codec import CodecNote, CodecSession, RobotCodec
from flashwam.wam.lingbot_va.config import FAMILY
from flashwam.wam.lingbot_va.presets import Preset
from flashwam.wam.lingbot_va.presets import preset as find_preset
from flashwam.wam.lingbot_va.prompts import PromptEncoder
from flashwam.wam.lingbot_va.vae import PICTURES_PER_FRAME, WanVae

__all__ = ["LingBotCodec", "LingBotCodecSession"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LingBotCodec(RobotCodec):
    """See `RobotCodec`.

    Args:
        vae: Encodes the pictures.
    """

    vae: WanVae

    keyframes_per_frame: ClassVar[int] = PICTURES_PER_FRAME
    text_rows: ClassVar[int] = PromptEncoder.rows

    def open(self) -> "LingBotCodecSession":
        """A codec for one episode: the pictures' past is its own."""
        return LingBotCodecSession(self)

    @torch.no_grad()
    def pictures(self, latents: Tensor) -> dict[str, np.ndarray]:
        """Latents of an episode from its first frame on, as pictures.

        Args:
            latents: [1, C, F, H, W].

        Returns:
            Camera -> uint8 [4 F - 3, rows, columns, 3].
        """
        decoded = {}
        for (keys, _), band in zip(self.cameras.groups, self.cameras.split(latents), strict=True):
            decoded |= dict(zip(keys, self.vae.decode(band).numpy(), strict=True))
        return decoded

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str | Path,
        preset: str | Preset,
        *,
        clip: float | None = None,
        text_cache: str | Path | None = None,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
        text_device: torch.device | str = "cpu",
    ) -> "LingBotCodec":
        """The codec of a released checkpoint.

        Args:
            checkpoint: Holds ``vae/`` and, unless every prompt is cached, ``text_encoder/`` and ``tokenizer/``. For a
                fine-tune that ships only ``transformer/``, the base checkpoint.
            preset: Name in `presets.PRESETS`, or the settings themselves.
            clip: See `ActionNorm`.
            text_cache: Folder of embedded prompts, read and written; see `PromptCache` for None.
            dtype: Of the autoencoder. Prompts are embedded in bfloat16, as those of the data are.
            device: Of the autoencoder.
            text_device: Of the text encoder, which runs once a prompt.
        """
        settings = find_preset(preset) if isinstance(preset, str) else preset
        return cls._around(
            settings.cameras,
            settings.actions(clip=clip),
            checkpoint=user_path(checkpoint),
            text_cache=text_cache,
            dtype=dtype,
            device=device,
            text_device=text_device,
        )

    def save(self, folder: str | Path, *, checkpoint: str | Path) -> None:
        """Writes ``codec.json`` beside a student, see `CodecNote`."""
        note = CodecNote(family=FAMILY, checkpoint=user_path(checkpoint), cameras=self.cameras, actions=self.actions)
        note.write(folder)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        checkpoint: str | Path | None = None,
        text_cache: str | Path | None = None,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
        text_device: torch.device | str = "cpu",
    ) -> "LingBotCodec":
        """The codec that ``codec.json`` in a folder notes.

        Args:
            folder: Of the student.
            checkpoint: Where ``vae/`` and the text encoder are now; where they were noted to be if None.
            text_cache: See `from_pretrained`.
            dtype: See `from_pretrained`.
            device: See `from_pretrained`.
            text_device: See `from_pretrained`.

        Raises:
            FileNotFoundError: ``codec.json`` or ``vae/`` is missing.
            ValueError: It is another family's.
        """
        note = CodecNote.read(folder, family=FAMILY)
        return cls._around(
            note.cameras,
            note.actions,
            checkpoint=note.checkpoint if checkpoint is None else user_path(checkpoint),
            text_cache=text_cache,
            dtype=dtype,
            device=device,
            text_device=text_device,
        )

    @classmethod
    def _around(
        cls,
        cameras: CameraLayout,
        actions: ActionNorm,
        *,
        checkpoint: Path,
        text_cache: str | Path | None,
        dtype: torch.dtype,
        device: torch.device | str,
        text_device: torch.device | str,
    ) -> "LingBotCodec":
        """With a checkpoint's autoencoder and text encoder."""
        prompts = PromptEncoder(text_cache, checkpoint=checkpoint, device=text_device)
        vae = WanVae.from_pretrained(checkpoint / "vae", dtype=dtype, device=device)
        return cls(vae=vae, cameras=cameras, actions=actions, prompts=prompts.encode)


class LingBotCodecSession(CodecSession):
    """See `CodecSession`.

    Args:
        codec: What is shared.
    """

    def __init__(self, codec: LingBotCodec) -> None:
        super().__init__(codec)
        self._streams = [codec.vae.open() for _ in codec.cameras.groups]

    def encode(self, observations: Sequence[Mapping[str, Any]]) -> Tensor:
        """See `CodecSession.encode`; latents are those that one long clip would give.

        Args:
            observations: 1 in the first call (or 1 and multiples of 4 more), then multiples of 4.

        Returns:
            F = 1 in the first call, then one frame per 4 pictures.
        """
        pixels = self._codec.cameras.pixels(observations, device=self._codec.vae.device)
        streams = [stream.fork() for stream in self._streams]
        latents = self._codec.cameras.join([stream.encode(x) for stream, x in zip(streams, pixels, strict=True)])
        self._streams = streams
        return latents.float()
