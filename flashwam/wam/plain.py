# SPDX-License-Identifier: Apache-2.0
"""The files of a model whose family has no layout of its own: settings as JSON, weights as safetensors."""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from flashwam.system.errors import InputError
from flashwam.system.files import write_whole
from flashwam.system.imports import class_name
from flashwam.system.json_file import built_from, read_mapping, shown
from flashwam.system.paths import user_path
from flashwam.system.tensor_file import fitting, load_tensors, write_tensors
from flashwam.wam.families import FAMILIES
from flashwam.wam.wam_file import WAM_FILE
from flashwam.wam.weights import key_problems

__all__ = ["build_plain", "differing", "load_weights", "read_settings", "save_plain"]

WEIGHTS = "model.safetensors"
_READ_FROM = "pretrained"

T = TypeVar("T")


def save_plain(model: nn.Module, settings: Mapping[str, Any], folder: str | Path, *, skip: str | None = None) -> None:
    """Writes `wam.json`, from which `flashwam.wam.load` finds the class again, and `model.safetensors`.

    Args:
        model: The weights.
        settings: Keywords of `create`.
        folder: Where to; created.
        skip: Beginning of the keys of weights that are kept elsewhere.

    Raises:
        ValueError: The class cannot be found again, because it was defined in a script or a session, or `settings` are
            no plain values.
    """
    kind = type(model)
    if kind.__module__ == "__main__" or "<" in kind.__qualname__:
        raise InputError(
            f"{kind.__qualname__} is defined in {kind.__module__!r} and could not be loaded again: put it into a "
            "module that can be imported"
        )
    try:
        text = json.dumps({"family": class_name(kind, FAMILIES), "settings": dict(settings)}, indent=2)
    except TypeError as error:
        raise InputError(f"settings of {kind.__qualname__} must be plain values: {error}") from error
    folder = user_path(folder)
    kept = {key: x for key, x in model.state_dict().items() if skip is None or not key.startswith(skip)}
    write_tensors(folder / WEIGHTS, kept)
    write_whole(folder / WAM_FILE, text + "\n")


def read_settings(folder: str | Path) -> dict[str, Any]:
    """The settings in a folder that `save_plain` wrote.

    Raises:
        FileNotFoundError, ValueError: The file is missing or holds something else.
    """
    path = user_path(folder) / WAM_FILE
    settings = read_mapping(path, missing="expected a model folder that flashwam saved").get("settings")
    if not isinstance(settings, dict):
        raise InputError(f"{path} must hold the settings of a model, a mapping; got {shown(settings)}")
    return settings


def build_plain(folder: str | Path, build: Callable[[dict[str, Any]], T]) -> T:
    """Builds a model from the settings in a folder, no larger than the weights below it.

    Raises:
        FileNotFoundError, ValueError: As `read_settings`, or the settings describe no such model.
    """
    settings = read_settings(folder)
    with fitting(user_path(folder)):
        return built_from(user_path(folder) / WAM_FILE, lambda: build(settings))


def load_weights(
    model: nn.Module, folder: str | Path, *, device: torch.device | str = "cpu", skip: str | None = None
) -> None:
    """Puts the weights of a folder that `save_plain` wrote into `model`, in place; those it skipped are left alone.

    Raises:
        FileNotFoundError: They are missing.
        ValueError: Keys are missing, unexpected or misshapen; the message lists them.
    """
    found = load_tensors(user_path(folder) / WEIGHTS, device=device)
    own = {key: x for key, x in model.state_dict().items() if skip is None or not key.startswith(skip)}
    shapes = [{key: tuple(x.shape) for key, x in part.items()} for part in (own, found)]
    key_problems(shapes[0], shapes[1], what=user_path(folder))
    model.load_state_dict(found, assign=True, strict=skip is None)


def differing(
    given: Mapping[str, Any], own: Mapping[str, Any], *, but: Collection[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """Finds keywords that both have with other values: keyword -> (given, own).

    Of mappings only keys that both have are compared. A folder that weights were read from (`pretrained`) is none: the
    model has them by now.

    Args:
        given: Some keywords of a model.
        own: All that are known.
        but: Keywords that are left out.
    """
    return {
        key: (value, own[key])
        for key, value in given.items()
        if key in own and key not in but and key != _READ_FROM and not _agree(value, own[key])
    }


def _agree(given: Any, own: Any) -> bool:
    if isinstance(given, Mapping) and isinstance(own, Mapping):
        return not differing(given, own)
    if isinstance(given, (list, tuple)) and isinstance(own, (list, tuple)):
        return len(given) == len(own) and all(map(_agree, given, own))
    return bool(given == own)
