# SPDX-License-Identifier: Apache-2.0
"""Evaluations without what was measured twice, and of runs with names of their own: nothing is counted twice, and
nothing of one run for another's."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from flashwam.run.evaluation import Evaluation

__all__ = ["distinct_evaluations", "runs_apart"]


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


def runs_apart(evaluations: Sequence[Evaluation], way: Callable[[Evaluation], Hashable]) -> list[Evaluation]:
    """Names runs that share a name by their folders, where one may be taken for another: of one training's seed, seed
    and way of sampling, as distinct evaluations of one run never are, or of another family or size.

    Args:
        evaluations: Of any runs, without repeats.
        way: See `distinct_evaluations`.

    Returns:
        The same; such a run begins with the nearest of the folders above its own whose names differ: "first/pairs",
        or with several, where no single one's do: "lr1/b8/pairs".
    """
    clashes: dict[tuple[str, Hashable], set[Path]] = {}
    for one in evaluations:
        if one.file is not None:
            clashes.setdefault((one.run, (way(one), one.seed, one.training_seed)), set()).add(one.folder)
    for run, folders in _other_networks(evaluations):
        clashes[run, ("network", *sorted(map(str, folders)))] = folders
    above = _levels_apart(clashes)

    def named(one: Evaluation) -> Evaluation:
        if one.file is None or one.run not in above:
            return one
        parents = one.folder.resolve().parents
        return replace(one, run="/".join([*(parents[level].name for level in above[one.run]), one.run]))

    return [named(one) for one in evaluations]


def _other_networks(evaluations: Sequence[Evaluation]) -> Iterator[tuple[str, set[Path]]]:
    """Names of runs whose models are told to be of several families or sizes, each with a folder of every one."""
    found: dict[str, tuple[dict[Hashable, Path], dict[Hashable, Path]]] = {}
    for one in evaluations:
        if one.file is not None:
            families, sizes = found.setdefault(one.run, ({}, {}))
            if one.family:
                families.setdefault(one.family, one.folder)
            if one.parameters:
                sizes.setdefault(tuple(sorted(one.parameters.items())), one.folder)
    for run, facts in found.items():
        for places in facts:
            if len(places) > 1:
                yield run, set(places.values())


def _levels_apart(clashes: Mapping[tuple[str, Hashable], set[Path]]) -> dict[str, list[int]]:
    """Names of runs that lie in several folders -> how many folders up those are whose names tell them apart, the
    farthest first."""
    apart: dict[str, set[int]] = {}
    for (run, _), folders in clashes.items():
        if len(folders) > 1:
            apart.setdefault(run, set()).update(_telling_levels([folder.resolve().parents for folder in folders]))
    return {run: sorted(levels, reverse=True) for run, levels in apart.items()}


def _telling_levels(parents: Sequence[Sequence[Path]]) -> Sequence[int]:
    """The nearest level whose names differ, or all up to the one at which they do together."""
    levels = range(min(map(len, parents)))
    single = ([level] for level in levels)
    together = (range(level + 1) for level in levels)
    for found in (*single, *together):
        if len({tuple(above[level].name for level in found) for above in parents}) == len(parents):
            return found
    return levels


def _episodes(one: Evaluation) -> int:
    return sum(task.episodes for task in one.tasks.values())


def _read_once(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Leaves out what was read from one file before, as where a run is named twice, or beside a study that holds it."""
    found: dict[Hashable, Evaluation] = {}
    for number, one in enumerate(evaluations):
        found.setdefault(number if one.file is None else one.file.resolve(), one)
    return list(found.values())
