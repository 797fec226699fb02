# SPDX-License-Identifier: Apache-2.0
"""Recordings held against what a model was trained on: by their content, wherever they lie now."""

from collections.abc import Iterator
from dataclasses import replace

from flashwam.core.scenes import HISTORY_SEED_BASE, demonstration_number
from flashwam.data.actions import ActionNorm
from flashwam.data.episodes import read_episode_list, read_info
from flashwam.data.lerobot import SegmentDataset
from flashwam.data.segments import select_repos
from flashwam.evaluation.policy import LoadedModel
from flashwam.recipe.sections import DataConfig
from flashwam.run.inputs import noted_data

__all__ = ["was_made_from"]


def was_made_from(model: LoadedModel, data: DataConfig, norm: ActionNorm) -> bool | None:
    """Tells whether recordings are those that a model was made from, of which some may have been held out.

    Demonstrations that were collected are known by their scenes: whoever collects with the seed of the model's recipe
    gets those that it was trained on, bit for bit or nearly. Other recordings are known by the fingerprint that the
    model's run notes (`inputs.json`) of all together: where it is another, or is missing, nobody knows.

    Args:
        model: The model.
        data: Names the recordings.
        norm: The model's own normalisation of actions.

    Returns:
        True also where only some of them are; False where none is; None where nobody knows.

    Raises:
        FileNotFoundError, ValueError: They are missing or damaged.
    """
    made = None if model.info.recipe is None else model.info.recipe.data
    if made is None or made.simulated != data.simulated:
        return None
    if made.simulated:
        found = set(_collected(made, data))
        return None if None in found else True in found
    noted = noted_data(model.run)
    if noted is None:
        return None
    try:
        there = SegmentDataset.of_settings(
            replace(made, root=data.root), norm, split="train", seed=0, senses=tuple(model.wam.senses)
        )
    except (FileNotFoundError, ValueError):
        # With the model's own settings they cannot even be read: they are not those, or not all of them.
        return None
    return True if there.fingerprint() == noted else None


def _collected(made: DataConfig, data: DataConfig) -> Iterator[bool | None]:
    """Tells of every demonstration whether the collection of a model's recipe has it; None where that is not known."""
    for repo in select_repos(data.root, data.tasks):
        task = read_info(repo).get("task", repo.name)
        for episode in read_episode_list(repo):
            scene = episode.get("seed")
            if not isinstance(scene, int) or scene >= HISTORY_SEED_BASE:
                # A recording of a model: a training may have had it as a past.
                yield None
                continue
            number = demonstration_number(made.seed, scene)
            if task not in made.tasks or number is None:
                yield False
            else:
                # Numbered anew, an episode may be held out here that was not there.
                yield True if number == episode["episode_index"] else None
