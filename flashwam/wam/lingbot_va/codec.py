# SPDX-License-Identifier: Apache-2.0
"""Between a robot and LingBot-VA: pictures to latents, controls to actions, prompts to embeddings.

Letters: C latent channels, F latent frames, H, W latent size, A action channels, N actions per frame, U controls,
L text tokens, D text width.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flashwam.data.actions import ActionNorm
from flashwam.data.codec import CODEC_FILE
from flashwam.wam.lingbot_va.cameras import CameraLayout
from flashwam.wam.lingbot_va.config import FAMILY
from flashwam.wam.lingbot_va.presets import preset as find_preset
from flashwam.wam.lingbot_va.prompts import TEXT_CACHE, PromptEncoder
from flashwam.wam.lingbot_va.vae import PICTURES_PER_FRAME, WanVae

__all__ = ["LingBotCodec", "LingBotCodecSession", "base_checkpoint", "write_codec"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LingBotCodec:
    """What every session shares.

    Args:
        vae: Encodes the pictures.
        cameras: Which pictures, at which size, and where their latents go.
        actions: Normalisation of the controls.
        prompts: prompt -> embedding [L, D], such as `PromptEncoder.encode`.
    """

    vae: WanVae
    cameras: CameraLayout
    actions: ActionNorm
    prompts: Callable[[str], Tensor]

    def open(self) -> "LingBotCodecSession":
        """A codec for one episode: the pictures' past is its own."""
        return LingBotCodecSession(self)

    @property
    def facts(self) -> dict[str, Any]:
        """What a client must know, as plain values."""
        return {
            "cameras": list(self.cameras.cameras),
            "picture_size": list(self.cameras.image_size),
            "controls": len(self.actions.used),
            "keyframes_per_frame": PICTURES_PER_FRAME,
        }

    def text(self, prompt: str) -> Tensor:
        """[L, D]; the empty prompt gives what guidance needs."""
        return self.prompts(prompt)

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
        preset: str,
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
            preset: Name in `presets.PRESETS`.
            clip: See `ActionNorm`.
            text_cache: Folder of prompts that were embedded before; ``text_cache/`` of the checkpoint if None.
            dtype: Of the autoencoder and the text encoder.
            device: Of the autoencoder.
            text_device: Of the text encoder, which runs once a prompt.
        """
        settings = find_preset(preset)
        return cls._around(
            settings.cameras,
            settings.actions(clip=clip),
            checkpoint=Path(checkpoint),
            text_cache=text_cache,
            dtype=dtype,
            device=device,
            text_device=text_device,
        )

    def save(self, folder: str | Path, *, checkpoint: str | Path) -> None:
        """Writes ``codec.json`` beside a student; see `write_codec`."""
        write_codec(folder, cameras=self.cameras, actions=self.actions, checkpoint=checkpoint)

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
        """Reads what `write_codec` wrote.

        Args:
            folder: Of the student.
            checkpoint: Where ``vae/`` and the text encoder are now; where `write_codec` was told if None.
            text_cache: See `from_pretrained`.
            dtype: See `from_pretrained`.
            device: See `from_pretrained`.
            text_device: See `from_pretrained`.

        Raises:
            FileNotFoundError: ``codec.json`` or ``vae/`` is missing.
            ValueError: It is another family's.
        """
        path = Path(folder) / CODEC_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: write it with write_codec, or use from_pretrained")
        content = json.loads(path.read_text())
        if content.get("family") != FAMILY:
            raise ValueError(f"{path} must say family {FAMILY!r}, got {content.get('family')!r}")
        return cls._around(
            CameraLayout(**content["cameras"]),
            ActionNorm.from_dict(content["actions"]),
            checkpoint=Path(checkpoint) if checkpoint is not None else base_checkpoint(folder),
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
        prompts = PromptEncoder(
            text_cache or checkpoint / TEXT_CACHE, checkpoint=checkpoint, dtype=dtype, device=text_device
        )
        vae = WanVae.from_pretrained(checkpoint / "vae", dtype=dtype, device=device)
        return cls(vae=vae, cameras=cameras, actions=actions, prompts=prompts.encode)


def write_codec(folder: str | Path, *, cameras: CameraLayout, actions: ActionNorm, checkpoint: str | Path) -> None:
    """Writes ``codec.json`` beside a student, without loading anything.

    Args:
        folder: Of the student.
        cameras: As it was trained.
        actions: As it was trained.
        checkpoint: Where ``vae/``, ``text_encoder/`` and ``tokenizer/`` stay; noted relative to `folder`.
    """
    folder = Path(folder)
    content = {
        "family": FAMILY,
        "checkpoint": os.path.relpath(Path(checkpoint).resolve(), folder.resolve()),
        "cameras": asdict(cameras),
        "actions": actions.to_dict(),
    }
    (folder / CODEC_FILE).write_text(json.dumps(content, indent=1) + "\n")


def base_checkpoint(folder: str | Path) -> Path:
    """Where a model's autoencoder and text encoder are: as its ``codec.json`` notes, or in its own folder."""
    path = Path(folder) / CODEC_FILE
    noted = json.loads(path.read_text()) if path.is_file() else {}
    return (Path(folder) / noted["checkpoint"]).resolve() if noted.get("family") == FAMILY else Path(folder)


class LingBotCodecSession:
    """One episode's codec.

    Args:
        codec: What is shared.
    """

    def __init__(self, codec: LingBotCodec) -> None:
        self._codec = codec
        self._streams = [codec.vae.open() for _ in codec.cameras.groups]

    def encode(self, observations: Sequence[Mapping[str, Any]]) -> Tensor:
        """Pictures seen since the last call -> latents, as one long clip would give them.

        Args:
            observations: camera -> uint8 [rows, columns, 3] of any size; 1 in the first call (or 1 and multiples of 4
                more), then multiples of 4. Other keys are ignored.

        Returns:
            [1, C, F, H, W], float32; F = 1 in the first call, then one per 4 pictures.

        Raises:
            ValueError: A camera is missing, a picture is not uint8 RGB, or the number does not fit. The past is then
                as it was.
        """
        pixels = self._codec.cameras.pixels(observations)
        streams = [stream.fork() for stream in self._streams]
        latents = self._codec.cameras.join([stream.encode(x) for stream, x in zip(streams, pixels, strict=True)])
        self._streams = streams
        return latents.float()

    def actions(self, actions: Tensor) -> np.ndarray:
        """Model actions [1, A, F, N, 1] -> controls in raw units, float32 [U, F, N]."""
        if actions.ndim != 5 or actions.shape[0] != 1:
            raise ValueError(f"expected [1, A, F, N, 1], got {tuple(actions.shape)}")
        return self._codec.actions.denormalise(actions[0].detach().float().cpu()).numpy()

    def executed(self, state: np.ndarray) -> Tensor:
        """Executed controls [U, F, N] in raw units -> model actions [1, A, F, N, 1], unused channels zero."""
        raw = np.asarray(state)
        if raw.ndim != 3 or raw.dtype.kind not in "fiu":
            raise ValueError(f"expected numbers [{len(self._codec.actions.used)}, F, N], got {raw.dtype} {raw.shape}")
        if not np.isfinite(raw).all():
            raise ValueError("executed controls must be finite")
        return self._codec.actions.normalise(torch.from_numpy(np.array(raw, dtype=np.float32)))[None]

    def text(self, prompt: str) -> Tensor:
        """[1, L, D]; the empty prompt gives what guidance needs."""
        return self._codec.text(prompt)[None]
