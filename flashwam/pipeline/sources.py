# SPDX-License-Identifier: Apache-2.0
"""Data sets in LingBot-VA's layout by a recipe's `data` section: reading, converting, normalising them."""

import functools
import json
import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from flashwam.data.alike import unlike_sets
from flashwam.data.conversion import ConversionPlan
from flashwam.data.convert import Conversion, convert
from flashwam.data.converted import MADE_WITH, check_converted, made_with
from flashwam.data.coverage import coverage
from flashwam.data.encoders import Encoders, frame_encoders
from flashwam.data.latents import ACTION_NORM
from flashwam.data.lerobot import SegmentDataset, Split
from flashwam.data.preflight import ActionRules
from flashwam.data.quantiles import control_rows, norm_of
from flashwam.data.summary import SUMMARY_FILE, summary
from flashwam.pipeline.fetched import fetched
from flashwam.pipeline.norms import action_norm, choose_norm
from flashwam.recipe.sections import DataConfig, Recipe
from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.files import write_whole
from flashwam.system.hub import is_on_hub
from flashwam.system.json_file import read_mapping
from flashwam.system.paths import user_path
from flashwam.wam.codec import autoencoder_folder
from flashwam.wam.files import FamilyFiles, all_files

__all__ = ["convert_raw", "find_encoders", "segment_dataset"]

logger = logging.getLogger(__name__)


def segment_dataset(recipe: Recipe, *, split: Split = "train", senses: Collection[str] = ()) -> SegmentDataset:
    """The samples of a recipe whose `data.source` is "lerobot", with the senses that a model is told; of the episodes
    that are not held out. The log says where their data sets are of different rates, or name their controls otherwise.

    Raises:
        ValueError: They were converted with other settings than the recipe's, or another autoencoder.
    """
    check_converted(recipe.data, _autoencoder_of(recipe))
    found = SegmentDataset.of_settings(
        recipe.data, action_norm(recipe), split=split, seed=recipe.seed, senses=tuple(senses)
    )
    for told in unlike_sets((segment.repo for segment in found.segments), found.root):
        logger.warning("%s: %s", found.root, told)
    return found


def _autoencoder_of(recipe: Recipe) -> Path | None:
    """Folder of the autoencoder that a recipe's model is shown pictures by; None where nobody says which it is."""
    given = recipe.wam.pretrained or recipe.autoencoder.pretrained
    if given is None or is_on_hub(given) or not user_path(given).is_dir():
        return None
    return user_path(given) if recipe.wam.pretrained is None else autoencoder_folder(user_path(given))


def find_encoders(folder: str | Path) -> Callable[[], Encoders]:
    """Names the maker of a checkpoint's encoders, which works in any process.

    Args:
        folder: Holds `vae/`.

    Raises:
        FileNotFoundError: It does not.
        ValueError: Nothing here can use that autoencoder.
    """
    if not user_path(folder).is_dir():
        raise MissingFileError(
            f"{folder}: no such folder; wam.pretrained must name a checkpoint with vae/ and text_encoder/ to encode "
            "with, or one of the hub: hf:OWNER/NAME"
        )
    vae = user_path(folder) / "vae"
    if (vae / "latent_stats.json").is_file():
        return functools.partial(frame_encoders, vae)
    if not (vae / "config.json").is_file():
        raise MissingFileError(f"{vae / 'config.json'} is missing: expected a checkpoint's folder with vae/")
    kind: Any = read_mapping(vae / "config.json").get("_class_name")
    for files in all_files():
        if files.encodes(kind):
            return functools.partial(_encoders, files, user_path(folder))
    raise InputError(f"{vae}: no model family here encodes with a {kind!r}")


