# SPDX-License-Identifier: Apache-2.0
"""The parts that the families' codecs between robot and model share, and the note of them beside a model.

Letters: C latent channels, F latent frames, H, W latent size, A action channels, N actions per frame, U controls,
L text tokens, D text width.
"""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from flashwam.data.actions import ActionNorm
from flashwam.data.cameras import CameraLayout
from flashwam.data.codec import CODEC_FILE, read_actions
from flashwam.system.errors import InputError
from flashwam.system.files import write_whole
from flashwam.system.json_file import build, read_mapping, shown
from flashwam.system.paths import user_path

__all__ = ["CodecNote", "CodecSession", "RobotCodec", "autoencoder_folder", "base_checkpoint"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RobotCodec(ABC):
    """The encoders and settings that every session shares.

    Args:
        cameras: Which pictures, at which size, and where their latents go.
        actions: Normalisation of the controls.
        prompts: prompt -> embedding [L, D], such as `PromptCache.encode`.
    """

    cameras: CameraLayout
    actions: ActionNorm
    prompts: Callable[[str], Tensor]

    keyframes_per_frame: ClassVar[int]
    """Pictures that a client sends per latent frame."""
    text_rows: ClassVar[int]
    """L of every prompt."""

    @abstractmethod
    def open(self) -> "CodecSession":
        """A codec for one episode."""

    @property
    def facts(self) -> dict[str, Any]:
        """The facts that a client needs, as plain values."""
        return {
            "cameras": list(self.cameras.cameras),
            "picture_size": list(self.cameras.image_size),
            "controls": len(self.actions.used),
            "keyframes_per_frame": self.keyframes_per_frame,
        }

    def text(self, prompt: str) -> Tensor:
        """[L, D]; the empty prompt gives what guidance needs."""
        return self.prompts(prompt)


class CodecSession(ABC):
    """One episode's codec.

    Args:
        codec: What is shared.
    """

    def __init__(self, codec: RobotCodec) -> None:
        self._codec = codec

    @abstractmethod
    def encode(self, observations: Sequence[Mapping[str, Any]]) -> Tensor:
        """Pictures seen since the last call -> latents [1, C, F, H, W], float32.

        Args:
            observations: camera -> uint8 [rows, columns, 3] of any size; 1 in the first call. Other keys are ignored.

        Raises:
            ValueError: A camera is missing, a picture is not uint8 RGB, or the number does not fit. The past is then
                as it was.
        """

    def check(self, observations: Sequence[Mapping[str, Any]]) -> None:
        """Refuses pictures that `encode` would not take, of any number of observations, and encodes nothing.

        Raises:
            ValueError: A camera is missing, a picture is not uint8 RGB, or a camera's differ in size.
        """
        self._codec.cameras.check(observations)

    @property
    def norm(self) -> ActionNorm:
        """Of the controls."""
        return self._codec.actions

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

    @property
    def text_rows(self) -> int:
        """L of every prompt."""
        return self._codec.text_rows

    def text(self, prompt: str) -> Tensor:
        """[1, L, D]; the empty prompt gives what guidance needs."""
        return self._codec.text(prompt)[None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecNote:
    """The content of ``codec.json`` beside a model; nothing is loaded to write it.

    Args:
        family: Whose codec it is.
        checkpoint: Where ``vae/``, ``text_encoder/`` and ``tokenizer/`` stay; noted relative to the model's folder.
        cameras: As the model was trained.
        actions: As the model was trained.
    """

    family: str
    checkpoint: Path
    cameras: CameraLayout
    actions: ActionNorm

    def write(self, folder: str | Path) -> None:
        """Writes ``codec.json``."""
        content = {
            "family": self.family,
            "checkpoint": os.path.relpath(self.checkpoint.resolve(), user_path(folder).resolve()),
            "cameras": asdict(self.cameras),
            "actions": self.actions.to_dict(),
        }
        write_whole(user_path(folder) / CODEC_FILE, json.dumps(content, indent=1) + "\n")

    @classmethod
    def read(cls, folder: str | Path, *, family: str) -> "CodecNote":
        """Reads what `write` wrote.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is another family's, or what it says makes no sense.
        """
        path = user_path(folder) / CODEC_FILE
        content = read_mapping(path, missing="it is written beside a trained model; else name a preset")
        if content.get("family") != family:
            raise InputError(f"{path} must say family {family!r}, got {shown(content.get('family'))}")
        cameras = content.get("cameras")
        if not isinstance(cameras, dict):
            raise InputError(f"{path}: cameras must be a mapping; got {shown(cameras)}")
        return cls(
            family=family,
            checkpoint=_noted(path, content),
            cameras=build(path, CameraLayout, cameras),
            actions=read_actions(path, content),
        )


def base_checkpoint(folder: str | Path, *, family: str) -> Path:
    """Finds a model's autoencoder and text encoder: as its ``codec.json`` notes, or in its own folder."""
    path = user_path(folder) / CODEC_FILE
    noted = read_mapping(path) if path.exists() else {}
    return _noted(path, noted) if noted.get("family") == family else user_path(folder)


def autoencoder_folder(folder: Path) -> Path | None:
    """The ``vae/`` of the checkpoint that a model's ``codec.json`` notes, or its own; None where there is none."""
    path = folder / CODEC_FILE
    noted = read_mapping(path) if path.is_file() else {}
    vae = (_noted(path, noted) if "checkpoint" in noted else folder) / "vae"
    return vae if vae.is_dir() else None


def _noted(path: Path, content: Mapping[str, Any]) -> Path:
    checkpoint = content.get("checkpoint")
    if not isinstance(checkpoint, str) or "\0" in checkpoint:
        raise InputError(f"{path}: checkpoint must be a folder, relative to its own; got {shown(checkpoint)}")
    return (path.parent / checkpoint).resolve()
