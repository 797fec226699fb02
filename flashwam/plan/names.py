# SPDX-License-Identifier: Apache-2.0
"""Names in a recipe that only other packages can check: families, methods and their keywords, measures."""

from flashwam.distillation.keep_best import check_keep_best
from flashwam.distillation.methods import check_adapters, check_streams, find_method
from flashwam.distillation.methods.options import keywords_of
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
            own = keywords_of(method, without=("teacher", "keep_target"))
            check_keywords(f"{section}.options", loop.options, own)
            check_adapters(loop)
            method.check_values(loop)
            check_streams(recipe, loop)
            check_keep_best(recipe, loop, taught=section == "distill")
