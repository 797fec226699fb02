# SPDX-License-Identifier: Apache-2.0
"""A model on disk: the family's own folder layout plus `flashwam.json`, which says how it must be sampled."""

import inspect
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from flashwam.core.streams import StreamSpec
from flashwam.recipe.sections import WamConfig
from flashwam.run.card import write_card
from flashwam.run.holdings import instead_of_a_model
from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.imports import check_keywords, reading, trusting
from flashwam.system.json_file import built_from, read_mapping, shown, whole_number
from flashwam.system.paths import user_path
from flashwam.system.provenance import provenance
from flashwam.wam import family, load
from flashwam.wam.base import WorldActionModel
from flashwam.wam.files import FAMILY_FILES, files_for_preset, files_of, files_that_say_how
from flashwam.wam.hub import push_folder

__all__ = [
    "INFO_FILE",
    "WamInfo",
    "import_weights",
    "load_pretrained",
    "load_wam",
    "model_folder",
    "push_to_hub",
    "read_info",
    "read_streams",
    "save_wam",
]

INFO_FILE = "flashwam.json"
_KINDS = ("student", "teacher")


@dataclass(frozen=True, slots=True, kw_only=True)
class WamInfo:
    """What `flashwam.json` says.

    Args:
        kind: "student" (sampled with its streams' consistency functions) or "teacher" (a velocity network).
        streams: Per-stream choices it was trained with, in generation order.
        steps: Optimiser steps of its training.
        extra: Everything else: name, teacher, recipe, weights, provenance, results.
    """

    kind: str
    streams: Mapping[str, StreamSpec]
    steps: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def role(self) -> str:
        """ "student" where it was made from another model, even one that is sampled as a velocity network."""
        return "student" if self.extra.get("teacher") is not None else self.kind

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that its recipe evaluates, or else was trained on; empty where that is not told."""
        told = self.section("evaluate").get("tasks") or self.section("data").get("tasks") or ()
        if not isinstance(told, (list, tuple)) or not all(isinstance(task, str) for task in told):
            raise InputError(f"{INFO_FILE}: tasks of the recipe must be a list of texts; got {shown(told)}")
        return tuple(told)

    @property
    def episodes(self) -> int | None:
        """Episodes per task that its recipe evaluates; None where that is not told."""
        told = self.section("evaluate").get("episodes")
        return None if told is None else whole_number(told, f"{INFO_FILE}: recipe.evaluate.episodes", least=1)

    def section(self, name: str) -> Mapping[str, Any]:
        """A section of the recipe that it was trained with; empty where that is not told.

        Raises:
            ValueError: What is told is no section.
        """
        recipe = self.extra.get("recipe")
        section = recipe.get(name) if isinstance(recipe, Mapping) else None
        if not isinstance(section, (Mapping, type(None))):
            raise InputError(f"{INFO_FILE}: recipe.{name} must be a mapping; got {shown(section)}")
        return section or {}


def save_wam(
    folder: Path | str,
    model: WorldActionModel,
    streams: Mapping[str, StreamSpec],
    *,
    kind: str,
    info: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model, how it is to be sampled, and its card.

    Args:
        folder: Where to; created.
        model: The weights.
        streams: Per-stream choices, in generation order.
        kind: "student" or "teacher".
        info: Plain values to keep beside: steps, teacher, recipe, results.

    Raises:
        ValueError: for another kind, or streams that are not the model's.
    """
    if kind not in _KINDS:
        raise InputError(f"kind must be one of {_KINDS}; got {kind!r}")
    if tuple(streams) != tuple(model.streams):
        raise InputError(f"streams must be the model's {tuple(model.streams)}; got {tuple(streams)}")
    folder = user_path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    configs = {name: spec.config for name, spec in streams.items()}
    made = provenance()
    made["versions"] = made.pop("packages")
    content = {"kind": kind, "streams": configs, **(info or {}), **made}
    (folder / INFO_FILE).write_text(json.dumps(content, indent=2) + "\n")
    # What it names are the classes of objects that are here.
    write_card(folder, trust=True)


def read_info(folder: Path | str) -> dict[str, Any]:
    """The plain content of `flashwam.json`.

    Raises:
        FileNotFoundError, ValueError: it is missing or not readable.
    """
    folder = user_path(folder)
    path = folder / INFO_FILE
    if not path.is_file():
        raise MissingFileError(f"{path if folder.is_dir() else folder} is missing: {instead_of_a_model(folder)}")
    return read_mapping(path)


def model_folder(folder: Path | str) -> Path:
    """The folder of a model, given itself or its run's folder."""
    folder = user_path(folder)
    for result in _KINDS:
        if not (folder / INFO_FILE).is_file() and (folder / result / INFO_FILE).is_file():
            return folder / result
    return folder


