# SPDX-License-Identifier: Apache-2.0
"""A recipe whose models are on this machine."""

from dataclasses import replace

from flashwam.recipe.sections import LoopConfig, Recipe
from flashwam.system.hub import fetch_folder, is_on_hub

__all__ = ["fetched"]


def fetched(recipe: Recipe) -> Recipe:
    """A recipe with the folders, in the hub's cache, of those models that it names by where they lie on the hub.

    "hf:owner/name" and "hf:owner/name@revision" may stand in `wam.pretrained`, `autoencoder.pretrained`, `train.init`
    and `distill.init`. What is not here yet is fetched. A run keeps the folder, which names the revision.

    Raises:
        ValueError, FileNotFoundError: See `flashwam.system.hub.fetch_folder`.
    """

    def begun(loop: LoopConfig) -> LoopConfig:
        return replace(loop, init=_here(loop.init))

    return replace(
        recipe,
        wam=replace(recipe.wam, pretrained=_here(recipe.wam.pretrained)),
        autoencoder=replace(recipe.autoencoder, pretrained=_here(recipe.autoencoder.pretrained)),
        train=begun(recipe.train),
        distill=None if recipe.distill is None else begun(recipe.distill),
    )


def _here(folder: str | None) -> str | None:
    return str(fetch_folder(folder)) if folder is not None and is_on_hub(folder) else folder
