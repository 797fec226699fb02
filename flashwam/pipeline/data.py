# SPDX-License-Identifier: Apache-2.0
"""From a recipe to its data: episodes, autoencoder, latents; makes those that are missing."""

import logging
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from flashwam.data.actions import read_norm
from flashwam.data.autoencoder import train_autoencoder
from flashwam.data.codec import CODEC_FILE, Codec
from flashwam.data.dataset import EpisodeDataset
from flashwam.data.histories import Histories
from flashwam.data.latents import ACTION_NORM, encode_latents, fingerprint
from flashwam.data.lerobot import SegmentDataset
from flashwam.data.pixels import PixelAutoencoder, load_autoencoder
from flashwam.distillation.methods import find_method
from flashwam.pipeline.fetched import fetched
from flashwam.pipeline.norms import say_norm
from flashwam.pipeline.sources import segment_dataset
from flashwam.recipe.sections import LoopConfig, Recipe
from flashwam.sim.collect import NoiseBursts
from flashwam.sim.collect import collect as run_collection
from flashwam.sim.privileged import replay_episodes
from flashwam.sim.simulators import episode_counts
from flashwam.system.errors import InputError

__all__ = ["check", "collect", "dataset", "prepare_data", "read_histories"]

logger = logging.getLogger(__name__)


def check(recipe: Recipe) -> tuple[int, dict[str, str]]:
    """Reads every sample of a recipe's data once.

    Returns:
        How many there are, and what cannot be read -> why.
    """
    recipe = replace(fetched(recipe), data=replace(recipe.data, skip_bad=True))
    source = segment_dataset(recipe, split="all")
    say_norm(recipe, every=True)
    return len(source), source.check()


def collect(recipe: Recipe) -> Path:
    """Collects the recipe's demonstrations, completing what an earlier call left; returns their folder."""
    data = recipe.data
    counts = episode_counts(data.tasks, one_way=data.episodes, several_ways=data.multimodal_episodes)
    run_collection(
        data.root,
        data.tasks,
        episodes=counts,
        seed=data.seed,
        processes=data.processes,
        noise=NoiseBursts(scale=data.action_noise),
        image_size=data.image_size,
        lossless=data.lossless,
    )
    return Path(data.root)


def prepare_data(recipe: Recipe, loop: LoopConfig | None = None) -> Codec | None:
    """Episodes, autoencoder, latents: makes what is missing and returns the codec that the model will use.

    A recipe that starts from a trained model keeps that model's codec, whatever data it is given. Data whose latents
    lie there already (`data.source: lerobot`) needs none: None.

    Args:
        recipe: Says which.
        loop: What is about to run; where its method asks for it, the episodes are played again for what the simulator
            knew.
    """
    if recipe.data.source == "lerobot":
        return None
    root = collect(recipe)
    if loop is not None and find_method(loop.method).needs_records(loop.options, root):
        if recipe.data.source != "metaworld":
            raise InputError(
                f"method {loop.method} learns from what the simulator of data.source metaworld knows; "
                f"{recipe.data.source} tells nothing of it"
            )
        replay_episodes(root, recipe.data.tasks, processes=recipe.data.processes)
    config, given = recipe.autoencoder, recipe.wam.pretrained
    if given is not None and (Path(given) / CODEC_FILE).is_file():
        codec = Codec.load(Path(given))
        encode_latents(root, codec.autoencoder)
        return codec
    if config.pretrained is not None:
        autoencoder = load_autoencoder(config.pretrained)
    elif config.kind == "pixels":
        autoencoder = PixelAutoencoder().eval()
    else:
        autoencoder = train_autoencoder(
            root,
            root / "vae",
            steps=config.steps,
            batch_size=config.batch_size,
            learning_rate=config.lr,
            seed=recipe.data.seed,
            latent_channels=config.latent_channels,
            width=config.width,
        )
    encode_latents(root, autoencoder)
    norm = read_norm(root / ACTION_NORM)
    return Codec(autoencoder=autoencoder, actions=norm)


def dataset(recipe: Recipe, *, codec: Codec | None, senses: Collection[str] = ()) -> EpisodeDataset | SegmentDataset:
    """The recipe's windows, normalised as `codec` says, or as the recipe's own `data` section where there is none;
    with the senses that a model is told. Latents are of the codec's autoencoder, whoever encoded the episodes last."""
    if codec is None:
        return segment_dataset(recipe, senses=senses)
    found = EpisodeDataset(
        recipe.data.root,
        window_frames=recipe.data.window_frames,
        tasks=recipe.data.tasks,
        val_every=recipe.data.held_out_every,
        seed=recipe.seed,
        norm=codec.actions,
        balance=True,
        first_share=recipe.data.first_share,
        senses=tuple(senses),
        autoencoder=codec.autoencoder,
    )
    _say_more_episodes(recipe, found)
    return found


def _say_more_episodes(recipe: Recipe, found: EpisodeDataset) -> None:
    """Says where a folder that is shared holds more episodes than the recipe asks for: all of them are learned from."""
    data, counts = recipe.data, found.episodes[:, 0].bincount(minlength=len(found.tasks)).tolist()
    asked = episode_counts(found.tasks, one_way=data.episodes, several_ways=data.multimodal_episodes)
    for task, count in zip(found.tasks, counts, strict=True):
        if count > asked[task]:
            logger.warning(
                "%s holds %d training episodes of %s, and the recipe asks for %d: it learns from all of them",
                data.root,
                count,
                task,
                asked[task],
            )


def read_histories(recipe: Recipe, folder: Path, *, codec: Codec | None, senses: Collection[str] = ()) -> Histories:
    """A model's own episodes (`flashwam record`), normalised as the recipe's data are, with the senses that a model is
    told.

    Raises:
        FileNotFoundError: There are none.
        ValueError: They are of other tasks than the data, or their latents are another autoencoder's.
    """
    if codec is None:
        raise InputError(f"histories ({folder}) are episodes of the simulator, beside data that a simulator makes")
    episodes = EpisodeDataset(
        folder,
        window_frames=recipe.data.window_frames,
        split="all",
        norm=codec.actions,
        senses=tuple(senses),
    )
    foreign = sorted(set(episodes.tasks) - set(recipe.data.tasks))
    if foreign:
        raise InputError(
            f"histories {folder} are of {foreign}, which are not among the recipe's tasks {list(recipe.data.tasks)}: "
            "record with --tasks, or set data.tasks"
        )
    if episodes.autoencoders != {fingerprint(codec.autoencoder)}:
        raise InputError(
            f"the latents of histories {folder} are not by the autoencoder of {recipe.wam.pretrained}: record a "
            "student of that teacher"
        )
    return Histories(episodes, seed=recipe.seed)