def _own_encoders(recipe: Recipe) -> Callable[[], Encoders]:
    """The maker of the encoders of a recipe whose model has fresh weights."""
    config = recipe.autoencoder
    if config.pretrained is None and config.kind != "pixels":
        raise InputError(
            "nothing to encode with: set wam.pretrained to a checkpoint's folder with vae/, autoencoder.pretrained to "
            "that of an autoencoder, or autoencoder.kind to pixels"
        )
    return functools.partial(frame_encoders, config.pretrained)


def _encoders(files: FamilyFiles, folder: Path) -> Encoders:
    return Encoders(**files.encoders(folder, device="cuda" if torch.cuda.is_available() else "cpu"))


def _conversion_plan(data: DataConfig) -> ConversionPlan:
    return ConversionPlan(
        cameras=data.cameras,
        layout=data.layout,
        size=data.camera_size,
        stride=data.stride,
        resize=data.resize,
        window=data.window_frames,
        hop=data.clip_hop,
        action_key=data.action_key,
    )


def _action_rules(data: DataConfig) -> ActionRules:
    return ActionRules(
        key=data.action_key,
        width=len(data.used_channels) or None,
        most=data.action_channels,
        relative=data.relative_poses,
    )


def convert_raw(
    recipe: Recipe,
    raw: str | Path,
    out: str | Path,
    *,
    make_encoders: Callable[[], Encoders] | None = None,
    progress: bool = True,
) -> Conversion:
    """Converts raw LeRobot data sets as the recipe's `data` section says, and measures the actions' quantiles.

    Args:
        recipe: Cameras, layout, size, stride, channels and processes.
        raw: Folder above the raw data sets.
        out: Folder of the result; a killed conversion goes on there.
        make_encoders: See `flashwam.data.convert.convert`; None takes those of `wam.pretrained`, and for a model of
            fresh weights the recipe's `autoencoder`.
        progress: Show a progress bar.

    Raises:
        FileNotFoundError: There is no such folder, or no encoder.
        ValueError: The recipe describes other data.
    """
    data = recipe.data
    if data.source != "lerobot":
        raise InputError(
            f"nothing to convert: data.source is {data.source!r}, whose episodes `flashwam collect` makes; take a "
            "recipe for LeRobot data sets, such as --recipe libero/flash_wam"
        )
    if not user_path(raw).is_dir():
        raise MissingFileError(f"{raw}: no such folder; expected one with raw LeRobot data sets in it or below")
    if make_encoders is None:
        recipe = fetched(recipe)
        make_encoders = _own_encoders(recipe) if recipe.wam.pretrained is None else find_encoders(recipe.wam.pretrained)
    result = convert(
        raw,
        out,
        _conversion_plan(data),
        make_encoders,
        processes=data.processes,
        skip_bad=data.skip_bad,
        progress=progress,
        rules=_action_rules(data),
        depth=data.depth_as_grey,
    )
    root = user_path(out)
    rows = control_rows(root, cameras=data.cameras, relative=data.relative_poses)
    norm = norm_of(
        rows,
        channels=data.action_channels,
        used=data.used_channels or None,
        clip=data.action_clip,
        unscaled=data.unscaled_controls,
    )
    write_whole(root / ACTION_NORM, (json.dumps(norm.to_dict(), indent=2) + "\n").encode())
    # Before anything asks what they were measured with.
    made = made_with(data, _autoencoder_of(recipe))
    write_whole(root / SUMMARY_FILE, json.dumps({MADE_WITH: made}) + "\n")
    result.controls = coverage(rows, norm)
    try:
        choice = choose_norm(replace(recipe, data=replace(data, root=str(root))))
        if not choice.measured:
            result.given, result.given_controls = choice.origin, coverage(rows, choice.norm)
    except (ValueError, FileNotFoundError) as error:
        # The data are whole; a training will refuse the recipe in the same words.
        logger.warning("this recipe's own normalisation cannot be used: %s", error)
    report = {**summary(result), MADE_WITH: made}
    write_whole(root / SUMMARY_FILE, (json.dumps(report, indent=2) + "\n").encode())
    return result
