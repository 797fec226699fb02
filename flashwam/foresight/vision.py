# SPDX-License-Identifier: Apache-2.0
"""Pretrained vision models of transformers as target providers.

Letters: m pictures, T channels, h and w of the patches' grid.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from flashwam.foresight.picture_norm import IMAGENET, PictureNorm
from flashwam.foresight.providers import TargetProvider
from flashwam.system.errors import InputError
from flashwam.system.paths import user_path
from flashwam.system.tensor_file import fitting

__all__ = ["VisionModel"]

_PLAIN = {"use_safetensors": True, "trust_remote_code": False}
"""No pickles, and no code that comes with the weights."""


class VisionModel(TargetProvider):
    """Patch tokens of a transformer: DINOv2 with registers for what things are, Depth Anything's backbone for shape.

    Pictures are resized (bicubic, smoothed) in their own shape and normalised as the model's processor does. Class and
    register tokens, which come first, are left out.

    Args:
        model: A model or backbone of transformers.
        source: Where it came from, for reports.
        size: Rows of the resized picture in pixels; a multiple of the patch. Its columns are as many as keep its shape,
            in whole patches.
        stage: Which hidden states: a number into a backbone's feature maps or a model's hidden states; None for a
            model's normalised last ones, or a backbone's last map.
        norm: Of the pixels.
        square: Every picture is made square, whatever its shape, as policies of earlier versions saw it.

    Raises:
        ValueError: `size` is no multiple of the patch, or the model does not take single pictures alone.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        source: str,
        size: int = 224,
        stage: int | None = None,
        norm: PictureNorm = IMAGENET,
        square: bool = False,
    ) -> None:
        super().__init__()
        config, taken = model.config, inspect.signature(model.forward).parameters
        needed = {name for name, x in taken.items() if x.default is x.empty and x.kind is x.POSITIONAL_OR_KEYWORD}
        if model.main_input_name != "pixel_values" or needed - {"pixel_values"}:
            raise InputError(
                f"{config.model_type} ({source}) takes {sorted({model.main_input_name, *needed})}, and no single "
                "pictures: take a vision model of single pictures, such as DINOv2, SigLIP or CLIP"
            )
        if size % config.patch_size:
            raise InputError(f"size must be a multiple of the patch {config.patch_size}; got {size}")
        self.model = model
        self.source, self.size, self.stage = source, size, stage
        self.norm, self.square, self._patch = norm, square, int(config.patch_size)
        self._options = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in taken else {}
        self.width = int(config.hidden_size)
        self.requires_grad_(False).eval()

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        """See `TargetProvider.check`."""
        source, unknown = options.get("model"), sorted(set(options) - {"model", "size", "stage"})
        if source is None or unknown:
            raise InputError(f"a vision provider takes model, size and stage; got unknown {unknown}, model {source!r}")

    @classmethod
    def build(cls, options: Mapping[str, Any], *, root: Path, seed: int) -> Self:
        """Options: `model`, a hub id, a folder, or a configuration (with `model_type`) for random weights; size; stage.

        Raises:
            ValueError: an option is unknown, or the weights cannot be found.
        """
        cls.check(options)
        options = dict(options)
        source = options.pop("model")
        if isinstance(source, Mapping):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = _random(source)
            norm = PictureNorm.of_kind(model.config.model_type)
            return cls(model, source=f"{source['model_type']} of random weights", norm=norm, **options)
        model = _pretrained(str(source))
        norm = PictureNorm.of_processor(str(user_path(str(source))), model_type=model.config.model_type)
        return cls(model, source=str(source), norm=norm, **options)

    def describe(self) -> str:
        """See `TargetProvider.describe`."""
        stage = "" if self.stage is None else f", stage {self.stage}"
        return f"{self.source} at {self.size} px{stage}"

    def look(self, pictures: Tensor) -> Tensor:
        """See `TargetProvider.look`."""
        x = pictures.permute(0, 3, 1, 2).float() / 255
        shown = self._shape(*x.shape[2:])
        if x.shape[2:] != shown:
            x = functional.interpolate(x, shown, mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (x.new_tensor(values)[:, None, None] for values in (self.norm.mean, self.norm.std))
        x = ((x - mean) / std).to(next(self.parameters()).dtype)
        if self._is_backbone:
            out = self.model(x).feature_maps[-1 if self.stage is None else self.stage]
        elif self.stage is None:
            out = self.model(pixel_values=x, **self._options).last_hidden_state
        else:
            out = self.model(pixel_values=x, output_hidden_states=True, **self._options).hidden_states[self.stage]
        if out.ndim == 4:
            return out
        rows, columns = (side // self._patch for side in shown)
        return out[:, -rows * columns :].transpose(1, 2).unflatten(2, (rows, columns))

    def _shape(self, rows: int, columns: int) -> tuple[int, int]:
        """Rows and columns in pixels at which a picture is shown."""
        if self.square:
            return self.size, self.size
        return self.size, max(1, round(self.size * columns / rows / self._patch)) * self._patch

    @property
    def _is_backbone(self) -> bool:
        return hasattr(self.model, "out_features")

    def settings(self) -> dict[str, Any]:
        """See `TargetProvider.settings`."""
        named = {"source": self.source, "size": self.size, "stage": self.stage, "square": self.square}
        named |= {"mean": list(self.norm.mean), "std": list(self.norm.std)}
        return {**named, "architecture": type(self.model).__name__}

    def save_weights(self, folder: Path) -> None:
        """See `TargetProvider.save_weights`."""
        self.model.save_pretrained(folder / "model")

    @classmethod
    def from_folder(cls, folder: Path, settings: Mapping[str, Any]) -> Self:
        """See `TargetProvider.from_folder`."""
        import transformers

        settings = dict(settings)
        name = settings.pop("architecture", None)
        kind = getattr(transformers, name, None) if isinstance(name, str) else None
        if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
            raise InputError(f"transformers {transformers.__version__} does not know the model {name!r} of {folder}")
        with fitting(folder / "model"):
            model = kind.from_pretrained(folder / "model", **_PLAIN, local_files_only=True)
        mean, std = settings.pop("mean", IMAGENET.mean), settings.pop("std", IMAGENET.std)
        # Files of earlier versions tell of neither: what they hold saw squares.
        settings.setdefault("square", True)
        return cls(model, norm=PictureNorm(mean, std), **settings)


def _random(config: Mapping[str, Any]) -> nn.Module:
    from transformers import AutoConfig, AutoModel, AutoModelForDepthEstimation

    values = dict(config)
    built = AutoConfig.for_model(values.pop("model_type"), **values)
    if hasattr(built, "backbone_config"):
        return AutoModelForDepthEstimation.from_config(built).backbone
    return AutoModel.from_config(built)


def _pretrained(source: str) -> nn.Module:
    from transformers import AutoConfig, AutoModel, AutoModelForDepthEstimation

    try:
        # A hub's id is no path, and begins with no ~.
        source = str(user_path(source))
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        if hasattr(config, "backbone_config"):
            return AutoModelForDepthEstimation.from_pretrained(source, **_PLAIN).backbone
        # Of a model of pictures and text, the half that sees.
        return AutoModel.from_pretrained(source, config=getattr(config, "vision_config", config), **_PLAIN)
    except (OSError, ValueError) as error:
        raise InputError(
            f"the vision model {source!r} cannot be loaded ({str(error).splitlines()[0]}): give a folder with its "
            "files, the id of one on the Hugging Face Hub, or a provider that needs no files, such as {name: scene}"
        ) from error
