# SPDX-License-Identifier: Apache-2.0
"""CogVideoX's checkpoints, encoders and codec for the rest of the package."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel

from flashwam.core.streams import StreamSpec
from flashwam.data.actions import ActionNorm, read_norm
from flashwam.data.cameras import CameraLayout
from flashwam.data.latents import ACTION_NORM
from flashwam.system.errors import InputError, MissingFileError
from flashwam.wam.base import WorldActionModel
from flashwam.wam.codec import CodecNote, base_checkpoint
from flashwam.wam.cogvideox.action import ActionModule
from flashwam.wam.cogvideox.checkpoint import WEIGHTS, find_transformer, module_keys
from flashwam.wam.cogvideox.codec import CogVideoXCodec
from flashwam.wam.cogvideox.config import FAMILY, PIXELS_PER_LATENT, CogVideoXConfig
from flashwam.wam.cogvideox.convert import convert_videovla
from flashwam.wam.cogvideox.describe import describe_checkpoint
from flashwam.wam.cogvideox.encoders import cogvideox_encoders
from flashwam.wam.cogvideox.pictures import CogVideoXPictures
from flashwam.wam.cogvideox.presets import PRESETS, RELEASED
from flashwam.wam.cogvideox.presets import preset as find_preset
from flashwam.wam.cogvideox.vae import CogVideoXVae
from flashwam.wam.cogvideox.wam import CogVideoX
from flashwam.wam.files import FamilyFiles
from flashwam.wam.soundness import nonfinite
from flashwam.wam.weights import weight_files

__all__ = ["CogVideoXFiles"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class CogVideoXFiles(FamilyFiles):
    """See `FamilyFiles`."""

    presets = tuple(PRESETS)
    released = RELEASED
    weights = ("transformer", "action")
    miniature = "videovla/metaworld"
    # The encoder of T5-v1.1-XXL: 32,128 words of 4,096, then 24 layers, of which the first has the distances.
    text_encoder_parameters = 32_128 * 4096 + 24 * (4 * 4096**2 + 3 * 4096 * 10_240 + 2 * 4096) + 32 * 64 + 4096

    def check(self, folder: Path) -> None:
        """See `FamilyFiles.check`."""
        find_transformer(folder)

    def describe(self, folder: Path) -> dict[str, Any]:
        """See `FamilyFiles.describe`."""
        return describe_checkpoint(folder)

    def problems(self, folder: Path) -> list[str]:
        """See `FamilyFiles.problems`."""
        kinds = {"transformer": CogVideoXTransformer3DModel, "action": ActionModule}
        found = []
        for part, kind in kinds.items():
            found += [f"{part}: {line}" for line in module_keys(kind, folder / part).problems]
            found += [f"{part}: {line}" for line in nonfinite(weight_files(folder / part, WEIGHTS))]
        return found

    def load(
        self, folder: Path, *, preset: str | None, **options: Any
    ) -> tuple[WorldActionModel, str, Mapping[str, StreamSpec], dict[str, Any]]:
        """See `FamilyFiles.load`; the folder is what `import_weights` wrote."""
        settings = find_preset(preset)
        model = CogVideoX.from_pretrained(folder, **options)
        extra = {"name": folder.resolve().name, "preset": preset, "layout": "flashwam"}
        return model, "teacher", settings.streams(model.config), extra

    def import_weights(
        self,
        source: Path,
        target: Path,
        *,
        latent_size: Sequence[int] = (32, 32),
        chunk_frames: int = 13,
        actions_per_frame: int = 1,
        execute_frames: int | None = 3,
        robot: int = 1,
        dtype: str | None = None,
        q01: Sequence[float] | None = None,
        q99: Sequence[float] | None = None,
        clip: float | None = 1.0,
    ) -> None:
        """VideoVLA's checkpoint as a model folder, see `FamilyFiles.import_weights` and `convert_videovla`.

        Args:
            source: See `convert_videovla`.
            target: See `convert_videovla`.
            latent_size, chunk_frames, actions_per_frame, execute_frames, robot: See `convert_videovla`.
            dtype: "float32", "bfloat16", "float16", or None for the file's own.
            q01, q99: Quantiles of the robot's controls, which the release does not say; -1 and 1 leave a control (the
                gripper) as it is. They become ``action_norm.json``.
            clip: See `ActionNorm`.
        """
        counts = (chunk_frames, actions_per_frame, robot, *(() if execute_frames is None else (execute_frames,)))
        whole = [*counts, *latent_size] if isinstance(latent_size, Sequence) and len(latent_size) == 2 else [None]
        if not all(isinstance(value, int) for value in whole):
            raise InputError(
                "latent_size must be two whole numbers and chunk_frames, actions_per_frame, execute_frames and robot "
                f"one; got {latent_size!r}, {chunk_frames!r}, {actions_per_frame!r}, {execute_frames!r} and {robot!r}"
            )
        if dtype is not None and not (isinstance(dtype, str) and dtype in _DTYPES):
            raise InputError(f"dtype must be one of {sorted(_DTYPES)}, got {dtype!r}")
        if (q01 is None) != (q99 is None):
            raise InputError("q01 and q99 belong together: give both, or neither")
        if any(q is not None and (isinstance(q, str) or not isinstance(q, Sequence)) for q in (q01, q99)):
            raise InputError(f"q01 and q99 must be lists with a number for every control; got {q01!r} and {q99!r}")
        actions = None
        if q01 is not None and q99 is not None:
            used = tuple(range(len(q01)))
            actions = ActionNorm.from_dict({"q01": q01, "q99": q99, "used": used, "clip": clip})
        convert_videovla(
            source,
            target,
            latent_size=(latent_size[0], latent_size[1]),
            chunk_frames=chunk_frames,
            actions_per_frame=actions_per_frame,
            execute_frames=execute_frames,
            robot=robot,
            dtype=None if dtype is None else _DTYPES[dtype],
            actions=actions,
        )

    def encoders(self, folder: Path, *, device: torch.device | str) -> dict[str, Any]:
        """See `FamilyFiles.encoders`."""
        return cogvideox_encoders(folder, device=device)

    def picture_decoder(self, folder: Path) -> CogVideoXPictures:
        """See `FamilyFiles.picture_decoder`."""
        return CogVideoXPictures.load(folder)

    def encodes(self, autoencoder: str) -> bool:
        """See `FamilyFiles.encodes`."""
        return autoencoder == "AutoencoderKLCogVideoX"

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
        codec = self.frame_codec(folder, preset=preset, base=base, dtype=dtype, device=device)
        codec.vae.choose_encoder(encoder)
        return codec.open, codec.facts

    def frame_codec(
        self, folder: Path, *, preset: str | None = None, base: Path | None = None, dtype: torch.dtype, device: str
    ) -> CogVideoXCodec:
        """See `FamilyFiles.frame_codec`."""
        note = CodecNote.read(folder, family=FAMILY) if preset is None else _preset_note(folder, preset)
        if base is not None:
            note = replace(note, checkpoint=base)
        return CogVideoXCodec.from_note(note, dtype=dtype, device=device)

    def blank_codec(
        self,
        data: Any,
        *,
        actions: ActionNorm,
        prompts: Callable[[str], torch.Tensor],
        dtype: torch.dtype,
        device: torch.device | str,
        **autoencoder: Any,
    ) -> CogVideoXCodec:
        """See `FamilyFiles.blank_codec`."""
        vae = CogVideoXVae.blank(dtype=dtype, device=device, **autoencoder)
        return CogVideoXCodec(vae=vae, cameras=_cameras(data), actions=actions, prompts=prompts)

    def note_codec(
        self, folder: Path, *, model: WorldActionModel, data: Any, actions: ActionNorm, pretrained: Path | None
    ) -> None:
        """See `FamilyFiles.note_codec`."""
        # The T-shape's wrist cameras are seen at half size.
        multiple = PIXELS_PER_LATENT * (2 if data.layout == "tshape" else 1)
        if pretrained is None or data.source != "lerobot" or any(side % multiple for side in data.camera_size):
            return
        cameras = _cameras(data)
        base = base_checkpoint(pretrained, family=FAMILY)
        # A frame autoencoder of the same factor is noted by its own codec.
        own = not (base / "vae" / "latent_stats.json").is_file()
        if own and cameras.latent_size == model.shapes["video"][1:]:
            CodecNote(family=FAMILY, checkpoint=base, cameras=cameras, actions=actions).write(folder)


def _cameras(data: Any) -> CameraLayout:
    return CameraLayout(
        cameras=data.cameras,
        image_size=data.camera_size,
        arrangement=data.layout,
        factor=PIXELS_PER_LATENT,
        resize=data.resize,
    )


def _preset_note(folder: Path, name: str) -> CodecNote:
    """Finds what an imported checkpoint is driven with: the preset's camera, and the quantiles beside the model.

    Raises:
        FileNotFoundError: There are no quantiles.
    """
    path = folder / ACTION_NORM
    if not path.is_file():
        raise MissingFileError(
            f"{path} is missing: the release does not say how its actions are normalised. Import it with q01=[...] and "
            "q99=[...], the quantiles of the robot's controls"
        )
    return CodecNote(
        family=FAMILY,
        checkpoint=folder,
        cameras=find_preset(name).cameras(CogVideoXConfig.load(folder)),
        actions=read_norm(path),
    )
