# SPDX-License-Identifier: Apache-2.0
"""Between the world and a model: pictures to latents, controls to actions, prompts to embeddings."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from flashwam.data.actions import ActionNorm
from flashwam.data.autoencoder import FrameAutoencoder
from flashwam.data.cameras import CameraLayout
from flashwam.data.hashed_text import encode_text
from flashwam.data.pixels import load_autoencoder
from flashwam.system.files import whole_folder, write_whole
from flashwam.system.json_file import build, built_from, read_mapping

__all__ = ["CODEC_FILE", "Codec", "read_actions"]

CODEC_FILE = "codec.json"


def read_actions(path: Path, content: Mapping[str, Any]) -> ActionNorm:
    """The normalisation of actions that a codec's file notes.

    Raises:
        ValueError: It notes none, or one that cannot be.
    """
    return built_from(path, lambda: ActionNorm.from_dict(content["actions"], path=path))


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """The encoders of a model that is driven.

    Letters: B episodes, F latent frames, N actions per frame, U controls, A action channels.

    Args:
        autoencoder: Of single pictures.
        actions: Normalisation of the controls.
        cameras: Those of a robot whose recordings a model learnt from; None for a simulator's one.
    """

    autoencoder: FrameAutoencoder
    actions: ActionNorm
    cameras: CameraLayout | None = None

    def video(self, frames: np.ndarray) -> Tensor:
        """uint8 [B, F, height, width, 3] -> latents [B, C, F, H, W]."""
        return self.autoencoder.encode(frames).transpose(1, 2).contiguous()

    def pictures(self, latents: Tensor) -> np.ndarray:
        """Latents [B, C, F, H, W] -> uint8 [B, F, height, width, 3]."""
        return self.autoencoder.decode(latents.transpose(1, 2)).numpy()

    def controls(self, actions: Tensor) -> np.ndarray:
        """Model actions [B, A, F, N, 1] -> controls in [-1, 1], float32 [B, F * N, U]."""
        raw = self.actions.denormalise(actions).clamp(-1, 1)
        return raw.permute(0, 2, 3, 1).flatten(1, 2).numpy()

    def executed(self, controls: np.ndarray, per_frame: int) -> Tensor:
        """Executed controls [B, F * N, U] -> model actions [B, A, F, N, 1]."""
        return self.actions.executed(controls, per_frame)

    def text(self, prompt: str) -> Tensor:
        """[L, D]."""
        return encode_text(prompt)

    def save(self, folder: Path) -> None:
        """Writes `vae/` and `codec.json`."""
        self.autoencoder.save_pretrained(folder / "vae")
        content = {"actions": self.actions.to_dict()}
        if self.cameras is not None:
            content["cameras"] = asdict(self.cameras)
        write_whole(folder / CODEC_FILE, json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Codec":
        """Reads what `save` wrote."""
        path = folder / CODEC_FILE
        values = read_mapping(path, missing=f"{folder} cannot act without its codecs; export it again")
        return cls(
            autoencoder=load_autoencoder(folder / "vae"),
            actions=read_actions(path, values),
            cameras=build(path, CameraLayout, values["cameras"]) if isinstance(values.get("cameras"), dict) else None,
        )

    @staticmethod
    def copy(source: Path, target: Path) -> None:
        """Puts another model's codecs beside one that is exported now."""
        with whole_folder(target / "vae") as building:
            shutil.copytree(source / "vae", building, dirs_exist_ok=True)
        write_whole(target / CODEC_FILE, (source / CODEC_FILE).read_bytes())
