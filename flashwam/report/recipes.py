# SPDX-License-Identifier: Apache-2.0
"""The recipes that the rows of a comparison were made by."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashwam.recipe.layers import read_yaml
from flashwam.report.row import Row
from flashwam.report.study import find_study, study_recipes
from flashwam.run.folder import INFO_FILE, RunFolder
from flashwam.system.json_file import read_mapping

__all__ = ["row_recipes", "run_recipe"]


def row_recipes(row: Row) -> list[Mapping[str, Any]]:
    """The recipe of each of a row's trainings, as plain values; of those whose folder holds one."""
    return [found for folder in row.folders if (found := run_recipe(folder)) is not None]


def run_recipe(folder: Path) -> Mapping[str, Any] | None:
    """The recipe of a run, from its folder, its study's file, or what a model's folder says; None where none is told.

    Nothing that it names is imported, and it is not checked: older versions wrote other keys.

    Raises:
        ValueError: A file is no YAML or no JSON.
    """
    study = find_study(folder)
    if study is not None:
        return study_recipes(study).get(folder)
    run = RunFolder(folder)
    if run.recipe.is_file():
        told = read_yaml(run.recipe.read_bytes(), str(run.recipe))
        return told if isinstance(told, Mapping) else None
    for place in (folder, *run.results):
        if (place / INFO_FILE).is_file():
            told = read_mapping(place / INFO_FILE, finite=False).get("recipe")
            return told if isinstance(told, Mapping) else None
    return None