def load_wam(
    folder: Path | str, *, preset: str | None = None, trust: bool = False, **options: Any
) -> tuple[WorldActionModel, WamInfo]:
    """Loads what `save_wam` wrote, or another tool's checkpoint of a family that knows it.

    Args:
        folder: The model's folder.
        preset: For a checkpoint without `flashwam.json`: a family's name for its settings, see `FamilyFiles`. One
            that says itself how it is run, such as a LeRobot policy, needs none.
        trust: Import the classes that its files name beside ours, and run their code.
        options: For the family's `from_pretrained`, such as device or dtype.

    Raises:
        FileNotFoundError: no such folder or a file of it is missing.
        ValueError: the consistency function, a stream or a key is not known, a file is damaged or names a class that
            would have to be imported without `trust`, or both the folder and a preset say how the model is sampled.
    """
    folder = user_path(folder)
    if preset is not None:
        if (folder / INFO_FILE).is_file():
            raise InputError(f"{folder / INFO_FILE} says how {folder} is sampled; leave preset {preset!r} out")
        model, kind, streams, extra = files_for_preset(preset).load(folder, preset=preset, **options)
        return model, WamInfo(kind=kind, streams=streams, extra=extra)
    own = None if (folder / INFO_FILE).is_file() else files_that_say_how(folder)
    if own is not None:
        model, kind, streams, extra = own.load(folder, preset=None, **options)
        return model, WamInfo(kind=kind, streams=streams, extra=extra)
    content, path = read_info(folder), folder / INFO_FILE
    kind, configs = content.pop("kind", None), content.pop("streams", None)
    if kind not in _KINDS or not isinstance(configs, dict):
        raise InputError(f"{path} must say kind {_KINDS} and its streams; got kind {shown(kind)}, {shown(configs)}")
    steps = whole_number(content.pop("steps", 0), f"{path}: steps", most=2**63 - 1)
    with trusting(trust):
        streams = read_streams(configs, path)
        model = load(folder, **options)
    if tuple(streams) != tuple(model.streams):
        raise InputError(f"{folder}: its streams {tuple(streams)} are not the model's {tuple(model.streams)}")
    return model, WamInfo(kind=kind, streams=streams, steps=steps, extra=content)


def read_streams(configs: Mapping[str, Any], path: Path) -> dict[str, StreamSpec]:
    """The streams that a file says a model has.

    Args:
        configs: Name -> plain values, as the file holds them.
        path: The file.

    Raises:
        ValueError: The file says something that no stream can be, or names a class that would have to be imported.
    """
    streams = {}
    for name, config in configs.items():
        if not isinstance(config, dict):
            raise InputError(f"{path}: stream {name!r} must be a mapping; got {shown(config)}")
        try:
            with reading(path):
                streams[name] = built_from(path, partial(StreamSpec.from_config, name, config))
        except ValueError as error:
            raise InputError(f"{path.parent} cannot be sampled: {error}") from error
    return streams


def load_pretrained(folder: Path | str, config: WamConfig, *, trust: bool = False) -> WorldActionModel:
    """A model that flashwam saved, or another tool's weights under a recipe's `wam` section, in float32.

    Args:
        folder: The model's.
        config: The recipe's section.
        trust: Import the classes that its files name beside ours, and run their code.

    Raises:
        FileNotFoundError, ValueError: as `load_wam`, or the weights are not of the network that the recipe describes.
    """
    kind = family(config.family)
    if config.config and not (user_path(folder) / INFO_FILE).is_file():
        # Training in the files' bfloat16 would lose most of its small updates to rounding.
        adopted = kind.adopt(folder, dtype=torch.float32, **config.config)
        if adopted is not None:
            return adopted
    # What the network is, the folder says; how it computes, the recipe.
    computes = {key: config.config[key] for key in kind.compute_options if key in config.config}
    return load_wam(folder, trust=trust, **computes)[0]


def import_weights(source: Path | str, target: Path | str, *, family: str, **settings: Any) -> None:
    """Writes another tool's weights as a model folder of a family; the folder appears whole or not at all.

    Args:
        source: What the tool wrote.
        target: The folder; must not exist, or be empty.
        family: Name of the family.
        settings: What the weights do not say of themselves, see the family's `FamilyFiles.import_weights`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the family or a setting is unknown, the keys match nothing, or `target` is taken.
    """
    files, target = files_of(family), user_path(target)
    if files is None:
        raise InputError(f"unknown family {family!r}; expected one of {sorted(FAMILY_FILES)}")
    takes = inspect.signature(files.import_weights).parameters.values()
    check_keywords("import", settings, [p.name for p in takes if p.kind is p.KEYWORD_ONLY])
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} exists; models are never overwritten: give another folder")
    partial = target.with_name(f".{target.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        files.import_weights(user_path(source), partial, **settings)
        partial.replace(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def push_to_hub(folder: Path | str, repo_id: str, *, trust: bool = False, **options: Any) -> Any:
    """Writes the card of a saved model anew, with the evaluations there are by now, and uploads the folder.

    Args:
        folder: What `save_wam` wrote.
        repo_id: "owner/name" on the Hugging Face Hub.
        trust: Import the classes that its files name beside ours, and run their code.
        options: See `flashwam.wam.hub.push_folder`.

    Raises:
        FileNotFoundError, ValueError: the folder is no saved model, or `repo_id` has another form.
    """
    write_card(folder, trust=trust)
    return push_folder(folder, repo_id, **options)
