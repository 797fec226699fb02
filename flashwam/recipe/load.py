# SPDX-License-Identifier: Apache-2.0
"""YAML in, a checked `Recipe` out: inheritance, dotted overrides, and errors that name file, key and remedy."""

import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from flashwam.recipe.build import Origins, build_recipe, check_free, check_keys, default_value, plain
from flashwam.recipe.layers import layer_of, merge, read_override, read_yaml, resolve
from flashwam.recipe.sections import Recipe
from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.imports import foreign_paths, refuse_foreign, trusting
from flashwam.system.paths import user_path

__all__ = [
    "RECIPE_FILE",
    "differences",
    "find_recipe",
    "foreign_classes",
    "known_recipes",
    "load_recipe",
    "read_overrides",
    "to_yaml",
]

EXTENDS = "extends"
RECIPE_FILE = "recipe.yaml"
_SHOWN = 200
_SLIP = 0.8
"""Likeness from which a stream's name is a slip of another's: two letters exchanged of five, or one too many."""
_SHIPPED = (Path(__file__).resolve().parents[2] / "recipes", Path(sys.prefix) / "share" / "flashwam" / "recipes")


class _Dumper(yaml.SafeDumper):
    """Sections one key a line, lists in brackets."""


_Dumper.add_representer(
    list, lambda dumper, values: dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)
)


def load_recipe(path_or_name: str | Path, overrides: Sequence[str] = (), *, trust: bool = False) -> Recipe:
    """Reads a recipe.

    A file may name others in `extends` (one, or a list; relative to itself, or a short name), which are merged first.
    Mappings merge, lists and values replace. `name` (by default the file's own) and `run_dir` are not inherited.

    Args:
        path_or_name: A YAML file, a run folder, or a short name such as "flash_wam" or "metaworld/flash_wam". A run
            folder means that very run, wherever it lies, unless overrides give another `name` or `run_dir`.
        overrides: Dotted, such as "distill.steps=500", "streams.video.anchors=4" or "data.tasks[0]=reach-wall".
        trust: Import what the recipe of a run folder names beside our classes. A file or a name is the user's own
            choice, and so are overrides: what they name is imported as it is needed.

    Raises:
        FileNotFoundError: There is no such recipe; the message lists those there are.
        ValueError: A key is unknown, or a value of the wrong type or out of range.
    """
    path, folder = find_recipe(path_or_name), user_path(path_or_name)
    of_run = path == folder / RECIPE_FILE
    merged, origins = _read(path, ())
    if of_run:
        # The folder may be anybody's, and nobody has looked into it.
        with trusting(trust):
            refuse_foreign(path, _named_classes(merged, origins))
    written = list(merged.get("streams") or {})
    for override in overrides:
        merged = _override(merged, override, origins, written)
    values = resolve(merged, origins.of)
    values.setdefault("name", path.stem)
    elsewhere = {override.partition("=")[0].strip() for override in overrides} & {"name", "run_dir"}
    if of_run and not elsewhere:
        values["run_dir"] = str(folder)
    return build_recipe(values, origins=origins)


def find_recipe(path_or_name: str | Path) -> Path:
    """Finds a recipe's file: a path first, then a run folder, then a name below ./recipes or the shipped recipes.

    Of several that a name fits the one in the fewest folders is meant: "flash_wam" is metaworld/flash_wam, while
    lingbot_va/libero/flash_wam needs its folder too ("libero/flash_wam").
    """
    path = user_path(path_or_name)
    if path.is_file():
        return path
    if (path / RECIPE_FILE).is_file():
        return path / RECIPE_FILE
    try:
        return _by_name(str(path))
    except FileNotFoundError:
        if path.is_dir():
            raise MissingFileError(
                f"{path} is a folder without {RECIPE_FILE}, so it is no run; expected a YAML file, a run folder or a "
                "short name"
            ) from None
        raise


def known_recipes() -> dict[str, Path]:
    """The recipes below ./recipes and the shipped ones: name with all its folders -> file, the user's own first."""
    found: dict[str, Path] = {}
    for root, files in _known().items():
        for name in files:
            found.setdefault(name.as_posix(), root / name.with_name(f"{name.name}.yaml"))
    return found


def _known() -> dict[Path, list[Path]]:
    """Folder of recipes -> paths below it, without their endings."""
    roots = [root for root in (Path("recipes"), *_SHIPPED) if root.is_dir()]
    return {root: sorted(file.relative_to(root).with_suffix("") for file in root.rglob("*.yaml")) for root in roots}


def _by_name(text: str) -> Path:
    name = Path(text)
    name = name.with_suffix("") if name.suffix in (".yaml", ".yml") else name
    known = _known()
    for root, files in known.items():
        fits = [file for file in files if name.parts and file.parts[-len(name.parts) :] == name.parts]
        depth = min((len(file.parts) for file in fits), default=0)
        fits = [file for file in fits if len(file.parts) == depth]
        if len(fits) > 1:
            raise InputError(f"recipe name {text!r} fits several recipes; choose one of: {', '.join(map(str, fits))}")
        if fits:
            return root / fits[0].with_name(f"{fits[0].name}.yaml")
    if name.is_absolute() or text.startswith("."):
        raise MissingFileError(f"no recipe {text!r}: there is no such file or run folder")
    names = sorted({str(file) for files in known.values() for file in files})
    raise MissingFileError(f"no recipe {text!r}: expected a YAML file, a run folder or {_some_of(names, text)}")


