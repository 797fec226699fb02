# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: made with its recipe and provenance, or gone on with as what it was."""

import json
from pathlib import Path

from flashwam.recipe.build import plain
from flashwam.recipe.load import RECIPE_FILE, differences, foreign_classes, load_recipe, to_yaml
from flashwam.recipe.sections import Recipe
from flashwam.system.errors import InputError
from flashwam.system.files import write_whole
from flashwam.system.imports import foreign_paths
from flashwam.system.paths import user_path
from flashwam.system.provenance import provenance

__all__ = ["INPUTS_FILE", "PROVENANCE_FILE", "check_run", "prepare_run", "run_folder"]

PROVENANCE_FILE = "provenance.json"
INPUTS_FILE = "inputs.json"
_MOVABLE = ("data.root", "wam.pretrained", "autoencoder.pretrained", "train.init", "distill.init")


def run_folder(recipe: Recipe, run_dir: str | Path | None = None) -> Path:
    """Where a recipe's run lives: `run_dir`, else the recipe's own, else runs/<name>."""
    return user_path(run_dir or recipe.run_dir or Path("runs") / recipe.name)


def prepare_run(recipe: Recipe, run_dir: str | Path | None = None) -> Path:
    """Creates a run's folder with the resolved recipe and its provenance, or accepts one of the same recipe.

    Args:
        recipe: The recipe.
        run_dir: See `run_folder`.

    Returns:
        The folder.

    Raises:
        ValueError: The folder holds a run of another recipe, or something that is no run.
    """
    folder = check_run(recipe, run_dir)
    kept = folder / RECIPE_FILE
    if kept.is_file():
        return folder
    write_whole(folder / PROVENANCE_FILE, (json.dumps(provenance(), indent=2) + "\n").encode())
    # The recipe is written last: a folder with one is complete.
    write_whole(kept, to_yaml(recipe).encode())
    return folder


def check_run(recipe: Recipe, run_dir: str | Path | None = None) -> Path:
    """The folder that `prepare_run` would make or accept; nothing is written.

    Raises:
        ValueError: It would refuse.
    """
    folder = run_folder(recipe, run_dir)
    kept = folder / RECIPE_FILE
    if kept.is_file():
        # What the recipe at hand names too, its user has named.
        foreign = foreign_classes(kept).keys() - foreign_paths(plain(recipe)).keys()
        if foreign:
            raise InputError(
                f"{folder} holds a run of another recipe, and runs are never overwritten; it names "
                f"{', '.join(sorted(foreign))}. Give another --run-dir or name=..., or delete the folder."
            )
        # A run may be moved, so where it lies is no difference; nor is where its inputs lie, once their content is
        # noted there.
        changed = differences(load_recipe(kept), recipe, ignore=("run_dir",))
        if (folder / INPUTS_FILE).is_file():
            changed = {k: pair for k, pair in changed.items() if k not in _MOVABLE or None in pair}
        if changed:
            listed = "".join(f"\n  {key}: {old!r} there, {new!r} now" for key, (old, new) in changed.items())
            raise InputError(
                f"{folder} holds a run of another recipe, and runs are never overwritten; it differs in{listed}\n"
                f"Give another --run-dir or name=..., or delete the folder."
            )
        return folder
    if folder.exists() and (not folder.is_dir() or any(p.name != PROVENANCE_FILE for p in folder.iterdir())):
        raise InputError(f"{folder} exists but is no run folder (no {RECIPE_FILE}); give another --run-dir")
    return folder
