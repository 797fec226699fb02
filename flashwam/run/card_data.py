# SPDX-License-Identifier: Apache-2.0
"""The part of a model card that tells of the data."""

from pathlib import Path

from flashwam.recipe.sections import DataConfig, Recipe
from flashwam.run.origin import Origin

__all__ = ["data_lines"]

_SIMULATORS = {"metaworld": "MetaWorld", "libero": "LIBERO"}


def data_lines(recipe: Recipe | None, origin: Origin) -> list[str]:
    """Tells what a model was trained on, a line each, by no path of a machine.

    Args:
        recipe: Its; None where that is not told.
        origin: Names those of its data sets that lie on the hub.
    """
    if recipe is None:
        return ["Nothing here says what it was trained on."]
    lines = _simulated(recipe.data) if recipe.data.simulated else _recorded(recipe.data)
    if origin.datasets:
        lines.append("On the hub: " + ", ".join(f"[{n}](https://huggingface.co/datasets/{n})" for n in origin.datasets))
    return lines


def _simulated(data: DataConfig) -> list[str]:
    return [
        f"demonstrations of a scripted expert in {_SIMULATORS[data.source]}: {data.episodes} of a task, "
        f"{data.multimodal_episodes} of one that has several ways",
        f"tasks: {', '.join(data.tasks)}",
        f"pictures of {data.image_size} x {data.image_size} pixels; noise of deviation {data.action_noise:g} in bursts "
        "on what the expert executed",
    ]


def _recorded(data: DataConfig) -> list[str]:
    sets = ", ".join("every set" if name == "*" else f"`{name}`" for name in data.tasks)
    rows, columns = data.camera_size
    held_out = "none" if data.held_out_every is None else f"one in {data.held_out_every} of every set"
    return [
        f"recorded episodes, LeRobot data sets of `{Path(data.root).name}`: {sets}",
        f"cameras: {', '.join(f'`{camera}`' for camera in data.cameras)}, the first at {rows} x {columns} pixels, one "
        f"picture every {data.stride} control step(s)",
        f"episodes held out: {held_out}",
    ]
