# SPDX-License-Identifier: Apache-2.0
"""The last section of a comparison's page: the commands that go on from it."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from flashwam.recipe.load import find_recipe
from flashwam.report.page import Section
from flashwam.report.row import Row
from flashwam.report.verdict import best_student
from flashwam.run.folder import RunFolder
from flashwam.system.errors import InputError

__all__ = ["next_section"]

_ENOUGH = 3
"""Trainings from which on the next one is not the first thing to do."""


def next_section(rows: Sequence[Row], further: Sequence[str] = ()) -> Section | None:
    """The commands for the best student, and others; None where there is nothing to say.

    Args:
        rows: Of the comparison.
        further: Other steps, as they stand on the page.
    """
    best = best_student(rows)
    steps = [*([] if best is None else _steps(best)), *further]
    return Section(heading="What to do next", notes=steps) if steps else None


def _steps(best: Row) -> list[str]:
    folder = best.folders[0]
    run = RunFolder(folder)
    steps = []
    if run.result("student").is_dir():
        steps.append(f"Serve {best.run} to a robot: `flashwam serve {_quoted(run.result('student'))}`")
    if run.recipe.is_file():
        path = _quoted(folder)
        if best.trainings < _ENOUGH:
            other = f"seed={best.trainings} run_dir={_quoted(_beside(folder, best.trainings))}"
            again = f"`flashwam distill {path} {other}`"
            steps.append(f"Train {best.run} from another seed, since only several trainings order methods: {again}")
        if run.metrics.is_file():
            steps.append(f"See what its streams started from and got: `flashwam analyze {path} --checkpoint {path}`")
    elif not steps and _is_recipe(best.run):
        steps.append(f"Train {best.run} yourself: `flashwam distill {best.run}`")
    return steps


def _is_recipe(name: str) -> bool:
    try:
        find_recipe(name)
    except (FileNotFoundError, InputError):
        return False
    return True


def _beside(folder: Path, seed: int) -> Path:
    return folder.with_name(f"{folder.name}_seed{seed}")


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
