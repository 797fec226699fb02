# SPDX-License-Identifier: Apache-2.0
"""Holds a saved model against the recipe that names it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashwam.system.errors import InputError
from flashwam.system.imports import class_name
from flashwam.system.paths import user_path
from flashwam.wam import family, family_of
from flashwam.wam.base import WorldActionModel
from flashwam.wam.families import FAMILIES
from flashwam.wam.wam_file import WAM_FILE

__all__ = ["check_config", "check_family"]


def check_family(folder: Path | str, named: str, *, trust: bool = False) -> None:
    """Refuses a saved model that neither is of a family nor is built on a model of it, before its weights are read.

    Args:
        folder: The model's; one without `wam.json` is another tool's and not judged.
        named: The family, as a recipe names it.
        trust: Import the classes that its files name beside ours.

    Raises:
        ValueError: The message names both families.
    """
    folder, kind = user_path(folder), family(named)
    if not (folder / WAM_FILE).is_file():
        return
    held = family_of(folder, trust=trust)
    if issubclass(held, kind):
        return
    if held.built_on is not None and (folder / held.built_on / WAM_FILE).is_file():
        held = family_of(folder / held.built_on, trust=trust)
        if issubclass(held, kind):
            return
    raise InputError(
        f"{folder} holds a model of family {class_name(held, FAMILIES)!r}, and the recipe's wam.family is {named!r}: "
        "name a folder of the recipe's family (wam.pretrained, train.init, distill.init), or take the recipe of that "
        "model's family"
    )


def check_config(model: WorldActionModel, folder: Path | str, named: str, config: Mapping[str, Any]) -> None:
    """Refuses keywords of a recipe that describe another model than the one that was loaded.

    Args:
        model: As it was loaded.
        folder: Where from, for the message.
        named: The recipe's family: the model's own, or that of the model which it is built on.
        config: The recipe's keywords of the family's `create`.

    Raises:
        ValueError: The message lists what the recipe says and what the model is.
    """
    held = model
    if not isinstance(model, family(named)) and model.built_on is not None:
        held = getattr(model, model.built_on)
    wrong = held.differences(config)
    if wrong:
        told = ", ".join(f"{key} {given!r} instead of {own!r}" for key, (given, own) in wrong.items())
        right = " ".join(f"wam.config.{key}={_written(own)}" for key, (_, own) in wrong.items())
        raise InputError(
            f"the recipe's wam.config describes another model than {folder} holds, which is what its folder says: "
            f"{told}. Take a folder of the model that is meant, or say what this one is: {right}"
        )


def _written(value: Any) -> str:
    return "null" if value is None else str(value).replace(" ", "")
