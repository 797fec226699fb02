# SPDX-License-Identifier: Apache-2.0
"""YAML in, a checked `Recipe` out: inheritance, dotted overrides, and errors that name file, key and remedy."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flashwam.data.episodes import atomic_write
from flashwam.provenance import provenance
from flashwam.recipe import Recipe
from flashwam.schema import Origins, build_recipe, check_keys, plain

__all__ = ["differences", "find_recipe", "load_recipe", "prepare_run", "read_overrides", "run_folder", "to_yaml"]

EXTENDS = "extends"
RECIPE_FILE = "recipe.yaml"
PROVENANCE_FILE = "provenance.json"
_SHIPPED = (Path(__file__).resolve().parents[1] / "recipes", Path(sys.prefix) / "share" / "flashwam" / "recipes")


class _Dumper(yaml.SafeDumper):
    """Sections one key a line, lists in brackets."""


_Dumper.add_representer(
    list, lambda dumper, values: dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)
)


def load_recipe(path_or_name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe.

    A file may name others in `extends` (one, or a list; relative to itself), which are merged first. Mappings merge,
    lists and values replace. `name` (by default the file's own) and `run_dir` are not inherited.

    Args:
        path_or_name: A YAML file, a run folder, or a short name such as "flash_wam" or "metaworld/flash_wam".
        overrides: Dotted, such as "distill.steps=500" or "streams.video.consistency=linear".

    Raises:
        FileNotFoundError: There is no such recipe; the message lists those there are.
        ValueError: A key is unknown, or a value of the wrong type or out of range.
    """
    path = find_recipe(path_or_name)
    merged, origins = _read(path, ())
    for override in overrides:
        merged = _override(merged, override, origins)
    try:
        values = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        raise ValueError(f"{path}: {_first_line(error)}") from error
    values.setdefault("name", path.stem)
    return build_recipe(values, origins=origins)


def find_recipe(path_or_name: str | Path) -> Path:
    """Finds a recipe's file: a path first, then a run folder, then a name below ./recipes or the shipped recipes.

    Of several that a name fits the one in the fewest folders is meant: "flash_wam" is metaworld/flash_wam, while
    lingbot_va/libero/flash_wam needs its folder too ("libero/flash_wam").
    """
    path = Path(path_or_name)
    if path.is_file():
        return path
    if (path / RECIPE_FILE).is_file():
        return path / RECIPE_FILE
    roots = [root for root in (Path("recipes"), *_SHIPPED) if root.is_dir()]
    name = path.with_suffix("") if path.suffix in (".yaml", ".yml") else path
    for root in roots:
        found = sorted(root.glob(f"**/{name}.yaml")) if not path.is_absolute() else []
        depth = min((len(f.parts) for f in found), default=0)
        found = [f for f in found if len(f.parts) == depth]
        if len(found) > 1:
            names = ", ".join(str(f.relative_to(root).with_suffix("")) for f in found)
            raise ValueError(f"recipe name {str(path_or_name)!r} fits several recipes; choose one of: {names}")
        if found:
            return found[0]
    shipped = sorted({str(f.relative_to(root).with_suffix("")) for root in roots for f in root.rglob("*.yaml")})
    known = ", ".join(shipped) or "none below ./recipes"
    raise FileNotFoundError(f"no recipe {str(path_or_name)!r}: expected a YAML file, a run folder or one of: {known}")


def to_yaml(recipe: Recipe) -> str:
    """The resolved recipe as YAML, every field written out; `load_recipe` reads an equal one from it."""
    return yaml.dump(plain(recipe), Dumper=_Dumper, sort_keys=False, width=110)


