# SPDX-License-Identifier: Apache-2.0
"""Reads the recipe that a saved model was made with, as any version of flashwam wrote it."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args

from flashwam.core.streams import StreamSpec
from flashwam.recipe.build import SECTIONS, Origins, build_section
from flashwam.recipe.sections import Recipe
from flashwam.system.errors import InputError
from flashwam.system.hints import field_types
from flashwam.system.json_file import shown

__all__ = ["saved_recipe"]

_BEFORE: Mapping[str, Mapping[str, Any]] = {"data": {"held_out_every": None}}
"""Section -> fields that older files do not name, with what was done then where that is not the default."""


def saved_recipe(values: Any, streams: Mapping[str, StreamSpec], *, source: str) -> Recipe | None:
    """Reads a recipe that was saved with a model.

    Fields that are not known here, as another version has them, are left out, and sections that it lacks have their
    defaults. Names of tasks, methods and families are not looked up.

    Args:
        values: Plain values, as the file holds them.
        streams: The model's.
        source: The file, for messages.

    Returns:
        The recipe; None where the values are none of a run, which says at least where its data lie and of what tasks.

    Raises:
        ValueError: A section is no mapping, or a value has the wrong type or is out of range.
    """
    if not isinstance(values, Mapping):
        return None
    origins, built = Origins(default=source), {}
    for section, kind in SECTIONS.items():
        told = values.get(section)
        if told is None:
            continue
        if not isinstance(told, Mapping):
            raise InputError(f"{source}: recipe.{section} must be a mapping; got {shown(told)}")
        told = {**_BEFORE.get(section, {}), **told}
        built[section] = build_section(f"recipe.{section}", _known(told, kind), kind, origins)
    if not {"root", "tasks"} <= (values.get("data") or {}).keys():
        return None
    own = {key: values[key] for key, kind in (("name", str), ("seed", int)) if type(values.get(key)) is kind}
    try:
        return Recipe(**{"name": "unnamed", **own}, streams=dict(streams), **built)
    except ValueError as error:
        raise InputError(f"{source}: recipe: {error}") from error


def _known(values: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """The values of fields that a section has, and so within the sections in it."""
    hints, known = field_types(kind), {}
    for key in (each.name for each in fields(kind) if each.name in values):
        value, kinds = values[key], (hints[key], *get_args(hints[key]))
        inner = next((each for each in kinds if isinstance(each, type) and is_dataclass(each)), None)
        known[key] = _known(value, inner) if inner is not None and isinstance(value, Mapping) else value
    return known
