# SPDX-License-Identifier: Apache-2.0
"""Refusals of what a recipe asks `MaskedReconstruction` for, before a policy or data are there."""

from collections.abc import Mapping
from typing import Any

from flashwam.distillation.methods.options import is_weight, is_whole, keywords_of, made_of, mapping_of
from flashwam.swiftvla.masking import MaskPolicy
from flashwam.swiftvla.streaming_tokens import StreamingTokens
from flashwam.swiftvla.training_policy import AUXILIARY, PRIMARY, Modality
from flashwam.swiftvla.trajectories import HandPath
from flashwam.system.errors import InputError
from flashwam.system.imports import check_keywords

__all__ = ["check_values"]

_PARTS = {"mask": MaskPolicy, "provider": StreamingTokens, "path": HandPath}
_LEAST = {"fusion_tokens": 0, "start_step": 0, "coordinates": 1, "head_width": 1}
"""Option -> the least whole number that it may be."""


def check_values(options: Mapping[str, Any]) -> None:
    """Refuses values that fit no policy or not each other; an absent option has its default.

    Raises:
        ValueError: The message names the option, and what it may be.
    """
    made = {key: made_of(f"options.{key}", kind, options.get(key), keywords_of(kind)) for key, kind in _PARTS.items()}
    auxiliary = options.get("auxiliary")
    if auxiliary is not None:
        made_of("options.auxiliary", Modality, auxiliary, keywords_of(Modality))
    for key, least in _LEAST.items():
        value = options.get(key, least)
        if not is_whole(value, least=least):
            raise InputError(f"options.{key} must be a whole number of at least {least}; got {value!r}")
    weighting = options.get("weighting", "flat")
    if weighting not in ("flat", "schedule"):
        raise InputError(f'weighting must be "flat" or "schedule"; got {weighting!r}')
    reconstruct = mapping_of("options.reconstruct", options.get("reconstruct"))
    check_keywords("options.reconstruct", reconstruct, (AUXILIARY, PRIMARY))
    weights = {f"reconstruct.{name}": weight for name, weight in reconstruct.items()}
    for key, weight in {**weights, "trajectory": options.get("trajectory", 0.0)}.items():
        if not is_weight(weight):
            raise InputError(f"options.{key} is a weight, a number of at least 0; got {weight!r}")
    masks: MaskPolicy = made["mask"]
    if auxiliary is None and masks.any:
        raise InputError("mask hides one of two modalities, and there is one alone: name the auxiliary, or mask none")
    unmasked = [name for name, weight in reconstruct.items() if weight and not masks.probability(name)]
    if unmasked:
        raise InputError(f"what is never masked is never reconstructed: give mask a probability for {unmasked}")
