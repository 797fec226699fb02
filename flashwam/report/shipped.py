# SPDX-License-Identifier: Apache-2.0
"""The command that trains a run's student again: the recipe nearest to its own, and what differs from it."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from flashwam.recipe.build import Origins, build_recipe, check_keys, plain
from flashwam.recipe.load import find_recipe, known_recipes, load_recipe
from flashwam.recipe.sections import Recipe
from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.imports import foreign_paths

__all__ = ["distill_command"]

_MOST = 8
"""Settings that differ: of more, the recipe is another one."""
_MODELS = ("wam.pretrained", "distill.init")
"""Models that a run begins with, by the folders of what made them."""
_SECTIONS = ("seed", "streams", "data", "wam", "distill", "rollout")
"""Sections that make a student; its teacher's training and its evaluations are others'."""
_ON_THE_WAY = frozenset(
    f"distill.{key}"
    for key in ("log_every", "diagnose_every", "save_every", "keep_steps", "prefetch", "trackers", "judge")
) | {"data.root", "data.processes"}
"""Settings of where data lie, and of what is seen and kept while a student is trained."""
_WHOLE = ("consistency", "schedule")
"""Keys of a stream whose mappings are one value."""


def distill_command(told: Mapping[str, Any]) -> str | None:
    """Writes the command that trains a student as a run's recipe says.

    Args:
        told: The run's recipe, resolved, as plain values.

    Returns:
        "flashwam distill NAME KEY=VALUE ...", on data and from a teacher where the recipe NAME has them; None where no
        recipe at hand whose name the run's holds is of its family, data and method, or too much differs, and for a
        run that distilled nothing, names classes of other packages, or has a recipe of an older version.
    """
    if foreign_paths({key: told.get(key) for key in ("streams", "wam", "train", "distill")}):
        return None
    source = "the run's recipe"
    try:
        check_keys(told, source=source)
        recipe = build_recipe(told, origins=Origins(default=source))
    except (ValueError, TypeError):
        return None
    if recipe.distill is None:
        return None
    known = {name: file for name, file in known_recipes().items() if f"_{file.stem}_" in f"_{recipe.name}_"}
    found = min(_fitting(recipe, known), default=None)
    if found is None:
        return None
    *_, name, settings = found
    return shlex.join(["flashwam", "distill", _short_name(known[name], name), *settings])


def _fitting(recipe: Recipe, known: Mapping[str, Path]) -> Iterator[tuple[int, int, str, list[str]]]:
    """(number of settings, less the length of what names have in common, name, settings) of those recipes that are of
    the same family, data and method, and that few settings make into the run's."""
    for name, file in known.items():
        # A file of the user's own may be anything.
        with suppress(InputError, MissingFileError):
            other = load_recipe(file)
            if _kind(other) == _kind(recipe):
                named = [] if recipe.name in (other.name, file.stem) else [f"name={recipe.name}"]
                settings = [*named, *_settings(other, recipe)]
                if len(settings) <= _MOST and _are_equal(load_recipe(file, settings), recipe):
                    yield len(settings), -len(file.stem), name, settings


def _kind(recipe: Recipe) -> tuple[str, str, str]:
    return recipe.wam.family, recipe.data.source, "" if recipe.distill is None else recipe.distill.method


def _settings(other: Recipe, recipe: Recipe) -> list[str]:
    """Settings KEY=VALUE that make the one recipe of the other."""
    ours, theirs = ({key: plain(one)[key] for key in _SECTIONS} for one in (recipe, other))
    for wam in (ours["wam"], theirs["wam"]):
        if wam["pretrained"] is not None:
            # A trained model tells its own.
            wam["config"] = {}
    return [f"{'.'.join(keys)}={_text(value)}" for keys, value in _differing(ours, theirs)]


def _are_equal(one: Recipe, other: Recipe) -> bool:
    """Tells whether two recipes make the same student; a key that one alone has no setting takes away."""
    return not _settings(one, other) and not _settings(other, one)


def _differing(ours: Any, theirs: Any, at: Sequence[str] = ()) -> Iterator[tuple[Sequence[str], Any]]:
    key = ".".join(at)
    if ours == theirs or key in _ON_THE_WAY or (key in _MODELS and _is_moved(ours, theirs)):
        return
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping) and not (at and at[-1] in _WHOLE):
        for name, value in ours.items():
            yield from _differing(value, theirs.get(name), (*at, name))
    else:
        yield at, ours


def _is_moved(one: str | None, other: str | None) -> bool:
    """Tells whether two models are of one run that lies elsewhere: runs/teacher/teacher, runs/full/runs/teacher/teacher
    and runs/libero_teacher/teacher."""
    if one is None or other is None:
        return False
    names = sorted((Path(path).parent.name for path in (one, other)), key=len)
    return f"_{names[1]}".endswith(f"_{names[0]}")


def _text(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=float("inf")).partition("\n")[0]


def _short_name(file: Path, name: str) -> str:
    """The shortest name by which a recipe is found, such as "on_policy" for metaworld/on_policy."""
    parts = name.split("/")
    for count in range(1, len(parts)):
        short = "/".join(parts[-count:])
        with suppress(InputError, MissingFileError):
            if find_recipe(short).resolve() == file.resolve():
                return short
    return name
