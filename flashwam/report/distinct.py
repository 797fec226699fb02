# SPDX-License-Identifier: Apache-2.0
"""Evaluations without what was measured twice: the same scenes of the same weights are counted once."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

from flashwam.run.evaluation import Evaluation

__all__ = ["distinct_evaluations"]


def distinct_evaluations(evaluations: Sequence[Evaluation], way: Callable[[Evaluation], Hashable]) -> list[Evaluation]:
    """Leaves out repeats, in the order that they came in.

    A teacher's own steps may have been asked for as "full" and by their numbers: that is one measurement, of the same
    scenes. Of a folder, a seed and a way of sampling, each task is taken from the evaluation of most episodes. What
    tells no file or no seed may be anything, and is kept.

    Args:
        evaluations: Of any runs.
        way: Tells which weights of a run were sampled how.
    """
    groups: dict[Hashable, list[int]] = {}
    once = _read_once(evaluations)
    for number, one in enumerate(once):
        untold = one.file is None or one.seed is None
        which = number if untold else (one.folder.resolve(), one.seed, one.training_seed, way(one))
        groups.setdefault(which, []).append(number)
    kept: dict[int, Evaluation] = {}
    for numbers in groups.values():
        first, *later = sorted(numbers, key=lambda number: (-_episodes(once[number]), once[number].open_loop is None))
        kept[first] = once[first]
        told = set(once[first].tasks)
        for number in later:
            if new := {name: task for name, task in once[number].tasks.items() if name not in told}:
                told |= set(new)
                kept[number] = replace(once[number], tasks=new)
    return [kept[number] for number in sorted(kept)]


def _episodes(one: Evaluation) -> int:
    return sum(task.episodes for task in one.tasks.values())


def _read_once(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Leaves out what was read from one file before, as where a run is named twice, or beside a study that holds it."""
    found: dict[Hashable, Evaluation] = {}
    for number, one in enumerate(evaluations):
        found.setdefault(number if one.file is None else one.file.resolve(), one)
    return list(found.values())
