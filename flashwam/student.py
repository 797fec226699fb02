# SPDX-License-Identifier: Apache-2.0
"""A model on disk: the family's own folder layout plus `flashwam.json`, which says how it must be sampled."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from flashwam.core.streams import StreamSpec
from flashwam.recipe.sections import WamConfig
from flashwam.run.card import renew_card, write_card
from flashwam.run.folder import CARD_FILE, INFO_FILE, RESULTS
from flashwam.run.model_info import ModelInfo, read_info
from flashwam.run.origin import ORIGIN, Origin, trace
from flashwam.system.errors import InputError
from flashwam.system.files import whole_folder, write_whole
from flashwam.system.hub import local_folder, push_folder, repo_name
from flashwam.system.imports import check_keywords, trusting
from flashwam.system.paths import user_path
from flashwam.system.provenance import provenance
from flashwam.system.released import License
from flashwam.wam import family, load
from flashwam.wam.agreement import check_config, check_family
from flashwam.wam.base import WorldActionModel
from flashwam.wam.files import FAMILY_FILES, all_files, files_for_preset, files_of, files_that_say_how

__all__ = [
    "ModelInfo",
    "WamInfo",
    "import_weights",
    "load_pretrained",
    "load_wam",
    "push_to_hub",
    "save_wam",
]

WamInfo = ModelInfo
"""The name that it had before."""


def save_wam(
    folder: Path | str,
    model: WorldActionModel,
    streams: Mapping[str, StreamSpec],
    *,
    kind: str,
    info: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model, how it is to be sampled, and its card: all of it, or nothing.

    Args:
        folder: Where to; created. Of one that exists, files of the same names are replaced once all are written.
        model: The weights.
        streams: Per-stream choices, in generation order.
        kind: "student" or "teacher".
        info: Plain values to keep beside: steps, teacher, recipe, results.

    Raises:
        ValueError: for another kind, or streams that are not the model's.
        OSError: the disk refuses it; what was in the folder is there still.
    """
    if kind not in RESULTS:
        raise InputError(f"kind must be one of {RESULTS}; got {kind!r}")
    if tuple(streams) != tuple(model.streams):
        raise InputError(f"streams must be the model's {tuple(model.streams)}; got {tuple(streams)}")
    configs = {name: spec.config for name, spec in streams.items()}
    made = provenance()
    made["versions"] = made.pop("packages")
    content = {"kind": kind, "streams": configs, **(info or {}), **made}
    content.setdefault(ORIGIN, _origin(content).to_json())
    folder = user_path(folder)
    with whole_folder(folder, keep=True) as building:
        if (folder / CARD_FILE).is_file():
            # It may be the user's own.
            write_whole(building / CARD_FILE, (folder / CARD_FILE).read_bytes())
        model.save_pretrained(building)
        write_whole(building / INFO_FILE, json.dumps(content, indent=2) + "\n")
        # What it names are the classes of objects that are here.
        renew_card(building, trust=True)


def load_wam(
    folder: Path | str, *, preset: str | None = None, trust: bool = False, **options: Any
) -> tuple[WorldActionModel, ModelInfo]:
    """Loads what `save_wam` wrote, or another tool's checkpoint of a family that knows it.

    Args:
        folder: The model's folder, or "hf:owner/name" of the Hugging Face Hub, which is fetched.
        preset: For a checkpoint without `flashwam.json`: a family's name for its settings, see `FamilyFiles`. One
            that says itself how it is run, such as a LeRobot policy, needs none.
        trust: Import the classes that its files name beside ours, and run their code.
        options: For the family's `from_pretrained`, such as device or dtype.

    Raises:
        FileNotFoundError: no such folder or a file of it is missing.
        ValueError: the consistency function, a stream or a key is not known, a file is damaged or names a class that
            would have to be imported without `trust`, or both the folder and a preset say how the model is sampled.
    """
    folder = local_folder(folder)
    if preset is not None:
        if (folder / INFO_FILE).is_file():
            raise InputError(f"{folder / INFO_FILE} says how {folder} is sampled; leave preset {preset!r} out")
        model, kind, streams, extra = files_for_preset(preset).load(folder, preset=preset, **options)
        return model, ModelInfo(kind=kind, streams=streams, extra=extra)
    own = None if (folder / INFO_FILE).is_file() else files_that_say_how(folder)
    if own is not None:
        model, kind, streams, extra = own.load(folder, preset=None, **options)
        return model, ModelInfo(kind=kind, streams=streams, extra=extra)
    with trusting(trust):
        info = ModelInfo.read(folder)
        model = load(folder, **options)
    if tuple(info.streams) != tuple(model.streams):
        raise InputError(f"{folder}: its streams {tuple(info.streams)} are not the model's {tuple(model.streams)}")
    return model, info