def differences(one: Recipe, other: Recipe, *, ignore: Sequence[str] = ()) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (value in one, value in other), for every value that differs."""
    left, right = _leaves(plain(one)), _leaves(plain(other))
    keys = [key for key in {**left, **right} if key not in ignore]
    return {key: (left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)}


def run_folder(recipe: Recipe, run_dir: str | Path | None = None) -> Path:
    """Where a recipe's run lives: `run_dir`, else the recipe's own, else runs/<name>."""
    return Path(run_dir or recipe.run_dir or Path("runs") / recipe.name)


def prepare_run(recipe: Recipe, run_dir: str | Path | None = None) -> Path:
    """Creates a run's folder with the resolved recipe and its provenance, or accepts one of the same recipe.

    Args:
        recipe: The recipe.
        run_dir: See `run_folder`.

    Returns:
        The folder.

    Raises:
        ValueError: The folder holds a run of another recipe, or something that is no run.
    """
    folder = run_folder(recipe, run_dir)
    kept = folder / RECIPE_FILE
    if kept.is_file():
        # A run may be moved, so where it lies is no difference.
        changed = differences(load_recipe(kept), recipe, ignore=("run_dir",))
        if changed:
            listed = "".join(f"\n  {key}: {old!r} there, {new!r} now" for key, (old, new) in changed.items())
            raise ValueError(
                f"{folder} holds a run of another recipe, and runs are never overwritten; it differs in{listed}\n"
                f"Give another --run-dir or name=..., or delete the folder."
            )
        return folder
    if folder.exists() and (not folder.is_dir() or any(p.name != PROVENANCE_FILE for p in folder.iterdir())):
        raise ValueError(f"{folder} exists but is no run folder (no {RECIPE_FILE}); give another --run-dir")
    atomic_write(folder / PROVENANCE_FILE, (json.dumps(provenance(), indent=2) + "\n").encode())
    # The recipe is written last: a folder with one is complete.
    atomic_write(kept, to_yaml(recipe).encode())
    return folder


def _read(path: Path, above: tuple[Path, ...]) -> tuple[DictConfig, Origins]:
    """One file with everything it extends, and where each value came from."""
    path = path.resolve()
    if path in above:
        raise ValueError(f"{path}: extends itself by way of {' -> '.join(p.name for p in (*above, path))}")
    try:
        own = OmegaConf.load(path)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(own, DictConfig):
        raise ValueError(f"{path}: a recipe is a mapping of sections; got {type(OmegaConf.to_container(own)).__name__}")
    parents = own.pop(EXTENDS, None)
    if isinstance(parents, str):
        parents = [parents]
    merged, origins = OmegaConf.create({}), Origins(default=_shown(path))
    for parent in parents or []:
        file = path.parent / str(parent)
        if not file.is_file():
            raise FileNotFoundError(f"{_shown(path)}: extends {str(parent)!r}, but there is no {file}")
        below, from_below = _read(file, (*above, path))
        for key in ("name", "run_dir"):
            below.pop(key, None)
        merged = _merge(merged, below)
        origins.update(from_below)
    content = OmegaConf.to_container(own, resolve=False)
    check_keys(content, source=_shown(path))
    origins.record(content, _shown(path))
    return _merge(merged, own), origins


def _override(merged: DictConfig, override: str, origins: Origins) -> DictConfig:
    key, equals, _ = override.partition("=")
    source = f"override {override!r}"
    if not equals or not key.strip():
        raise ValueError(f"{source}: expected key=value, such as distill.steps=500")
    try:
        own = OmegaConf.from_dotlist([override])
        content = OmegaConf.to_container(own, resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{source}: {_first_line(error)}") from error
    check_keys(content, source=source)
    origins.record(content, source)
    try:
        return _merge(merged, own)
    except OmegaConfBaseException as error:
        raise ValueError(f"{source}: {_first_line(error)}") from error


def read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Plain values of KEY=VALUE settings that belong to no recipe.

    Raises:
        ValueError: One has another form.
    """
    values: dict[str, Any] = {}
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"setting {override!r}: expected key=value, such as robot=1")
        try:
            values |= OmegaConf.to_container(OmegaConf.from_dotlist([override]))
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            raise ValueError(f"setting {override!r}: {_first_line(error)}") from error
    return values


def _merge(below: DictConfig, above: DictConfig) -> DictConfig:
    """Merges two layers; a consistency function or schedule named anew keeps no parameter of what it replaces."""
    for name, stream in (above.get("streams") or {}).items():
        held = OmegaConf.select(below, f"streams.{name}")
        if not (isinstance(stream, DictConfig) and isinstance(held, DictConfig)):
            continue
        named = {key for key in ("consistency", "schedule") if _is_named(stream.get(key))}
        # `shift` is a schedule in short, so either takes the other's place.
        replaced = named | ({"shift"} if "schedule" in named else {"schedule"} if "shift" in stream else set())
        for key in replaced & set(held):
            del held[key]
    return OmegaConf.merge(below, above)


def _is_named(value: Any) -> bool:
    return value is not None and (not isinstance(value, DictConfig) or "name" in value)


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


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
