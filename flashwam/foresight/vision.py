# SPDX-License-Identifier: Apache-2.0
"""Pretrained vision models of transformers as target providers.

Letters: m pictures, T channels, h and w of the patches' grid.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from flashwam.foresight.providers import TargetProvider
from flashwam.system.errors import InputError
from flashwam.system.paths import user_path
from flashwam.system.tensor_file import fitting

__all__ = ["VisionModel"]

_PLAIN = {"use_safetensors": True, "trust_remote_code": False}
"""No pickles, and no code that comes with the weights."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VisionModel(TargetProvider):
    """Patch tokens of a transformer: DINOv2 with registers for what things are, Depth Anything's backbone for shape.

    Pictures are resized (bicubic, smoothed) and normalised as on ImageNet. Class and register tokens, which come first,
    are left out.

    Args:
        model: A model or backbone of transformers.
        source: Where it came from, for reports.
        size: Side of the resized picture in pixels; a multiple of the patch.
        stage: Which hidden states: a number into a backbone's feature maps or a model's hidden states; None for a
            model's normalised last ones, or a backbone's last map.

    Raises:
        ValueError: `size` is no multiple of the patch.
    """

    def __init__(self, model: nn.Module, *, source: str, size: int = 224, stage: int | None = None) -> None:
        super().__init__()
        config = model.config
        if size % config.patch_size:
            raise InputError(f"size must be a multiple of the patch {config.patch_size}; got {size}")
        self.model = model
        self.source, self.size, self.stage = source, size, stage
        self.grid = size // config.patch_size
        self.width = int(config.hidden_size)
        self.requires_grad_(False).eval()

    @classmethod
    def build(cls, options: Mapping[str, Any], *, root: Path, seed: int) -> Self:
        """Options: `model`, a hub id, a folder, or a configuration (with `model_type`) for random weights; size; stage.

        Raises:
            ValueError: an option is unknown, or the weights cannot be found.
        """
        options = dict(options)
        source = options.pop("model", None)
        unknown = sorted(set(options) - {"size", "stage"})
        if source is None or unknown:
            raise InputError(f"a vision provider takes model, size and stage; got unknown {unknown}, model {source!r}")
        if isinstance(source, Mapping):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = _random(source)
            return cls(model, source=f"{source['model_type']} of random weights", **options)
        return cls(_pretrained(str(source)), source=str(source), **options)

    def describe(self) -> str:
        """See `TargetProvider.describe`."""
        stage = "" if self.stage is None else f", stage {self.stage}"
        return f"{self.source} at {self.size} px{stage}"

    def look(self, pictures: Tensor) -> Tensor:
        """See `TargetProvider.look`."""
        x = pictures.permute(0, 3, 1, 2).float() / 255
        if x.shape[2:] != (self.size, self.size):
            x = functional.interpolate(x, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (x.new_tensor(values)[:, None, None] for values in (_MEAN, _STD))
        x = ((x - mean) / std).to(next(self.parameters()).dtype)
        if self._is_backbone:
            out = self.model(x).feature_maps[-1 if self.stage is None else self.stage]
        elif self.stage is None:
            out = self.model(pixel_values=x).last_hidden_state
        else:
            out = self.model(pixel_values=x, output_hidden_states=True).hidden_states[self.stage]
        if out.ndim == 4:
            return out
        return out[:, -(self.grid**2) :].transpose(1, 2).unflatten(2, (self.grid, self.grid))

    @property
    def _is_backbone(self) -> bool:
        return hasattr(self.model, "out_features")

    def settings(self) -> dict[str, Any]:
        """See `TargetProvider.settings`."""
        named = {"source": self.source, "size": self.size, "stage": self.stage}
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
        return cls(model, **settings)


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
