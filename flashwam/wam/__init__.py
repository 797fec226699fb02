# SPDX-License-Identifier: Apache-2.0
"""World-action model families behind one contract."""

import importlib
import json
from pathlib import Path
from typing import Any

from flashwam.wam.base import RolloutSession, WorldActionModel

__all__ = ["FAMILIES", "RolloutSession", "WorldActionModel", "family", "load"]

FAMILIES = {"lingbot_va": "flashwam.wam.lingbot_va:LingBotVA"}
"""Family -> import path of its class; "package.module:Class" works as a family's name too."""


def family(name: str) -> type[WorldActionModel]:
    """The class of a family, by name or import path.

    Raises:
        ValueError: for an unknown name, or a path that does not lead to a `WorldActionModel`.
    """
    module, colon, attribute = FAMILIES.get(name, name).partition(":")
    if not colon:
        raise ValueError(f"unknown model family {name!r}; expected one of {sorted(FAMILIES)} or 'package.module:Class'")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"model family {name!r} could not be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, WorldActionModel)):
        raise ValueError(f"{name!r} must name a subclass of flashwam.wam.WorldActionModel; got {found!r}")
    return found


def load(folder: Path | str, **options: Any) -> WorldActionModel:
    """Loads a model folder of any family; `wam.json` in it names the family.

    Args:
        folder: What `save_pretrained` wrote.
        options: For the family's `from_pretrained`, such as device or dtype.

    Raises:
        FileNotFoundError: there is no `wam.json`.
        ValueError: the family is unknown or the weights do not fit.
    """
    path = Path(folder) / "wam.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: expected a model folder that flashwam saved")
    return family(str(json.loads(path.read_text()).get("family"))).from_pretrained(folder, **options)
