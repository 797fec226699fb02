# SPDX-License-Identifier: Apache-2.0
"""CogVideoX checkpoints for the rest of the package."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch

from flashwam.core.streams import StreamSpec
from flashwam.data.actions import ActionNorm
from flashwam.wam.base import WorldActionModel
from flashwam.wam.cogvideox.describe import describe_checkpoint
from flashwam.wam.files import FamilyFiles

__all__ = ["CogVideoXFiles"]


class CogVideoXFiles(FamilyFiles):
    """See `FamilyFiles`. A bare checkpoint has no actions, so none can be sampled and there are no presets."""

    weights = ("transformer", "action")
    miniature = "videovla/metaworld"

    def describe(self, folder: Path) -> dict[str, Any]:
        """See `FamilyFiles.describe`."""
        return describe_checkpoint(folder)

    def load(
        self, folder: Path, *, preset: str, **options: Any
    ) -> tuple[WorldActionModel, str, Mapping[str, StreamSpec], dict[str, Any]]:
        """See `FamilyFiles.load`."""
        _refuse(folder, "presets")

    def encodes(self, autoencoder: str) -> bool:
        """See `FamilyFiles.encodes`."""
        return False

    def encoders(self, folder: Path, *, device: torch.device | str) -> dict[str, Any]:
        """See `FamilyFiles.encoders`."""
        _refuse(folder, "encoders")

    def codec(
        self, folder: Path, *, preset: str | None, base: Path | None, dtype: torch.dtype, device: str
    ) -> tuple[Callable[[], Any], dict[str, Any]]:
        """See `FamilyFiles.codec`."""
        _refuse(folder, "codec")

    def note_codec(
        self, folder: Path, *, model: WorldActionModel, data: Any, actions: ActionNorm, pretrained: Path | None
    ) -> None:
        """See `FamilyFiles.note_codec`: pictures are encoded with the codec that the data were."""


def _refuse(folder: Path, what: str) -> NoReturn:
    raise ValueError(f"the cogvideox family has no {what} of its own; got {folder}: keep the codec its data came with")
