# SPDX-License-Identifier: Apache-2.0
"""Refusals of what a recipe asks `Foresight` for, before a teacher, data or vision models are there."""

from collections.abc import Mapping
from typing import Any

import torch

from flashwam.core.streams import StreamSpec
from flashwam.distillation.methods.options import is_weight, is_whole, keywords_of, made_of, mapping_of
from flashwam.foresight.decoupler import Decoupler
from flashwam.foresight.diffusion_expert import DiffusionExpert
from flashwam.foresight.policy import POOLINGS, ForesightPolicy
from flashwam.foresight.providers import PROVIDERS, find_provider
from flashwam.foresight.resampler import UniPerceiver
from flashwam.system.errors import InputError
from flashwam.system.imports import check_keywords
from flashwam.wam.taps import check_blocks

__all__ = ["POOL", "check_fresh", "check_policy", "check_providers", "check_values"]

POOL = 512
"""Windows that rollouts are drawn for where a recipe does not say."""

_CHOICES = {
    "stage": ("decouplers", "expert"),
    "targets": ("same_seed", "unpaired", "ground_truth"),
    "actions": ("demonstrations", "teacher"),
    "align": ("last", "mean"),
}
"""Option -> values, the default first."""
_COUNTS = {
    "draws": "noises learnt from one look",
    "pool": "windows that rollouts are drawn for",
    "rollout_batch": "windows drawn at once",
}
_NEEDED = ("blocks", "grid")
"""Keywords of a fresh policy that have no default."""


def check_values(options: Mapping[str, Any]) -> None:
    """Refuses values that fit no model or not each other; an absent option has its default.

    Raises:
        ValueError: The message names the option, and what it may be.
    """
    for key, known in _CHOICES.items():
        if options.get(key, known[0]) not in known:
            raise InputError(f"{key} must be one of {known}; got {options[key]!r}")
    for key, what in _COUNTS.items():
        if not is_whole(options.get(key, 1)):
            raise InputError(f"{key} must be at least 1, a number of {what}; got {options[key]!r}")
    stage, actions, targets = (options.get(key, _CHOICES[key][0]) for key in ("stage", "actions", "targets"))
    change, looks = options.get("change_weight", 0.0), options.get("looks")
    if not is_weight(change):
        raise InputError(f"change_weight must be at least 0 and finite; got {change!r}")
    if looks is not None and (not is_whole(looks) or stage != "expert"):
        raise InputError(f"looks must be at least 1, in stage expert; got {looks!r} in stage {stage}")
    if actions == "teacher" and targets == "ground_truth":
        raise InputError("a recorded future has no actions of the teacher's: use targets same_seed or unpaired")
    pool = options.get("pool", POOL)
    if actions == "teacher" and targets == "same_seed" and looks is not None and looks > pool:
        raise InputError(
            f"looks is {looks}, of {pool} rollouts (pool), each with one noise to look at: more looks than rollouts "
            "are the same ones again; raise pool or lower looks"
        )
    for name, weight in mapping_of("options.weights", options.get("weights")).items():
        if not is_weight(weight):
            raise InputError(f"options.weights.{name} must be a number of at least 0; got {weight!r}")
    for name, config in mapping_of("options.teacher_streams", options.get("teacher_streams")).items():
        StreamSpec.from_config(name, mapping_of(f"options.teacher_streams.{name}", config))


def check_policy(policy: Mapping[str, Any] | None) -> None:
    """Refuses keywords of a policy that are not known, and sizes that its networks cannot have.

    Raises:
        ValueError: The message names the key.
    """
    policy = mapping_of("options.policy", policy)
    check_keywords("options.policy", policy, keywords_of(ForesightPolicy, without=("trained",)))
    if policy.get("pooling", POOLINGS[0]) not in POOLINGS:
        raise InputError(f"options.policy.pooling must be one of {POOLINGS}; got {policy['pooling']!r}")
    if policy.get("blocks") is not None:
        try:
            check_blocks(policy["blocks"])
        except ValueError as error:
            raise InputError(f"options.policy.{error}") from error
    if "grid" in policy and not _are_counts(policy["grid"], of=2):
        raise InputError(f"options.policy.grid must be two whole numbers of at least 1; got {policy['grid']!r}")
    decoupler = mapping_of("options.policy.decoupler", policy.get("decoupler"))
    if "positions" in decoupler:
        decoupler["positions"] = (1, 1, 1) if decoupler["positions"] else None
    # Sizes of the model around them decide nothing about their keywords.
    with torch.device("meta"):
        made_of("options.policy.decoupler", lambda **own: Decoupler(1, 1, **own), decoupler, keywords_of(Decoupler))
        made_of(
            "options.policy.resampler",
            lambda **own: UniPerceiver(1, 1, **own),
            policy.get("resampler"),
            keywords_of(UniPerceiver),
        )
        made_of(
            "options.policy.expert",
            lambda **own: DiffusionExpert(1, 1, 1, token_channels=1, text=1, **own),
            policy.get("expert"),
            keywords_of(DiffusionExpert, without=("token_channels", "text")),
        )


def check_providers(providers: Mapping[str, Any] | None) -> None:
    """Refuses vision models that are not known, and options that they do not take.

    Raises:
        ValueError: The message names the key.
    """
    for name, given in mapping_of("options.providers", providers).items():
        at = f"options.providers.{name}"
        own = mapping_of(at, given)
        if "name" not in own:
            raise InputError(f"{at}.name is missing: one of {sorted(PROVIDERS)} or 'package.module:Class'; got {own}")
        try:
            find_provider(own.pop("name")).check(own)
        except ValueError as error:
            raise InputError(f"{at}: {error}") from error


def check_fresh(options: Mapping[str, Any]) -> None:
    """Refuses what a policy cannot be made of that begins with no earlier stage's result.

    Raises:
        ValueError: The message says what is missing, or names what is not there.
    """
    if options.get("stage") == "expert":
        raise InputError("stage expert needs distill.init: the result of a run with stage decouplers")
    providers, policy = options.get("providers") or {}, options.get("policy") or {}
    if not providers:
        raise InputError("providers is empty: name at least one, such as {semantic: {name: scene, labels: colours}}")
    absent = [f"options.policy.{key}" for key in _NEEDED if policy.get(key) is None]
    if absent:
        raise InputError(
            f"{' and '.join(absent)} missing, which have no default: see recipes/metaworld/foresight*.yaml"
        )
    for key, named in (("weights", options.get("weights")), ("policy.use", policy.get("use"))):
        unknown = sorted(set(named or ()) - set(providers))
        if unknown:
            raise InputError(f"options.{key} names {unknown}; the providers are {sorted(providers)}")


def _are_counts(value: object, *, of: int) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == of and all(map(is_whole, value))
