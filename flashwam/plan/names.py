# SPDX-License-Identifier: Apache-2.0
"""Names in a recipe that only other packages can check: families, methods and their keywords, measures."""

import inspect
from collections.abc import Callable
from typing import Any

from flashwam.distillation.keep_best import check_keep_best
from flashwam.distillation.methods import check_adapters, check_streams, find_method
from flashwam.recipe.sections import Recipe
from flashwam.system.errors import InputError
from flashwam.system.imports import check_keywords
from flashwam.wam import family

__all__ = ["check_names"]


def check_names(recipe: Recipe, command: str) -> None:
    """Refuses a family, method or keyword of theirs that does not exist, before any work starts.

    Raises:
        ValueError: The message names the nearest known name; or `keep_best` names what is never measured.
    """
    try:
        kind = family(recipe.wam.family)
    except ValueError as error:
        raise InputError(f"wam.family: {error}") from error
    known = kind.keywords()
    check_keywords("wam.config", recipe.wam.config, list(known))
    absent = [name for name, required in known.items() if required and name not in recipe.wam.config]
    if absent and recipe.wam.pretrained is None and recipe.train_from is None:
        raise InputError(f"wam.config: {', '.join(absent)} missing; {recipe.wam.family} needs them (see recipes/)")
    for section, loop in (("train", recipe.train), ("distill", recipe.distill)):
        if loop is not None and section == command:
            try:
                method = find_method(loop.method)
            except ValueError as error:
                raise InputError(f"{section}.method: {error}") from error
            check_keywords(f"{section}.options", loop.options, _keywords(method.__init__))
            check_adapters(loop)
            check_streams(recipe, loop)
            check_keep_best(recipe, loop, taught=section == "distill")


def _keywords(function: Callable[..., Any]) -> list[str]:
    """A function's keyword-only parameters without those the pipeline fills in."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in ("teacher", "keep_target")]
