# SPDX-License-Identifier: Apache-2.0
"""Descriptions of what a path holds and which command makes or takes it, for errors that point the right way."""

from pathlib import Path

from flashwam.run.folder import RunFolder

__all__ = ["instead_of_a_model"]


def instead_of_a_model(path: Path) -> str:
    """Says why a path is no model that flashwam saved, and what to do about it."""
    train = "`flashwam train` makes a teacher and `flashwam distill` a student"
    if not path.exists():
        return f"there is no such folder; expected a teacher, a student or their run: {train}"
    if not path.is_dir():
        return "it is a file; expected the folder of a teacher, a student or their run"
    if RunFolder(path).recipe.is_file():
        return "it is a run that has no result yet: the command that began it continues it"
    if (path / "meta" / "info.json").is_file() or next(path.glob("*/meta/info.json"), None) is not None:
        return f"it is a data set, not a model: {train} from one"
    if (path / "transformer").is_dir() or (path / "config.json").is_file():
        return (
            "expected a folder that flashwam saved. For a checkpoint of another tool name one of its family's presets, "
            "such as preset='robotwin' (flashwam serve --preset robotwin)"
        )
    held = ", ".join(sorted(each.name for each in path.iterdir())[:5]) or "nothing"
    return f"it holds {held}; expected a teacher, a student or their run: {train}"
