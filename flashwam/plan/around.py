# SPDX-License-Identifier: Apache-2.0
"""Policies around a world-action model, of which a plan sees that model alone."""

from pathlib import Path

from flashwam.distillation.methods import find_method
from flashwam.recipe.sections import LoopConfig, Recipe
from flashwam.wam import family_of
from flashwam.wam.wam_file import WAM_FILE

__all__ = ["built_around", "seems_built_around"]

_UNCOUNTED = "decouplers, resampler, action expert, vision models and the decoder of its pictures are not counted"


def built_around(recipe: Recipe, loop: LoopConfig | None, *, trust: bool = False) -> str | None:
    """Says that the model is built on that of the recipe's config, and what is not counted; None where nothing says so.

    Args:
        recipe: The recipe.
        loop: Its section whose result is meant; None for the model that it begins with.
        trust: See `load_wam`.
    """
    if loop is not None and find_method(loop.method).builds_student:
        return f"method {loop.method!r} makes a policy that is built on the planned model; its {_UNCOUNTED}"
    folder = recipe.wam.pretrained
    if folder is None or not recipe.wam.config or not (Path(folder) / WAM_FILE).is_file():
        return None
    if family_of(folder, trust=trust).built_on is None:
        return None
    return f"{folder} holds a policy that is built on the planned model; its {_UNCOUNTED}"


def seems_built_around(recipe: Recipe) -> str | None:
    """Says the same of a teacher that is not there to be read, where a stream is looked at once and never learnt."""
    folder = recipe.wam.pretrained
    looked = [spec for spec in recipe.streams.values() if not spec.weight and spec.teacher_steps == 1]
    if folder is None or not looked or (Path(folder) / WAM_FILE).is_file():
        return None
    return (
        f"the {looked[0].name} is looked at once and never learnt, as in a policy that is built on another model: if "
        f"{folder}, which cannot be read here, is to hold one, that model is all that is planned; its "
        f"{_UNCOUNTED}, and its rollout cannot be chosen"
    )