def _some_of(names: Sequence[str], text: str) -> str:
    """The recipes nearest to a name, or all."""
    # As short as it is still found: libero/flash_wam for lingbot_va/libero/flash_wam.
    ends = {"/".join(Path(name).parts[-count:]): name for name in names for count in (1, 2, 3)}
    near = list(dict.fromkeys(ends[end] for end in get_close_matches(text.lower(), list(ends), n=3, cutoff=0.7)))
    if near:
        short = ["/".join(Path(name).parts[-2:]) for name in near]
        return f"a short name; did you mean {' or '.join(short)}?"
    return f"one of: {', '.join(names) or 'none below ./recipes'}"


def to_yaml(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every field written out; `load_recipe` reads an equal one from it."""
    return yaml.dump(plain(recipe), Dumper=_Dumper, sort_keys=False, width=110)


def differences(one: Recipe, other: Recipe, *, ignore: Sequence[str] = ()) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (value in one, value in other), for every value that differs."""
    left, right = _leaves(plain(one)), _leaves(plain(other))
    keys = [key for key in {**left, **right} if key not in ignore]
    return {key: (left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)}


def _read(path: Path, above: tuple[Path, ...]) -> tuple[dict[str, Any], Origins]:
    """One file with everything it extends, and where each value came from."""
    path = path.resolve()
    if path in above:
        raise InputError(f"{path}: extends itself by way of {' -> '.join(p.name for p in (*above, path))}")
    source = _shown(path)
    own = read_yaml(path.read_bytes(), str(path))
    own = {} if own is None else own
    if not isinstance(own, dict):
        raise InputError(f"{path}: a recipe is a mapping of sections; got {type(own).__name__}")
    merged: dict[str, Any] = {}
    origins = Origins(default=source)
    for parent in _parents(own.pop(EXTENDS, None), source):
        below, from_below = _read(_extended(parent, path), (*above, path))
        for key in ("name", "run_dir"):
            below.pop(key, None)
        merged = _merge(merged, below)
        origins.update(from_below)
    check_keys(own, source=source)
    origins.record(own, source)
    return _merge(merged, own), origins


def foreign_classes(path: Path) -> dict[str, str]:
    """Reads which classes of other packages a recipe's file names: import path -> the dotted key it stands at."""
    return _named_classes(*_read(path, ()))


def _named_classes(merged: dict[str, Any], origins: Origins) -> dict[str, str]:
    """Import paths of other packages' classes in the sections that name any -> the dotted key."""
    content = resolve(merged, origins.of)
    return foreign_paths({key: content.get(key) for key in ("streams", "wam", "train", "distill")})


def _parents(extends: Any, source: str) -> list[str]:
    parents = [] if extends is None else extends if isinstance(extends, list) else [extends]
    if not all(isinstance(parent, str) and parent.strip() for parent in parents):
        raise InputError(
            f"{source}: extends: expected a recipe's file or short name, or a list of them; got {extends!r}"
        )
    return parents


def _extended(parent: str, path: Path) -> Path:
    """The file that a recipe extends: relative to its own, else by its short name."""
    file = path.parent / user_path(parent)
    if file.is_file():
        return file
    try:
        return _by_name(parent)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"{_shown(path)}: extends {parent!r}, but there is no {file}, and {error}") from error


def _override(merged: dict[str, Any], override: str, origins: Origins, written: Sequence[str]) -> dict[str, Any]:
    """One override over what there is; `written` are the streams that the recipe's files have."""
    source = f"override {_cut(override)!r}"
    keys, value = read_override(override, source, "distill.steps=500")
    try:
        own = layer_of(keys, value, merged, default=default_value)
    except ValueError as error:
        raise InputError(f"{source}: {error}") from error
    check_keys(own, source=source)
    for name in own.get("streams") or {}:
        if name not in written and (near := get_close_matches(name, written, n=1, cutoff=_SLIP)):
            raise InputError(
                f"{source}: streams.{name}: no stream is called so; did you mean {near[0]!r}? A new one of that name "
                "is made in a file that extends the recipe"
            )
    origins.record(own, source)
    return _merge(merged, own)


def read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Plain values of KEY=VALUE settings that belong to no recipe.

    Raises:
        ValueError: One has another form.
    """
    values: dict[str, Any] = {}
    for override in overrides:
        source = f"setting {_cut(override)!r}"
        keys, value = read_override(override, source, "robot=1")
        try:
            values = merge(values, layer_of(keys, value, values))
        except ValueError as error:
            raise InputError(f"{source}: {error}") from error
    values = resolve(values, lambda key: f"setting {key}")
    for key, value in values.items():
        check_free(key, value, Origins(default="setting"))
    return values


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Merges two layers; a consistency function or schedule named anew keeps no parameter of what it replaces."""
    streams = dict(below.get("streams") or {})
    for name, stream in (above.get("streams") or {}).items():
        held = streams.get(name)
        if not (isinstance(stream, Mapping) and isinstance(held, Mapping)):
            continue
        named = {key for key in ("consistency", "schedule") if _is_named(stream.get(key))}
        # `shift` is a schedule in short, so either takes the other's place.
        replaced = named | ({"shift"} if "schedule" in named else {"schedule"} if "shift" in stream else set())
        # A name alone is short for a mapping with it, to which parameters may be added.
        full = {key: {"name": value} if _is_short(key, value) else value for key, value in held.items()}
        streams[name] = {key: value for key, value in full.items() if key not in replaced}
    merged: dict[str, Any] = merge({**below, "streams": streams} if streams else below, above)
    return merged


def _is_named(value: Any) -> bool:
    return value is not None and (not isinstance(value, Mapping) or "name" in value)


def _is_short(key: str, value: Any) -> bool:
    return key in ("consistency", "schedule") and isinstance(value, str)


def _leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found.update(_leaves(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found


def _shown(path: Path) -> str:
    """A path as short as it can be read."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
