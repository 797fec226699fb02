# SPDX-License-Identifier: Apache-2.0
"""LingBot-VA's checkpoints, encoders and codec for the rest of the package."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from flashwam.core.streams import StreamSpec
from flashwam.data.actions import ActionNorm
from flashwam.data.cameras import CameraLayout
from flashwam.wam.base import WorldActionModel
from flashwam.wam.codec import CodecNote, base_checkpoint
from flashwam.wam.files import FamilyFiles
from flashwam.wam.lingbot_va.checkpoint import find_transformer, transformer_keys
from flashwam.wam.lingbot_va.codec import LingBotCodec
from flashwam.wam.lingbot_va.config import FAMILY
from flashwam.wam.lingbot_va.describe import describe_checkpoint
from flashwam.wam.lingbot_va.encoders import wan_encoders
from flashwam.wam.lingbot_va.lerobot import frozen_parts, lerobot_preset
from flashwam.wam.lingbot_va.pictures import WanPictures
from flashwam.wam.lingbot_va.presets import PRESETS, RELEASED, RELEASED_DATA
from flashwam.wam.lingbot_va.presets import preset as find_preset
from flashwam.wam.lingbot_va.settings import says_how
from flashwam.wam.lingbot_va.vae import WanVae
from flashwam.wam.lingbot_va.wam import LingBotVA
from flashwam.wam.soundness import nonfinite

__all__ = ["LingBotFiles"]

# Wan2.2's autoencoder: channels, and pixels per latent row or column.
_CHANNELS, _FACTOR = 48, 16


class LingBotFiles(FamilyFiles):
    """See `FamilyFiles`."""

    presets = tuple(PRESETS)
    released = RELEASED
    released_data = RELEASED_DATA
    miniature = "metaworld"
    miniature_teacher = "teacher"
    # UMT5-XXL: 256,384 words of 4,096, then 24 layers that each have distances of their own.
    text_encoder_parameters = 256_384 * 4096 + 24 * (4 * 4096**2 + 3 * 4096 * 10_240 + 2 * 4096 + 32 * 64) + 4096

    def check(self, folder: Path) -> None:
        """See `FamilyFiles.check`."""
        find_transformer(folder)

    def describe(self, folder: Path) -> dict[str, Any]:
        """See `FamilyFiles.describe`."""
        return describe_checkpoint(folder)

    def problems(self, folder: Path) -> list[str]:
        """See `FamilyFiles.problems`."""
        source = find_transformer(folder)
        return [*transformer_keys(source).problems, *nonfinite(source.files)]

    def says_how(self, folder: Path) -> bool:
        """See `FamilyFiles.says_how`."""
        try:
            return says_how(find_transformer(folder))
        except (FileNotFoundError, ValueError):
            return False

    def load(
        self, folder: Path, *, preset: str | None, **options: Any
    ) -> tuple[WorldActionModel, str, Mapping[str, StreamSpec], dict[str, Any]]:
        """See `FamilyFiles.load`; a step of the Flash-WAM release is a student, all else a teacher."""
        source = find_transformer(folder, role=options.get("role"))
        model = LingBotVA.from_pretrained(folder, preset=preset, **options)
        settings = lerobot_preset(source) if preset is None else find_preset(preset)
        student = source.layout == "flash-wam"
        extra = {"name": folder.resolve().name, "preset": settings.name, "layout": source.layout}
        streams = settings.released_student if student else settings.streams
        return model, "student" if student else "teacher", streams, extra

    def encoders(self, folder: Path, *, device: torch.device | str) -> dict[str, Any]:
        """See `FamilyFiles.encoders`."""
        return wan_encoders(folder, device=device)

    def encodes(self, autoencoder: str) -> bool:
        """See `FamilyFiles.encodes`."""
        return autoencoder == "AutoencoderKLWan"

    def picture_decoder(self, folder: Path) -> WanPictures:
        """See `FamilyFiles.picture_decoder`."""
        return WanPictures.load(folder)

    def codec(
        self,
        folder: Path,
        *,
        preset: str | None,
        base: Path | None,
        dtype: torch.dtype,
        device: str,
        encoder: str = "plain",
    ) -> tuple[Callable[[], Any], dict[str, Any]]:
        """See `FamilyFiles.codec`."""
        options = {"dtype": dtype, "device": device, "text_device": "cpu"}
        if preset is not None:
            codec = LingBotCodec.from_pretrained(base or folder, preset, **options)
        elif self.says_how(folder):
            source = find_transformer(folder)
            checkpoint = base or frozen_parts(source)
            codec = LingBotCodec.from_pretrained(checkpoint, lerobot_preset(source), **options)
        else:
            codec = LingBotCodec.load(folder, checkpoint=base, **options)
        codec.vae.choose_encoder(encoder)
        return codec.open, codec.facts

    def blank_codec(
        self,
        data: Any,
        *,
        actions: ActionNorm,
        prompts: Callable[[str], torch.Tensor],
        dtype: torch.dtype,
        device: torch.device | str,
        **autoencoder: Any,
    ) -> LingBotCodec:
        """See `FamilyFiles.blank_codec`."""
        vae = WanVae.blank(dtype=dtype, device=device, **autoencoder)
        return LingBotCodec(vae=vae, cameras=_cameras(data), actions=actions, prompts=prompts)

    def note_codec(
        self, folder: Path, *, model: WorldActionModel, data: Any, actions: ActionNorm, pretrained: Path | None
    ) -> None:
        """See `FamilyFiles.note_codec`."""
        rows, columns = data.camera_size
        # The T-shape's wrist cameras are seen at half size.
        multiple = _FACTOR * (2 if data.layout == "tshape" else 1)
        fits = model.shapes["video"][0] == _CHANNELS and not (rows % multiple or columns % multiple)
        if fits and pretrained is not None:
            base = base_checkpoint(pretrained, family=FAMILY)
            CodecNote(family=FAMILY, checkpoint=base, cameras=_cameras(data), actions=actions).write(folder)


def _cameras(data: Any) -> CameraLayout:
    return CameraLayout(cameras=data.cameras, image_size=data.camera_size, arrangement=data.layout, resize=data.resize)
