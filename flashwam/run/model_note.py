# SPDX-License-Identifier: Apache-2.0
"""Notes of which weights something was measured of, in files that lie beside a comparison."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flashwam.system.paths import user_path

__all__ = ["MODELS", "fits_note", "model_note"]

MODELS = "models"
"""Key of such a file: label -> note."""


def model_note(run: Path, step: int | None, *, beside: Path | str) -> dict[str, Any]:
    """Notes some weights of a run.

    Args:
        run: Folder of the run that their evaluations belong to.
        step: Optimiser steps of the weights; None where it is not told.
        beside: Folder of the file that holds the note; both may be moved together.
    """
    run, beside = run.resolve(), user_path(beside).resolve()
    try:
        told = Path(os.path.relpath(run, beside))
    except ValueError:
        # On another drive.
        told = run
    return {"run": told.as_posix(), "step": step}


def fits_note(note: Mapping[str, Any], runs: Iterable[Path], step: int | None, *, beside: Path | str) -> bool:
    """Tells whether a note is of these weights; a step that is not told may be any.

    Args:
        note: See `model_note`.
        runs: Folders of the runs.
        step: Of the weights.
        beside: Folder of the file that holds the note.
    """
    noted = (user_path(beside).resolve() / str(note.get("run"))).resolve()
    return noted in {run.resolve() for run in runs} and (note.get("step") in (None, step) or step is None)
