# SPDX-License-Identifier: Apache-2.0
"""What a recipe's `data` section says of data sets in LingBot-VA's layout: reading, converting, normalising them."""

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from flashwam.core.paths import user_path
from flashwam.data.actions import ActionNorm, read_norm
from flashwam.data.controls import ControlSpace
from flashwam.data.conversion import ConversionPlan
from flashwam.data.convert import Conversion, convert
from flashwam.data.encoders import Encoders, frame_encoders
from flashwam.data.episodes import atomic_write
from flashwam.data.latents import ACTION_NORM
from flashwam.data.lerobot import SegmentDataset
from flashwam.data.preflight import ActionRules
from flashwam.data.quantiles import fit_norm
from flashwam.json_file import read_mapping
from flashwam.recipe import DataConfig, Recipe
from flashwam.wam.files import FamilyFiles, all_files

__all__ = ["action_norm", "convert_raw", "find_encoders", "segment_dataset"]


def action_norm(recipe: Recipe) -> ActionNorm:
    """How the recipe's actions are normalised.

    A recipe that starts from a model trained here keeps that model's normalisation. Otherwise it is what the `data`
    section says, or where that is silent, what a conversion measured.

    Raises:
        FileNotFoundError: There is none.
        ValueError: A file is damaged, or does not agree with the recipe.
    """
    data, given = recipe.data, recipe.wam.pretrained
    of_model = None if given is None else Path(given) / ACTION_NORM
    if of_model is not None and of_model.is_file():
        norm = _read_norm(of_model)
        if data.q01 is not None and _of_recipe(data) != norm:
            raise ValueError(
                f"{of_model}: the model was trained with another normalisation than data.q01, data.q99 say"
            )
        return norm
    if data.q01 is not None:
        return _of_recipe(data)
    path = Path(data.root) / ACTION_NORM
    norm = replace(_read_norm(path), clip=data.action_clip)
    if norm.channels != data.action_channels or (data.used_channels and norm.used != data.used_channels):
        raise ValueError(
            f"{path}: maps onto channels {norm.used} of {norm.channels}, the recipe onto {data.used_channels} of "
            f"{data.action_channels}"
        )
    return norm


def _of_recipe(data: DataConfig) -> ActionNorm:
    used = data.used_channels or tuple(range(data.action_channels))
    return ActionNorm(q01=data.q01 or (), q99=data.q99 or (), used=used, clip=data.action_clip)


def _read_norm(path: Path) -> ActionNorm:
    try:
        return read_norm(path)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path} is missing: set data.q01 and data.q99, or convert the raw data again"
        ) from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: no action normalisation ({error})") from error


def segment_dataset(recipe: Recipe) -> SegmentDataset:
    """The samples of a recipe whose `data.source` is "lerobot"."""
    data = recipe.data
    space = ControlSpace(norm=action_norm(recipe), relative=data.relative_poses, first=data.first_actions)
    return SegmentDataset(
        data.root,
        cameras=data.cameras,
        layout=data.layout,
        space=space,
        window_frames=data.window_frames,
        tasks=data.tasks,
        stride=data.stride,
        seed=recipe.seed,
        first_share=data.first_share,
        text_dropout=data.text_dropout,
        skip_bad=data.skip_bad,
    )


def find_encoders(folder: str | Path) -> Callable[[], Encoders]:
    """What makes the encoders of a checkpoint, in any process.

    Args:
        folder: Holds `vae/`.

    Raises:
        FileNotFoundError: It does not.
        ValueError: Nothing here can use that autoencoder.
    """
    vae = user_path(folder) / "vae"
    if (vae / "latent_stats.json").is_file():
        return functools.partial(frame_encoders, vae)
    if not (vae / "config.json").is_file():
        raise FileNotFoundError(f"{vae / 'config.json'} is missing: expected a checkpoint's folder with vae/")
    kind = read_mapping(vae / "config.json").get("_class_name")
    for files in all_files():
        if files.encodes(kind):
            return functools.partial(_encoders, files, user_path(folder))
    raise ValueError(f"{vae}: no model family here encodes with a {kind!r}")


def _encoders(files: FamilyFiles, folder: Path) -> Encoders:
    return Encoders(**files.encoders(folder, device="cuda" if torch.cuda.is_available() else "cpu"))


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
        make_encoders: See `flashwam.data.convert.convert`; None takes those of `wam.pretrained`.
        progress: Show a progress bar.
    """
    data = recipe.data
    if make_encoders is None:
        if recipe.wam.pretrained is None:
            raise ValueError("nothing to encode with: set wam.pretrained to a checkpoint's folder with vae/")
        make_encoders = find_encoders(recipe.wam.pretrained)
    plan = ConversionPlan(
        cameras=data.cameras,
        layout=data.layout,
        size=data.camera_size,
        stride=data.stride,
        resize=data.resize,
        window=data.window_frames,
        hop=data.clip_hop,
        action_key=data.action_key,
    )
    rules = ActionRules(
        key=data.action_key,
        width=len(data.used_channels) or None,
        most=data.action_channels,
        relative=data.relative_poses,
    )
    result = convert(
        raw,
        out,
        plan,
        make_encoders,
        processes=data.processes,
        skip_bad=data.skip_bad,
        progress=progress,
        rules=rules,
        depth=data.depth_as_grey,
    )
    norm = fit_norm(
        out,
        cameras=data.cameras,
        relative=data.relative_poses,
        channels=data.action_channels,
        used=data.used_channels or None,
        clip=data.action_clip,
        unscaled=data.unscaled_controls,
    )
    atomic_write(user_path(out) / ACTION_NORM, (json.dumps(norm.to_dict(), indent=2) + "\n").encode())
    return result
