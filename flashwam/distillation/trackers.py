# SPDX-License-Identifier: Apache-2.0
"""Trackers beside TensorBoard: accelerate's by name, or one's own by import path."""

import hashlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from flashwam.run.folder import RunFolder
from flashwam.run.inputs import began
from flashwam.system.errors import MissingPackageError
from flashwam.system.imports import find_class

__all__ = ["check_trackers", "make_trackers", "show_picture"]

PROJECT = "flashwam"
_KNOWN = {name: kind for name, kind in LOGGER_TYPE_TO_CLASS.items() if name != "tensorboard"}
_NAMED = {"wandb": "name", "trackio": "name", "swanlab": "experiment_name"}
"""Tracker -> the keyword by which it names a run."""
_SHOWING = ("wandb", "swanlab", "clearml")
"""Trackers of accelerate whose `log_images` takes a list of arrays for each name."""


def check_trackers(names: Sequence[str]) -> None:
    """Refuses trackers that there are not.

    Args:
        names: Names or import paths.

    Raises:
        ValueError: Nobody knows one.
        ImportError: Its package is not installed.
    """
    for name in names:
        _tracker_class(name)


def make_trackers(names: Sequence[str], run: RunFolder, config: Mapping[str, Any]) -> list[GeneralTracker]:
    """Starts trackers; the main process alone does.

    The project is "flashwam", or what WANDB_PROJECT says to Weights & Biases; a run has the name of its folder. Weights
    & Biases goes on with the run of this folder, where it was interrupted.

    Args:
        names: See `check_trackers`.
        run: The run's folder.
        config: Dotted name -> value of every setting of the run.
    """
    made = []
    for name in names:
        kind, given, project = _tracker_class(name), dict[str, Any](), PROJECT
        if (keyword := _NAMED.get(name)) is not None:
            given[keyword] = run.name
        if name == "wandb":
            project = os.environ.get("WANDB_PROJECT", PROJECT)
            if (provenance := began(run)) is not None:
                given |= {"id": hashlib.sha256(provenance).hexdigest()[:16], "resume": "allow"}
        places = (str(run.path / kind.name),) if kind.requires_logging_directory else ()
        tracker = kind(project, *places, **given)
        tracker.start()
        tracker.store_init_configuration(dict(config))
        made.append(tracker)
    return made


def show_picture(trackers: Sequence[GeneralTracker], name: str, picture: Any, step: int) -> None:
    """Shows a picture, uint8 [height, width, 3], in those trackers that show any.

    Args:
        trackers: Started ones; one of another's package shows it if it has `log_images`, as {name: [picture]}.
        name: Of the picture.
        picture: The picture.
        step: It is of.
    """
    for tracker in trackers:
        of_accelerate = _KNOWN.get(tracker.name) is type(tracker)
        if hasattr(tracker, "log_images") and (tracker.name in _SHOWING or not of_accelerate):
            tracker.log_images({name: [picture]}, step=step)


def _tracker_class(name: str) -> type[GeneralTracker]:
    kind: type[GeneralTracker] = find_class(name, GeneralTracker, known=_KNOWN, what="tracker")
    if name in _KNOWN and importlib.util.find_spec(name) is None:
        raise MissingPackageError(f"the tracker {name} needs its package: pip install {name.replace('_', '-')}")
    return kind
