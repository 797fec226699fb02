# SPDX-License-Identifier: Apache-2.0
"""Names in a recipe that only other packages can check: families, methods and their keywords."""

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

import torch

from flashwam.distillation.methods import find_method
from flashwam.recipe import Recipe
from flashwam.wam import family

__all__ = ["check_names"]


def check_names(recipe: Recipe, command: str) -> None:
    """Refuses a family, method or keyword of theirs that does not exist, before any work starts.

    Raises:
        ValueError: The message names the nearest known name.
    """
    try:
        kind = family(recipe.wam.family)
    except ValueError as error:
        raise ValueError(f"wam.family: {error}") from error
    create = getattr(kind, "create", None)
    if create is not None:
        known = [*_keywords(create), *_network_keywords(create, kind)]
        _check_keywords("wam.config", recipe.wam.config, known)
        absent = [name for name in _keywords(create, required=True) if name not in recipe.wam.config]
        if absent and recipe.wam.pretrained is None:
            raise ValueError(f"wam.config: {', '.join(absent)} missing; {recipe.wam.family} needs them (see recipes/)")
    for section, loop in (("train", recipe.train), ("distill", recipe.distill)):
        if loop is not None and section == command:
            try:
                method = find_method(loop.method)
            except ValueError as error:
                raise ValueError(f"{section}.method: {error}") from error
            _check_keywords(f"{section}.options", loop.options, _keywords(method.__init__))


def _keywords(function: Callable[..., Any], *, required: bool = False) -> list[str]:
    """A function's keyword-only parameters without those the pipeline fills in."""
    parameters = inspect.signature(function).parameters.values()
    names = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and (p.default is p.empty or not required)]
    return [name for name in names if name not in ("teacher", "keep_target")]


def _network_keywords(create: Callable[..., Any], kind: type) -> list[str]:
    """Keywords that `create` passes on to the network, which the class' own constructor names by its annotation."""
    takes_more = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(create).parameters.values())
    annotations = [p.annotation for p in inspect.signature(kind.__init__).parameters.values()]
    networks = [a for a in annotations if isinstance(a, type) and issubclass(a, torch.nn.Module)]
    if not takes_more or not networks:
        return []
    return [name for name in inspect.signature(networks[0].__init__).parameters if name != "self"]


def _check_keywords(at: str, given: Mapping[str, Any], known: list[str]) -> None:
    for key in given:
        if key not in known:
            near = get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{at}.{key}: unknown key{hint}; it takes {', '.join(known) or 'none'}")
