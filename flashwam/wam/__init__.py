# SPDX-License-Identifier: Apache-2.0
"""The contract of a world-action model, and what its families share.

Imports data, and what it imports.
"""

from pathlib import Path
from typing import Any

from flashwam.system.hub import local_folder
from flashwam.system.imports import find_class, reading, trusting
from flashwam.system.json_file import read_mapping
from flashwam.system.paths import user_path
from flashwam.wam.base import WorldActionModel
from flashwam.wam.families import FAMILIES
from flashwam.wam.features import LooksInside
from flashwam.wam.layout import Layout
from flashwam.wam.session import RolloutSession
from flashwam.wam.wam_file import WAM_FILE

__all__ = ["FAMILIES", "Layout", "LooksInside", "RolloutSession", "WorldActionModel", "family", "family_of", "load"]


def family(name: str) -> type[WorldActionModel]:
    """The class of a family, by name or import path.

    Raises:
        ValueError: for an unknown name, or a path that does not lead to a `WorldActionModel`.
    """
    return find_class(name, WorldActionModel, known=FAMILIES, what="model family")


def load(folder: Path | str, *, trust: bool = False, **options: Any) -> WorldActionModel:
    """Loads a model folder of any family; `wam.json` in it names the family.

    Args:
        folder: What `save_pretrained` wrote, or "hf:owner/name" of the hub.
        trust: Import what the folder's files name beside the families of `FAMILIES`, and run its code.
        options: For the family's `from_pretrained`, such as device or dtype.

    Raises:
        FileNotFoundError: there is no `wam.json`.
        ValueError: the family is unknown, or would have to be imported without `trust`; the weights do not fit.
    """
    folder = local_folder(folder)
    kind = family_of(folder, trust=trust)
    with trusting(trust), reading(folder / WAM_FILE):
        return kind.from_pretrained(folder, **options)


def family_of(folder: Path | str, *, trust: bool = False) -> type[WorldActionModel]:
    """The class of a saved model, by `wam.json` alone.

    Args:
        folder: What `save_pretrained` wrote.
        trust: Import what the file names beside the families of `FAMILIES`.

    Raises:
        FileNotFoundError: there is no `wam.json`.
        ValueError: the family is unknown, or would have to be imported without `trust`.
    """
    path = user_path(folder) / WAM_FILE
    named = read_mapping(path, missing="expected a model folder that flashwam saved").get("family")
    with trusting(trust), reading(path):
        return family(named)
