# SPDX-License-Identifier: Apache-2.0
"""The frozen models that a policy looks with and never trains."""

from collections.abc import Callable, Mapping
from typing import Any, Self

from torch import Tensor

from flashwam.data.pictures import PictureDecoder
from flashwam.foresight.providers import TargetProvider
from flashwam.wam.features import LooksInside

__all__ = ["Frozen"]


class Frozen:
    """A backbone, vision models and a picture decoder that belong to a model and are no part of its module tree.

    So no optimiser, average, checkpoint, training mode or sharding of the model reaches them, and its copies share
    them: only what is trained is copied.

    Args:
        backbone: A world-action model.
        providers: Name -> vision model.
        decoder: Of the backbone's video latents.
    """

    def __init__(self, backbone: LooksInside, providers: Mapping[str, TargetProvider], decoder: PictureDecoder) -> None:
        self.backbone, self.providers, self.decoder = backbone, dict(providers), decoder
        for module in (backbone, *self.providers.values(), decoder):
            module.requires_grad_(False).eval()

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def apply(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Moves everything, as `nn.Module._apply` does."""
        for module in (self.backbone, *self.providers.values(), self.decoder):
            module._apply(fn)
