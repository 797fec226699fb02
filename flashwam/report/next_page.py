# SPDX-License-Identifier: Apache-2.0
"""The last section of a comparison's page: the commands that go on from it."""

import re
import shlex
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from flashwam.report.page import Section
from flashwam.report.recipes import row_recipes, run_recipe
from flashwam.report.row import Row
from flashwam.report.shipped import distill_command
from flashwam.report.study import find_study, study_command
from flashwam.report.verdict import best_student
from flashwam.run.folder import INFO_FILE, RunFolder

__all__ = ["next_section"]

_ENOUGH = 3
"""Trainings from which on the next one is not the first thing to do."""


def next_section(rows: Sequence[Row], further: Sequence[str] = (), *, best: Row | None = None) -> Section | None:
    """The commands for the best student, and others; None where there is nothing to say.

    Args:
        rows: Of the comparison.
        further: Other steps, as they stand on the page.
        best: The best student, where the rows do not tell it.
    """
    best = best_student(rows) or best
    steps = [*([] if best is None else _steps(best)), *further]
    return Section(heading="What to do next", notes=steps) if steps else None


def _steps(best: Row) -> list[str]:
    folder = best.folders[0]
    run = RunFolder(folder)
    steps = []
    model = next((each for each in (run.result("student"), folder) if (each / INFO_FILE).is_file()), None)
    if model is not None:
        steps.append(f"Serve {best.run} to a robot: `flashwam serve {_quoted(model)}`")
    if run.recipe.is_file():
        path = _quoted(folder)
        if best.trainings < _ENOUGH:
            seed, beside = _another(best)
            again = f"`flashwam distill {path} seed={seed} run_dir={_quoted(beside)}`"
            steps.append(f"Train {best.run} from another seed, since only several trainings order methods: {again}")
        if run.metrics.is_file():
            steps.append(f"See what its streams started from and got: `flashwam analyze {path} --checkpoint {path}`")
        return steps
    recipe, study = run_recipe(folder), find_study(folder)
    if not steps and recipe is not None and (command := distill_command(recipe)) is not None:
        steps.append(f"Train {best.run} yourself: `{command}`")
    if study is not None and (command := study_command(study)):
        steps.append(f"Make its whole study again, in a checkout of the repository: `{command}`")
    return steps


def _another(best: Row) -> tuple[int, Path]:
    """The least seed that none of its trainings had, and the folder of a run of it, which is not there yet."""
    recipes = row_recipes(best)
    told = {*best.training_seeds, *(recipe["seed"] for recipe in recipes if isinstance(recipe.get("seed"), int))}
    used = told or set(range(best.trainings))
    folder = best.folders[0]
    name = re.sub(r"_seed\d+$", "", folder.name)
    places = ((seed, folder.with_name(f"{name}_seed{seed}")) for seed in count() if seed not in used)
    return next((seed, place) for seed, place in places if not place.exists())


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
