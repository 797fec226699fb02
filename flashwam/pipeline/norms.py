# SPDX-License-Identifier: Apache-2.0
"""The normalisation of actions that a recipe uses, the teacher's or the data's own, and how far the two are apart."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from flashwam.data.actions import ActionNorm, read_norm
from flashwam.data.bad_files import BadFiles
from flashwam.data.converted import check_measured
from flashwam.data.coverage import LEAST_SPAN, MOST_OUTSIDE, ControlFit, coverage, worst
from flashwam.data.latents import ACTION_NORM
from flashwam.data.quantiles import control_rows, norm_of
from flashwam.recipe.sections import Recipe
from flashwam.system.errors import InputError, MissingFileError

__all__ = ["NormChoice", "action_norm", "choose_norm", "refuse_other_norm", "say_norm"]

logger = logging.getLogger(__name__)

_SEGMENTS = 200
_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class NormChoice:
    """A normalisation and where it comes from.

    Attributes:
        norm: The normalisation.
        origin: The file or keys of the recipe.
        measured: It was taken from the data that the recipe names.
    """

    norm: ActionNorm
    origin: str
    measured: bool


def choose_norm(recipe: Recipe) -> NormChoice:
    """Chooses how the recipe's actions are normalised: as `data.norm` says.

    Where it says nothing, a recipe that starts from a model trained here keeps that model's normalisation. Otherwise it
    is what the `data` section says (`data.q01`, `data.q99`: those of the published teacher), or where that is silent,
    what a conversion measured.

    Raises:
        FileNotFoundError: There is none.
        ValueError: A file is damaged, or does not agree with the recipe.
    """
    data, given = recipe.data, recipe.wam.pretrained
    if data.norm == "data":
        return _of_data(recipe)
    of_model = None if given is None else Path(given) / ACTION_NORM
    if of_model is not None and of_model.is_file():
        norm = _read_norm(of_model)
        if data.norm is None and data.q01 is not None and ActionNorm.of_settings(data) != norm:
            raise InputError(
                f"{of_model}: the model was trained with another normalisation than data.q01, data.q99 say; set "
                "data.norm=teacher to keep the model's"
            )
        return NormChoice(norm=norm, origin=str(of_model), measured=False)
    if data.q01 is not None:
        return NormChoice(
            norm=ActionNorm.of_settings(data), origin="data.q01 and data.q99 of the recipe", measured=False
        )
    if data.norm == "teacher":
        raise MissingFileError(
            f"data.norm is teacher, but neither does the recipe say data.q01 and data.q99, nor has {given} an "
            f"{ACTION_NORM}"
        )
    return _of_data(recipe)


def refuse_other_norm(recipe: Recipe) -> None:
    """Refuses to distil a teacher that was trained here on data normalised otherwise than `data.norm: data` says."""
    if recipe.data.norm != "data":
        return
    of_model = Path(recipe.wam.pretrained or "") / ACTION_NORM
    if recipe.wam.pretrained is None or not of_model.is_file():
        return
    data = _of_data(recipe)
    if _read_norm(of_model) != data.norm:
        raise InputError(
            f"data.norm is data, but the teacher acts by {of_model}, which is not {data.origin}: set "
            "data.norm=teacher, or train a teacher on these data first"
        )


def action_norm(recipe: Recipe) -> ActionNorm:
    """The normalisation of `choose_norm`."""
    return choose_norm(recipe).norm


def _of_data(recipe: Recipe) -> NormChoice:
    """Reads the quantiles that a conversion measured; with `data.norm: data`, measures them now if none has."""
    data, path = recipe.data, Path(recipe.data.root) / ACTION_NORM
    if data.norm == "data" and not path.is_file():
        norm = norm_of(
            _rows(recipe, most=None),
            channels=data.action_channels,
            used=data.used_channels or None,
            clip=data.action_clip,
            unscaled=data.unscaled_controls,
        )
        return NormChoice(norm=norm, origin=f"the rows below {data.root}", measured=True)
    check_measured(data)
    norm = replace(_read_norm(path), clip=data.action_clip)
    if norm.channels != data.action_channels or (data.used_channels and norm.used != data.used_channels):
        raise InputError(
            f"{path}: maps onto channels {norm.used} of {norm.channels}, the recipe onto {data.used_channels} of "
            f"{data.action_channels}"
        )
    return NormChoice(norm=norm, origin=str(path), measured=True)


def _read_norm(path: Path) -> ActionNorm:
    try:
        return read_norm(path)
    except FileNotFoundError:
        raise MissingFileError(f"{path} is missing: set data.q01 and data.q99, or convert the raw data again") from None
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: no action normalisation ({error})") from error


def _rows(recipe: Recipe, *, most: int | None) -> np.ndarray:
    data = recipe.data
    return control_rows(
        data.root,
        cameras=data.cameras,
        relative=data.relative_poses,
        tasks=data.tasks,
        most=most,
        bad=BadFiles(skip=data.skip_bad),
    )


def say_norm(recipe: Recipe, *, choose: bool = False, every: bool = False) -> list[ControlFit]:
    """Says which normalisation is used and how it fits the data, worst control first.

    Args:
        recipe: Its `data.source` is "lerobot".
        choose: Refuse a normalisation that is not of such data, unless `data.norm` chooses it.
        every: Look at all segments instead of some, evenly spread.

    Returns:
        How it fits each control.

    Raises:
        ValueError: See `choose`; or a file is damaged.
    """
    choice = choose_norm(recipe)
    fits = worst(coverage(_rows(recipe, most=None if every else _SEGMENTS), choice.norm))
    foreign = [fit for fit in fits if fit.is_foreign]
    shown = "; ".join(str(fit) for fit in (foreign or fits)[:_SHOWN])
    said = f"actions are normalised by {choice.origin}; against the data: {shown}"
    if foreign and choose and recipe.data.norm is None and not choice.measured:
        raise InputError(
            f"{said}. {len(foreign)} of {len(fits)} controls lie outside for more than {MOST_OUTSIDE:.0%} of the rows "
            f"or use less than {LEAST_SPAN:.0%} of the range: set data.norm=data to take the data's own quantiles, or "
            "data.norm=teacher to keep these"
        )
    logger.log(logging.WARNING if foreign else logging.INFO, "%s", said)
    return fits
