# SPDX-License-Identifier: Apache-2.0
"""Windows of recorded episodes that a model is judged on."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flashwam.data.actions import ActionNorm, read_norm
from flashwam.data.autoencoder import FrameAutoencoder
from flashwam.data.codec import CODEC_FILE, Codec, read_actions
from flashwam.data.control_names import ControlNames
from flashwam.data.converted import check_converted
from flashwam.data.dataset import EpisodeDataset
from flashwam.data.episodes import read_info
from flashwam.data.latents import ACTION_NORM, read_empty_text
from flashwam.data.lerobot import SegmentDataset, Split
from flashwam.data.samples import Window, check_text
from flashwam.data.segments import NoEpisodesError, are_there, select_repos
from flashwam.evaluation.policy import LoadedModel
from flashwam.evaluation.trained_on import was_made_from
from flashwam.recipe.sections import DataConfig, Recipe
from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.json_file import read_mapping
from flashwam.system.paths import user_path
from flashwam.wam.base import WorldActionModel
from flashwam.wam.codec import autoencoder_folder
from flashwam.wam.files import files_of_codec

__all__ = [
    "EVALUATED_WINDOWS",
    "JUDGED_WINDOWS",
    "Windows",
    "different_windows",
    "find_windows",
    "held_out_windows",
    "judged_draws",
    "recorded_windows",
]

logger = logging.getLogger(__name__)

_SEED = 1
"""Windows are the same for every model and evaluation."""
JUDGED_WINDOWS = 2
"""Seed of the windows that a model is judged by while it is trained, so that it is not chosen by an evaluation's; see
`judged_draws`."""
EVALUATED_WINDOWS = 32
"""Windows that a model is evaluated on where nobody says how many."""
_TRIED = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Windows, and what their actions mean.

    Attributes:
        source: Draw i is window i.
        norm: Of the actions.
        names: Of the controls.
        held_out: No training of this model saw these episodes; None where nobody knows. Autoencoder and quantiles may
            be of all.
        episodes: That there are.
    """

    source: EpisodeDataset | SegmentDataset
    norm: ActionNorm
    names: ControlNames
    held_out: bool | None
    episodes: int


def recorded_windows(
    model: LoadedModel, recipe: Recipe, *, data: str | Path | None = None, tasks: Sequence[str] = ()
) -> Windows:
    """Windows of a folder of recordings, or of the episodes that were held out of those that a model was made from.

    Those are known by what they are, wherever they lie, see `was_made_from`. Where none were held out of them, all
    episodes are taken, with a warning.

    Args:
        model: Its shapes, and its normalisation of actions where its folder has one.
        recipe: Its `data` section says how the recordings are laid out.
        data: Folder of other recordings, or of the model's own where they have moved.
        tasks: Data sets, see `flashwam.data.segments.select_repos`; without any those of the recipe, or of them
            that `data` has, or all of `data` where it has none; with a warning where these are not the recipe's.

    Raises:
        FileNotFoundError, ValueError: They are missing, damaged, or of other shapes than the model's.
    """
    section, made = _chosen(recipe.data, data, tasks), model.info.recipe
    if data is None and not user_path(section.root).is_dir():
        raise MissingFileError(
            f"{section.root}: no such folder, and there the recordings lie that {model.name} is judged on: give the "
            "folder where they lie now, or that of others (--data FOLDER)"
        )
    if section.source == "lerobot":
        check_converted(section, autoencoder_folder(model.folder))
    norm = _norm(model.folder, section)
    own = was_made_from(model, section, norm)
    if own or (own is None and made is not None and _same_folder(section, made.data)):
        assert made is not None
        found = held_out_windows(model, replace(section, held_out_every=made.data.held_out_every))
        if found is not None:
            return found if own else _not_known(found, model, section)
        _say_none_held_out(model, section, known=own is not None)
    held_out = None if own is None else not own
    autoencoder = _autoencoder(model.folder, section)
    return find_windows(section, norm, model.wam, split="all", held_out=held_out, autoencoder=autoencoder)


def _say_none_held_out(model: LoadedModel, section: DataConfig, *, known: bool) -> None:
    told = "" if known else ", if these are those that it was made from, which nobody knows"
    logger.warning(
        "no episode below %s was held out when %s was trained (data.held_out_every): it is judged on episodes that it "
        "was trained on%s",
        section.root,
        model.name,
        told,
    )


def _same_folder(one: DataConfig, other: DataConfig) -> bool:
    return user_path(one.root).resolve() == user_path(other.root).resolve()


def _not_known(windows: Windows, model: LoadedModel, section: DataConfig) -> Windows:
    """The windows that would be held out, were the recordings still what they were."""
    logger.warning(
        "nobody knows whether the episodes below %s are those that %s was made from (%s does not tell, or tells of "
        "others): it may have been trained on those that are taken",
        section.root,
        model.name,
        model.run.inputs,
    )
    return replace(windows, held_out=None)


def _chosen(section: DataConfig, data: str | Path | None, tasks: Sequence[str]) -> DataConfig:
    """The section with the data sets that are asked for."""
    if data is not None:
        section = replace(section, root=str(data))
        # Refuses the folder of one data set before its neighbours are missed.
        read_empty_text(user_path(data))
    if tasks:
        return replace(section, tasks=tuple(tasks))
    if data is None or (found := are_there(data, section.tasks)) == list(section.tasks):
        return section
    there = sorted({repo.name for repo in select_repos(data)})
    logger.warning(
        "%s has %s of the recipe's data sets (%s): taken are %s; --tasks chooses among %s",
        data,
        f"{len(found)} of {len(section.tasks)}" if found else "none",
        ", ".join(section.tasks),
        ", ".join(found) if found else "all of its own",
        ", ".join(there),
    )
    return replace(section, tasks=tuple(found or there))


