# SPDX-License-Identifier: Apache-2.0
"""Refusals of what a recipe says by itself, before data are made, weights read or a run's folder begun."""

import os
from pathlib import Path

from flashwam.distillation.adapters import STUDENT, check_peft
from flashwam.distillation.methods import check_adapters, check_options, check_streams, find_method
from flashwam.distillation.methods.options import refuse_losses
from flashwam.distillation.roles import CRITIC
from flashwam.distillation.strategies import check_strategy, find_strategy
from flashwam.distillation.trackers import check_trackers
from flashwam.pipeline.judge import check_judge
from flashwam.recipe.sections import LoopConfig, Recipe
from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.hub import is_on_hub

__all__ = ["check_loop", "check_recipe"]


def check_recipe(recipe: Recipe, loop: LoopConfig) -> None:
    """Refuses what none of a section's work can begin with: folders that are not there, choices that nothing reads.

    Raises:
        FileNotFoundError, ValueError: The message names the key.
    """
    _check_folders(recipe, loop)
    check_options(loop)
    check_adapters(loop)
    method = find_method(loop.method)
    method.check_values(loop)
    refuse_losses(recipe.streams, method.stream_losses, method=method.__name__)
    check_streams(recipe, loop)


def check_loop(recipe: Recipe, loop: LoopConfig, *, given: bool = False) -> None:
    """Refuses what a section's training cannot be done with here: its processes, packages, trackers, judge.

    Args:
        recipe: The recipe.
        loop: The section.
        given: Samples come from elsewhere than its data.

    Raises:
        ValueError: The message names the key.
        ImportError: A package is not installed.
    """
    trained = [STUDENT, CRITIC] if find_method(loop.method).needs_critic else [STUDENT]
    check_strategy(loop, trained)
    find_strategy(loop.strategy).check(loop, int(os.environ.get("WORLD_SIZE", "1")))
    if loop.lora is not None:
        check_peft()
    check_trackers(loop.trackers)
    if loop.judge is None:
        return
    if given:
        raise InputError(
            f"recipe {recipe.name!r}: judge measures on held-out episodes of the recipe's data, and the samples come "
            "from elsewhere: set judge to null, or give flashwam.distillation.trainer.train a judge of your own"
        )
    check_judge(recipe, loop)


def _check_folders(recipe: Recipe, loop: LoopConfig) -> None:
    needed = {"wam.pretrained": recipe.wam.pretrained}
    section = "distill" if loop is recipe.distill else "train"
    needed[f"{section}.init"] = loop.init
    histories = find_method(loop.method).histories(loop.options)
    if histories is not None and not histories.is_dir():
        raise MissingFileError(
            f"{section}.options.histories: {histories}: no such folder. Record one first: flashwam record MODEL OUT"
        )
    if recipe.data.simulated and recipe.wam.pretrained is None:
        needed["autoencoder.pretrained"] = recipe.autoencoder.pretrained
    for key, folder in needed.items():
        if folder is None or is_on_hub(folder) or Path(folder).is_dir():
            continue
        told = "is a file, not a model's folder" if Path(folder).exists() else "no such folder"
        # What a recipe names is relative to where one stands, wherever the recipe itself lies.
        where = "" if Path(folder).is_absolute() else f" (such paths are relative to {Path.cwd()})"
        raise MissingFileError(
            f"{key}: {folder}: {told}. Train it first (flashwam train), or name one of the hub: "
            f"{key}=hf:OWNER/NAME{where}"
        )
