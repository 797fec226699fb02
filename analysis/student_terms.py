# SPDX-License-Identifier: Apache-2.0
"""The terms on which students are compared, a row each: what no success rate shows and what an order may rest on."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from student_cells import CONSISTENCY, RATE, ROUTES, STUDENTS, TEACHER, Place
from studies import Study

from flashwam.demo.presets import PRESETS
from flashwam.recipe.build import plain
from flashwam.recipe.layers import read_yaml
from flashwam.recipe.load import load_recipe
from flashwam.report.results import read_evaluations
from flashwam.run.folder import RunFolder

_HEAD = ("model", "trainings", "steps x batch", "learning rate", "rates tried", "weights", "told the robot's state")


def terms_table(place: Place, runs: Iterable[Path]) -> str:
    """The terms of every run as Markdown, from the recipes that they were made by.

    Args:
        place: The study. Recipes are those of its runs and of the benchmark's, or what is kept of them.
        runs: Folders of what was driven; other learning rates are runs of their own.
    """
    trainings = Counter(name for name, _ in {(each.run, each.folder) for run in runs for each in read_evaluations(run)})
    own = place.study.kept_recipes()
    benchmark = Study(out=place.benchmark, results=place.results.parent / place.benchmark.name).kept_recipes()
    lines = ["| " + " | ".join(_HEAD) + " |", "|---|---:|---|---|---|---|---|"]
    for name in dict.fromkeys(run for runs in ROUTES.values() for run in runs if run in trainings):
        known = name == TEACHER or name in CONSISTENCY
        path = (place.benchmark_run if known else place.run)(name, 0)
        recipe = _recipe(path, benchmark if known else own)
        if recipe is None and name == TEACHER:
            # The one that the package brings along leaves no run.
            recipe = plain(load_recipe(place.path(f"metaworld/{TEACHER}")))
        if recipe is not None:
            lines.append("| " + " | ".join((name, str(trainings[name]), *_terms(name, recipe, trainings))) + " |")
    return "\n".join(lines)


def _recipe(path: Path, kept: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The recipe of a run, or of what is kept of it; None where there is neither."""
    file = RunFolder(path).recipe
    return read_yaml(file.read_bytes(), str(file)) if file.is_file() else kept.get(f"runs/{path.name}")


def _terms(name: str, recipe: Mapping[str, Any], tried: Collection[str]) -> Iterator[str]:
    loop = recipe.get("distill") or recipe["train"]
    yield f"{loop['steps']:,} x {loop['batch_size'] * loop.get('accumulation', 1)}"
    yield f"{loop['lr']:g}"
    yield _rates(name, tried)
    averaged = loop["save_weights"] == "target"
    yield f"averaged ({loop['ema_decay']:g})" if averaged else "last"
    yield "yes" if recipe["wam"]["config"].get("state_dim") else "no"


def _rates(name: str, tried: Collection[str]) -> str:
    if name in CONSISTENCY:
        return f"{len(PRESETS['full'].rates)}, by the error of its actions against the teacher's"
    others = [other for other in STUDENTS if other.startswith(f"{name}{RATE}") and other in tried]
    return f"{1 + len(others)}, by success with the first seed" if others else "1"
