# SPDX-License-Identifier: Apache-2.0
"""A fusion policy made of a SmolVLM: its vision tower sees, the first layers of its language model are the trunk.

With a released SmolVLM2 and 16 of its layers this is SmolVLA's shape; from a configuration it is as small as one likes.
Letters: B samples, H, W pixels, n tokens, D width.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SmolVLMConfig, SmolVLMModel

from flashwam.data.layouts import check_cameras, separate
from flashwam.swiftvla.encoders import PrimaryEncoder, picture_cells
from flashwam.swiftvla.policy import FusionPolicy
from flashwam.swiftvla.trunk import Trunk
from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.paths import user_path

__all__ = ["SmolVLA", "SmolVLMEncoder"]


class SmolVLMEncoder(PrimaryEncoder):
    """Vision tower and connector of a SmolVLM, over pictures in [-1, 1].

    Args:
        model: The whole model.
        frozen: Leave both alone.
        cameras: How many make up a picture; each is seen by itself and has tokens of its own.
        layout: The way in which they do, see `flashwam.data.layouts.arrange`.
    """

    def __init__(self, model: SmolVLMModel, *, frozen: bool = True, cameras: int = 1, layout: str = "width") -> None:
        super().__init__()
        check_cameras(layout, cameras)
        self.cameras, self.layout = cameras, layout
        self.vision, self.connector, self.frozen = model.vision_model, model.connector, frozen
        self.side = model.config.vision_config.image_size
        self.tokens, self.width = cameras * model.image_seq_len, model.config.text_config.hidden_size

    def forward(self, observation: Tensor, noise: Mapping[str, Tensor], text: Tensor) -> Tensor:
        """See `PrimaryEncoder.forward`; the pictures of every camera are resized with their sides' ratio kept, padded
        with black below and to the right."""
        views = [self._fitted(view) for view in self._views(observation)]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            pictures = torch.cat(views).to(self.vision.dtype)
            tokens = self.connector(self.vision(pixel_values=pictures).last_hidden_state)
        return torch.cat(tokens.chunk(self.cameras), 1)

    def _views(self, observation: Tensor) -> list[Tensor]:
        return separate(self.layout, observation, cameras=self.cameras)

    def target(self, observation: Tensor, tokens: Tensor) -> Tensor:
        """See `PrimaryEncoder.target`; each token is normalised over its channels. Cells of a smaller camera are filled
        up with zeros."""
        if not self.frozen:
            each = self.tokens // self.cameras
            cells = [picture_cells(view, each) for view in self._views(observation)]
            return torch.cat([F.pad(x, (0, self._cell - x.shape[2])) for x in cells], 1).detach()
        return F.layer_norm(tokens.detach().float(), tokens.shape[-1:])

    @property
    def target_width(self) -> int:
        """See `PrimaryEncoder.target_width`."""
        return self.width if self.frozen else self._cell

    def check(self, shapes: Mapping[str, tuple[int, int, int]], chunk_frames: int) -> None:
        """See `PrimaryEncoder.check`."""
        channels, height, width = shapes["video"]
        if channels != 3:
            raise InputError(f"a vision tower sees pictures of 3 channels (autoencoder.kind: pixels); got {channels}")
        views = separate(self.layout, torch.empty(1, height, width, device="meta"), cameras=self.cameras)
        self._cell = max(3 * view.shape[1] * view.shape[2] for view in views) * self.cameras // self.tokens

    def _fitted(self, pictures: Tensor) -> Tensor:
        height, width = pictures.shape[-2:]
        scale = self.side / max(height, width)
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        if size != (height, width):
            pictures = F.interpolate(pictures, size=size, mode="bilinear", align_corners=False)
        return F.pad(pictures, (0, self.side - size[1], 0, self.side - size[0]), value=-1.0)


class SmolVLA(FusionPolicy):
    """See `FusionPolicy`; its video stream are pictures, three channels in [-1, 1]."""

    @classmethod
    def create(
        cls,
        *,
        pretrained: str | None = None,
        smolvlm: Mapping[str, Any] | None = None,
        layers: int = 16,
        frozen_vision: bool = True,
        cameras: int = 1,
        layout: str = "width",
        **sizes: Any,
    ) -> Self:
        """A policy around a SmolVLM.

        Args:
            pretrained: Folder of a released SmolVLM, whose weights are taken.
            smolvlm: Keywords of `SmolVLMConfig` in its place, for fresh weights.
            layers: Of the language model that are kept.
            frozen_vision: Leave vision tower and connector alone; what is reconstructed then stands still.
            cameras, layout: See `SmolVLMEncoder`.
            sizes: Keywords of `FusionPolicy`.

        Raises:
            FileNotFoundError: There is no SmolVLM in `pretrained`.
            ValueError: Both or none of `pretrained` and `smolvlm` are given, or there are fewer layers.
        """
        if (pretrained is None) == (smolvlm is None):
            raise InputError("give either pretrained, the folder of a SmolVLM, or smolvlm, the sizes of a fresh one")
        if pretrained is not None:
            pretrained = user_path(pretrained)
            if not (pretrained / "config.json").is_file():
                raise MissingFileError(
                    f"{pretrained} is missing: expected the folder of a SmolVLM, such as SmolVLM2-500M"
                )
            whole = SmolVLMModel.from_pretrained(
                pretrained, dtype=torch.float32, local_files_only=True, use_safetensors=True
            )
        else:
            whole = SmolVLMModel(SmolVLMConfig(**smolvlm))
        known = whole.config.to_diff_dict()
        encoder = SmolVLMEncoder(whole, frozen=frozen_vision, cameras=cameras, layout=layout)
        model = cls(encoder, Trunk(whole.text_model, layers=layers), **sizes)
        if pretrained is not None:
            model._begin_as_found()
        parts = {key: known[key] for key in ("vision_config", "text_config", "scale_factor") if key in known}
        own = {"layers": layers, "frozen_vision": frozen_vision, "cameras": cameras, "layout": layout}
        model.settings = {"smolvlm": parts, **own, **sizes}
        return model

    def _begin_as_found(self) -> None:
        """Gives the language model its own vision tower's tokens, and text of its own width, as it knows them."""
        nn.init.zeros_(self.place)
        for inlet in (self.see, self.read):
            if inlet.in_features == inlet.out_features:
                nn.init.eye_(inlet.weight)
                nn.init.zeros_(inlet.bias)

    @classmethod
    def keywords(cls) -> dict[str, bool]:
        """See `WorldActionModel.keywords`."""
        own = dict.fromkeys(("pretrained", "smolvlm", "layers", "frozen_vision", "cameras", "layout"), False)
        return {**{n: needed for n, needed in super().keywords().items() if n not in ("primary", "trunk")}, **own}

    @classmethod
    def _rebuild(cls, settings: Mapping[str, Any], folder: Path) -> Self:
        if "pretrained" in settings:
            raise InputError("pretrained: a saved policy holds its own weights and names no other folder")
        return cls.create(**settings)