def held_out_windows(model: LoadedModel, data: DataConfig) -> Windows | None:
    """Windows of the episodes that were held out of those that a recipe's `data` section names; None where none were.

    Raises:
        FileNotFoundError, ValueError: As `recorded_windows`.
    """
    if data.source == "lerobot" and data.held_out_every is None:
        return None
    try:
        return find_windows(
            data,
            _norm(model.folder, data),
            model.wam,
            split="val",
            held_out=True,
            autoencoder=_autoencoder(model.folder, data),
        )
    except NoEpisodesError:
        return None


def find_windows(
    data: DataConfig,
    norm: ActionNorm,
    wam: WorldActionModel,
    *,
    split: Split,
    held_out: bool | None,
    seed: int = _SEED,
    autoencoder: FrameAutoencoder | None = None,
) -> Windows:
    """Windows of some of the episodes that a recipe's `data` section names.

    Args:
        data: The section.
        norm: Of the actions.
        wam: Its shapes and senses.
        split: Which episodes.
        held_out: What to say of them.
        seed: Of the windows.
        autoencoder: The model's, for episodes of a simulator, see `EpisodeDataset`.

    Raises:
        FileNotFoundError, ValueError: As `recorded_windows`.
    """
    if data.source == "lerobot":
        source: Any = SegmentDataset.of_settings(data, norm, split=split, seed=seed, senses=tuple(wam.senses))
        episodes = len({(segment.repo, segment.episode) for segment in source.segments})
        info = read_info(source.segments[0].repo)
    else:
        source = EpisodeDataset(
            data.root,
            window_frames=data.window_frames,
            tasks=data.tasks,
            split=split,
            norm=norm,
            balance=True,
            first_share=data.first_share,
            val_every=data.held_out_every,
            seed=seed,
            senses=tuple(wam.senses),
            autoencoder=autoencoder,
        )
        episodes, info = len(source.episodes), read_info(select_repos(data.root, data.tasks)[0])
    _check_shapes(source, wam)
    names = ControlNames.of_data(len(norm.used), relative=data.relative_poses, info=info)
    return Windows(source=source, norm=norm, names=names, held_out=held_out, episodes=episodes)


def judged_draws(source: EpisodeDataset | SegmentDataset, count: int) -> list[int]:
    """Chooses the draws that a model is judged by while it is trained: not the windows that it is evaluated on.

    They are the first draws; in place of one that is among an evaluation's 32 windows comes a later one that is not, of
    the same data set, and that begins with its episode where the first does. Where there is none, as of few episodes,
    the window is taken all the same, and the log says of how many.

    Args:
        source: Of `JUDGED_WINDOWS`.
        count: How many windows.

    Raises:
        FileNotFoundError, ValueError: A file of theirs is missing or damaged.
    """
    evaluated = source.seeded(_SEED)
    kept_away = {evaluated.locate(number) for number in range(EVALUATED_WINDOWS)}
    draws = list(range(count))
    waiting = [number for number in draws if source.locate(number) in kept_away]
    used = {source.locate(number) for number in draws} | kept_away
    for number in range(count, count + _TRIED):
        if not waiting:
            break
        if (found := source.locate(number)) in used:
            continue
        place = next((each for each in waiting if _kind(source.locate(each)) == _kind(found)), None)
        if place is not None:
            draws[place] = number
            used.add(found)
            waiting.remove(place)
    if waiting:
        logger.warning(
            "%d of the judge's %d windows are among the %d that an evaluation draws: too few episodes are held out "
            "(data.held_out_every) for others",
            len(waiting),
            count,
            EVALUATED_WINDOWS,
        )
    return draws


def _kind(window: Window) -> tuple[Path, bool]:
    return window.repo, window.frame == 0


def different_windows(source: EpisodeDataset | SegmentDataset, count: int) -> int:
    """Counts how many of the first draws are different windows: of few episodes some come again.

    Raises:
        FileNotFoundError, ValueError: A file of theirs is missing or damaged.
    """
    return len({source.locate(number) for number in range(count)})


def _norm(folder: Path, data: DataConfig) -> ActionNorm:
    """The model's own normalisation; that of its recipe, or of the recordings, where its folder has none."""
    if (folder / ACTION_NORM).is_file():
        return read_norm(folder / ACTION_NORM)
    if (folder / CODEC_FILE).is_file():
        return read_actions(folder / CODEC_FILE, read_mapping(folder / CODEC_FILE))
    if data.q01 is not None:
        return ActionNorm.of_settings(data)
    return read_norm(user_path(data.root) / ACTION_NORM)


def _autoencoder(folder: Path, data: DataConfig) -> FrameAutoencoder | None:
    """The model's own, where the pictures of its data are encoded here one by one."""
    if data.source == "lerobot" or not (folder / CODEC_FILE).is_file() or files_of_codec(folder) is not None:
        return None
    return Codec.load(folder).autoencoder


def _check_shapes(source: Any, wam: WorldActionModel) -> None:
    sample = source.batch([0])
    for name, (channels, height, width) in wam.shapes.items():
        found = sample.clean[name].shape
        if (found[1], *found[3:]) != (channels, height, width):
            raise InputError(
                f"stream {name!r}: the recordings have (channels, rows, columns) {(found[1], *found[3:])}, the model "
                f"{(channels, height, width)}; see data.cameras, data.layout and data.stride of the recipe"
            )
    check_text(sample.text.shape, wam.text_shape[1])
    for name, told in wam.senses.items():
        if (found := sample.history[name].shape[1]) != told:
            raise InputError(
                f"sense {name!r}: the recordings have {found} numbers a row in the column observation.{name}, the "
                f"model is told {told}"
            )
