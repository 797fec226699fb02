# SPDX-License-Identifier: Apache-2.0
"""The draws that a model's are held against: its teacher's in all steps, or, of a teacher, its own."""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from flashwam.data.fingerprint import files_fingerprint
from flashwam.evaluation.policy import LoadedModel, load_model
from flashwam.recipe.build import plain
from flashwam.recipe.sections import Recipe
from flashwam.run.folder import INFO_FILE, RunFolder
from flashwam.sampling import StreamSampler, samplers_for
from flashwam.student import load_pretrained
from flashwam.system.errors import InputError
from flashwam.system.hub import local_folder
from flashwam.wam.base import WorldActionModel

__all__ = ["Chunks", "reference_draws", "reference_fingerprint"]

logger = logging.getLogger(__name__)

_FILES = (".json", ".safetensors", ".bin", ".pt", ".pth")
Chunks = list[dict[str, Tensor]]
"""Draws as `flashwam.evaluation.open_loop.chunk_draws` returns them."""


def reference_draws(
    model: LoadedModel,
    draw: Callable[[WorldActionModel, Mapping[str, StreamSampler]], Chunks],
    *,
    recipe: Recipe | None,
    teacher: str | Path | None = None,
    dtype: str | None = None,
    trust: bool = False,
) -> Chunks | None:
    """Draws as the teacher does, in its own numbers and where the model is; it is gone from memory afterwards.

    Args:
        model: The one that is judged.
        draw: Draws of a model and its samplers.
        recipe: Says how another tool's checkpoint is read.
        teacher: Folder of the teacher, where it is not where the model says.
        dtype: See `load_model`.
        trust: See `load_model`.

    Returns:
        The draws; None, with a warning, where a student's teacher is not to be found.

    Raises:
        ValueError: `teacher` is no folder, or what lies there cannot be loaded.
    """
    own = next(model.wam.parameters())
    device, info = str(own.device), model.info
    if teacher is None and info.role != "student":
        if model.wam.precision == "own":
            return draw(model.wam, model.samplers("full"))
        whole = load_model(model.folder, device=device, dtype=dtype, trust=trust)
        return draw(whole.wam, whole.samplers("full"))
    folder = _teacher_folder(model, teacher)
    if folder is None:
        logger.warning("nothing is compared with the teacher, which is not at %s: give --teacher FOLDER", info.teacher)
        return None
    if (folder / INFO_FILE).is_file() or recipe is None:
        loaded = load_model(folder, device=device, dtype=dtype, trust=trust)
        return draw(loaded.wam, loaded.samplers("full"))
    # Another tool's weights, sampled as the student's streams say of its teacher.
    released = load_pretrained(folder, recipe.wam, trust=trust).eval().to(own.device, own.dtype)
    return draw(released, samplers_for(info.streams, steps=None, teacher=True))


def reference_fingerprint(
    model: LoadedModel, *, recipe: Recipe | None, teacher: str | Path | None = None
) -> str | None:
    """Tells what `reference_draws` would draw with from another model, without loading it.

    Args:
        model, recipe, teacher: As for `reference_draws`.

    Returns:
        "itself" for the model that is judged, or else a fingerprint of the teacher's files; None where it is not to be
        found.

    Raises:
        ValueError: `teacher` is no folder.
    """
    if teacher is None and model.info.role != "student":
        return "itself"
    folder = _teacher_folder(model, teacher)
    if folder is None:
        return None
    # What is measured of a model that stands alone lies in its folder.
    measured = RunFolder(folder).evaluations.name
    found = [path for path in folder.rglob("*") if path.suffix in _FILES and path.is_file()]
    files = [path for path in found if measured not in path.relative_to(folder).parts]
    read = ""
    if recipe is not None and not (folder / INFO_FILE).is_file():
        read = json.dumps([recipe.wam.family, plain(recipe.wam.config)], sort_keys=True)
    return files_fingerprint(files, base=folder, extra=read)


def _teacher_folder(model: LoadedModel, teacher: str | Path | None) -> Path | None:
    """The folder that is given, fetched where it is of the hub, or the one that a model names; None where that is not
    there."""
    folder = local_folder(teacher or str(model.info.teacher))
    if folder.is_dir():
        return folder
    if teacher is not None:
        raise InputError(f"{folder}: no such folder; the teacher is the model that this was distilled from")
    return None
