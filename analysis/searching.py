# SPDX-License-Identifier: Apache-2.0
"""The search for a learning rate: judged by actions alone, and never ended at the edge of what was tried."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flashwam.core.checks import UnsoundError
from flashwam.evaluation.local import evaluate
from flashwam.pipeline.training import distill
from flashwam.recipe.sections import Recipe
from flashwam.system.errors import DivergedError, InputError
from flashwam.system.files import write_whole
from flashwam.system.json_file import read_mapping

LADDER = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
"""Learning rates that a search may come to."""
FIRST_RATES = (3e-4, 1e-3, 3e-3)
"""Those it begins with."""


def search_rate(error: Mapping[float, float]) -> float | None:
    """The next learning rate to try, where the best of those tried stands at an end; None where it is inside.

    Args:
        error: Neighbours of `LADDER` that were tried -> error.

    Raises:
        ValueError: The best one is the ladder's own end.
    """
    best, tried = LADDER.index(min(error, key=error.__getitem__)), sorted(LADDER.index(rate) for rate in error)
    further = best - 1 if best == tried[0] else best + 1 if best == tried[-1] else None
    if further is None:
        return None
    if not 0 <= further < len(LADDER):
        raise InputError(f"the best learning rate stands at the end of {LADDER}: {dict(error)}; make that longer")
    return LADDER[further]


def action_error(recipe: Recipe, run: Path, nfe: str) -> float:
    """Distils; the error of its actions to the teacher's draws, infinite where it diverges or draws no numbers."""
    try:
        distill(recipe, run_dir=run)
        (result,) = evaluate(run, nfe=(nfe,), closed_loop=False)
    except (DivergedError, UnsoundError) as error:
        print(f"{run.name}: {error}")
        return math.inf
    found: float | None = result["open_loop"]["action_error_teacher"]
    return found if found is not None and math.isfinite(found) else math.inf


def choose_rate(
    attempt: Callable[[float, int], float], *, rates: Sequence[float], seeds: Sequence[int], tried: Path
) -> dict:
    """Finds the learning rate of the least error, mean over trainings, from inside of what was tried.

    Args:
        attempt: (learning rate, seed) -> error.
        rates: To begin with.
        seeds: Of the trainings.
        tried: File of the errors so far, with which a search goes on, here or on another machine.
    """
    attempt = _once(attempt, tried)
    errors: dict[float, list[float]] = {}
    waiting = list(rates)
    while waiting:
        for rate in waiting:
            errors[rate] = [attempt(rate, seed) for seed in seeds]
        mean = {rate: math.fsum(each) / len(each) for rate, each in errors.items()}
        further = search_rate(mean)
        waiting = [] if further is None else [further]
    told = {f"{r:g}": None if math.isinf(mean[r]) else mean[r] for r in sorted(mean)}
    return {"lr": min(mean, key=mean.__getitem__), "trainings": len(seeds), "action_error_teacher": told}


def _once(attempt: Callable[[float, int], float], tried: Path) -> Callable[[float, int], float]:
    """Attempts what was not tried before, and writes down what came of it."""
    known: dict[str, dict[str, float | None]] = read_mapping(tried) if tried.is_file() else {}

    def error(rate: float, seed: int) -> float:
        found = known.setdefault(f"{rate:g}", {})
        if str(seed) not in found:
            told = attempt(rate, seed)
            found[str(seed)] = told if math.isfinite(told) else None
            write_whole(tried, (json.dumps(known, indent=1) + "\n").encode())
        kept = found[str(seed)]
        return math.inf if kept is None else kept

    return error


def write_rate(path: Path, chosen: Mapping) -> None:
    """Writes what a search found."""
    write_whole(path, (json.dumps(chosen, indent=1) + "\n").encode())