def load_pretrained(folder: Path | str, config: WamConfig, *, trust: bool = False) -> WorldActionModel:
    """A model that flashwam saved, or another tool's weights under a recipe's `wam` section, in float32.

    Args:
        folder: The model's, or "hf:owner/name".
        config: The recipe's section.
        trust: Import the classes that its files name beside ours, and run their code.

    Raises:
        FileNotFoundError, ValueError: as `load_wam`, or the model is of another family than the recipe's, or another
            one than its `wam.config` describes.
    """
    kind, folder = family(config.family), local_folder(folder)
    if config.config and not (folder / INFO_FILE).is_file():
        # Training in the files' bfloat16 would lose most of its small updates to rounding.
        adopted = kind.adopt(folder, dtype=torch.float32, **config.config)
        if adopted is not None:
            return adopted
    # A recipe that says nothing of a model but its folder takes whatever lies there.
    said = replace(config, pretrained=None) != WamConfig()
    if said:
        check_family(folder, config.family, trust=trust)
    # What the network is, the folder says; how it computes, the recipe.
    computes = {key: config.config[key] for key in kind.compute_options if key in config.config}
    model = load_wam(folder, trust=trust, **computes)[0]
    if said:
        check_config(model, folder, config.family, config.config)
    return model


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
    with whole_folder(target) as building:
        files.import_weights(user_path(source), building, **settings)


def push_to_hub(
    folder: Path | str, repo_id: str, *, license: str | None = None, trust: bool = False, **options: Any
) -> Any:
    """Writes the card of a saved model anew, with the evaluations there are by now, and uploads the folder.

    A card that somebody else wrote is uploaded as it is.

    Args:
        folder: What `save_wam` wrote.
        repo_id: "owner/name" on the Hugging Face Hub, or "hf:owner/name".
        license: The hub's identifier of a licence, such as "apache-2.0"; if None, what its card states already, or else
            that of the model which it was made from.
        trust: Import the classes that its files name beside ours, and run their code.
        options: See `flashwam.system.hub.push_folder`.

    Raises:
        FileNotFoundError, ValueError: the folder is no saved model, `repo_id` has another form, or `license` is none or
            not what a card says that somebody else wrote.
        RuntimeError: the hub cannot be reached, or does not take it.
    """
    name, given = repo_name(repo_id), None if license is None else License(identifier=license)
    folder = local_folder(folder)
    told = read_info(folder)
    origin = Origin.read(told[ORIGIN]) if ORIGIN in told else _origin(told)
    card = write_card(folder, trust=trust, origin=origin, license=given, named=f"hf:{name}")
    if given is not None and License.of_card(card) != given:
        raise InputError(
            f"{card} was not written by flashwam, and is published as it is: state the licence in its header"
        )
    return push_folder(folder, name, **options)


def _origin(told: Mapping[str, Any]) -> Origin:
    """The origin of a model whose `flashwam.json` says, or is to say, this."""
    families = tuple(all_files())
    known = {end: one for files in families for end, one in files.released.items()}
    data = {name: repo for files in families for name, repo in files.released_data.items()}
    return trace(told, known=known, data=data)
