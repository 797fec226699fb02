# SPDX-License-Identifier: Apache-2.0
"""The draws that a model's are held against: its teacher's in all steps, or, of a teacher, its own."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from flashwam.evaluation.policy import LoadedModel, load_model
from flashwam.recipe.sections import Recipe
from flashwam.run.folder import INFO_FILE
from flashwam.sampling import StreamSampler, samplers_for
from flashwam.student import load_pretrained
from flashwam.system.errors import InputError
from flashwam.system.paths import user_path
from flashwam.wam.base import WorldActionModel

__all__ = ["Chunks", "reference_draws"]

logger = logging.getLogger(__name__)

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
    folder = user_path(str(teacher or info.teacher))
    if not folder.is_dir():
        if teacher is not None:
            raise InputError(f"{folder}: no such folder; the teacher is the model that this was distilled from")
        logger.warning("nothing is compared with the teacher, which is not at %s: give --teacher FOLDER", folder)
        return None
    if (folder / INFO_FILE).is_file() or recipe is None:
        loaded = load_model(folder, device=device, dtype=dtype, trust=trust)
        return draw(loaded.wam, loaded.samplers("full"))
    # Another tool's weights, sampled as the student's streams say of its teacher.
    released = load_pretrained(folder, recipe.wam, trust=trust).eval().to(own.device, own.dtype)
    return draw(released, samplers_for(info.streams, steps=None, teacher=True))
