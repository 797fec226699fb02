# SPDX-License-Identifier: Apache-2.0
"""The mean and deviation of pixels that a pretrained vision model was trained with."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from flashwam.system.errors import InputError

__all__ = ["IMAGENET", "PictureNorm"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PictureNorm:
    """Pixels in [0, 1] less `mean`, over `std`, each by channel: red, green, blue.

    Raises:
        ValueError: not three numbers each, or a deviation of 0 or less.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise InputError(f"three means and three deviations above 0; got {self.mean} and {self.std}")

    @classmethod
    def of_kind(cls, model_type: str) -> "PictureNorm":
        """The published one of a kind of model of transformers; ImageNet's where its name says no other."""
        for kind, norm in _KINDS.items():
            if model_type.startswith(kind):
                return norm
        return IMAGENET

    @classmethod
    def of_processor(cls, source: str, *, model_type: str) -> "PictureNorm":
        """Reads the one that the processor beside the weights names, or takes that of the kind of model.

        Args:
            source: A folder, or an id of the hub.
            model_type: As the model's configuration has it.

        Raises:
            ValueError: the processor's makes no sense.
        """
        from transformers.image_processing_base import ImageProcessingMixin

        try:
            told = ImageProcessingMixin.get_image_processor_dict(source)[0]
        except (OSError, ValueError):
            told = {}
        mean, std = told.get("image_mean"), told.get("image_std")
        if isinstance(mean, Sequence) and isinstance(std, Sequence):
            return cls(tuple(mean), tuple(std))
        norm = cls.of_kind(model_type)
        logger.info("%s has no processor that names mean and deviation: %s, as %s has", source, norm, model_type)
        return norm


IMAGENET = PictureNorm((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_KINDS = {
    "siglip": PictureNorm((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": PictureNorm((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
