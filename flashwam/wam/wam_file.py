# SPDX-License-Identifier: Apache-2.0
"""`wam.json` of a model's folder, for families that keep a config of their own there."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from flashwam.system.errors import InputError
from flashwam.system.files import write_whole
from flashwam.system.json_file import build, read_mapping, shown
from flashwam.system.paths import user_path

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["WAM_FILE", "load_config", "save_config"]

WAM_FILE = "wam.json"
"""Of a model's folder: its family, and how the model is made."""

D = TypeVar("D", bound="DataclassInstance")


def save_config(folder: str | Path, config: "DataclassInstance", *, family: str) -> None:
    """Writes ``wam.json`` into a folder.

    Args:
        folder: The model's.
        config: A dataclass of plain values.
        family: Name of the family.
    """
    text = json.dumps({"family": family, **asdict(config)}, indent=2, sort_keys=True)
    write_whole(user_path(folder) / WAM_FILE, text + "\n")


def load_config(folder: str | Path, kind: type[D], *, family: str, missing: str) -> D:
    """Reads what `save_config` wrote.

    Args:
        folder: The model's.
        kind: The config's dataclass.
        family: Name of the family.
        missing: What to say where there is no such file.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is another family's, or its fields are not the config's.
    """
    path = user_path(folder) / WAM_FILE
    content = read_mapping(path, missing=missing)
    named = content.pop("family", None)
    if named != family:
        raise InputError(f"{path} must say family {family!r}, got {shown(named)}: load it with its own family")
    return build(path, kind, content)
