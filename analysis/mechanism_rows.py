# SPDX-License-Identifier: Apache-2.0
"""The results of the mechanism's study: each cell beside its teacher, and the gap of its block taken apart."""

import statistics
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cells import TEACHER
from mechanism_cells import EULER, FOUR, SEARCHED, TINY, Cell, Extent, Place
from mechanism_jobs import NFE, SAMPLERS

from flashwam.core.pairing import Outcomes, Paired, pair_outcomes, paired_ratio, paired_share_difference
from flashwam.report.results import read_evaluations
from flashwam.run.evaluation import Evaluation
from flashwam.run.folder import RunFolder

GROUPS = {"two-way": True, "one-way": False}
"""Name of a group of tasks -> whether they have several ways."""
ERROR = "action_error_teacher"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way of sampling the trainings of a cell, or a control.

    Args:
        cell: None for a control.
        kind: How its learning rate was found, "tiny" or "searched"; the name of a control.
        rate: The learning rate; None for a control.
        sampler: "own" or another of `SAMPLERS`.
        evaluations: One a seed.
    """

    cell: Cell | None
    kind: str
    rate: float | None
    sampler: str
    evaluations: tuple[Evaluation, ...]

    @property
    def trainings(self) -> int:
        """The number of models they are of."""
        return len({one.folder for one in self.evaluations})

    @property
    def errors(self) -> list[float]:
        """Action error of every training to the teacher's draws from the same noise."""
        return [float(one.open_loop[ERROR]) for one in self.evaluations if one.open_loop]

    def outcomes(self, several: bool) -> Outcomes:
        """Seed -> (task, scene) -> success, of one group of tasks."""
        return {
            one.seed: {
                (name, (one.seed, episode)): bool(won)
                for name, task in one.tasks.items()
                if task.multimodal == several
                for episode, won in enumerate(task.outcomes or ())
            }
            for one in self.evaluations
        }

    def successes(self, several: bool) -> tuple[int, int]:
        """Successes and episodes of one group of tasks."""
        tasks = [task for one in self.evaluations for task in one.tasks.values() if task.multimodal == several]
        return sum(task.success for task in tasks), sum(task.episodes for task in tasks)

    @property
    def ways(self) -> tuple[int, int, int]:
        """Episodes of the two-way tasks whose hand went left, right, or neither way."""
        tasks = [task for one in self.evaluations for task in one.tasks.values() if task.multimodal]
        left, right, none = (sum(task.ways.get(way, 0) for task in tasks) for way in ("0", "1", "-1"))
        return left, right, none

    @property
    def commitment(self) -> float | None:
        """Share of first chunks on the two-way tasks that clearly leave to one side."""
        told = [
            task.commitment for one in self.evaluations for task in one.tasks.values() if task.commitment is not None
        ]
        return statistics.fmean(told) if told else None

    def to_json(self, teacher: "Row | None") -> dict[str, Any]:
        """Plain values, each group of tasks with its ratio to the teacher."""
        groups: dict[str, Any] = {}
        for name, several in GROUPS.items():
            won, episodes = self.successes(several)
            groups[name] = {"success": won, "episodes": episodes, "of_teacher": _told(self.ratio(teacher, several))}
        return {
            "cell": None if self.cell is None else asdict(self.cell),
            "kind": self.kind,
            "lr": self.rate,
            "sampler": self.sampler,
            "setting": self.evaluations[0].setting,
            "seeds": [one.seed for one in self.evaluations],
            "trainings": self.trainings,
            ERROR: self.errors,
            **groups,
            "ways": dict(zip(("left", "right", "none"), self.ways, strict=True)),
            "commitment": self.commitment,
        }

    def of_seeds(self, seeds: Collection[int | None]) -> "Row":
        """The same over some seeds."""
        return replace(self, evaluations=tuple(one for one in self.evaluations if one.seed in seeds))

    def ratio(self, teacher: "Row | None", several: bool) -> Paired | None:
        """Successes over the teacher's in the same scenes; None for the teacher itself, or where there is none."""
        if teacher is None or teacher is self:
            return None
        return paired_ratio(pair_outcomes(self.outcomes(several), teacher.outcomes(several)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """The distance from `linear` to `lcm` in a block at one kind of learning rate, in three parts that add up to it.

    Args:
        cell: Any of the block.
        kind: "tiny" or "searched".
        trainings: Of each of the four.
        error: Part -> action error that it adds.
        two_way: Part -> difference of success on the two-way tasks, paired; empty where nothing was driven.
    """

    cell: Cell
    kind: str
    trainings: int
    error: Mapping[str, float]
    two_way: Mapping[str, Paired]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        two_way = {part: _told(paired) for part, paired in self.two_way.items()}
        told = {"block": self.cell.block, "kind": self.kind, "trainings": self.trainings}
        return {**told, ERROR: dict(self.error), "two-way": two_way}


def read_rows(place: Place, extent: Extent) -> list[Row]:
    """Every row that there is something of, the controls first."""
    teacher = place.demo.teacher_run
    controls = {
        TEACHER: _row(TEACHER, [teacher], setting="full"),
        "untrained, linear": _row("untrained, linear", [teacher], setting=NFE),
    }
    rows = []
    for block in extent.blocks():
        for cell in block:
            for kind in cell.kinds:
                if kind == SEARCHED and not place.rate_file(cell.searched).is_file():
                    continue
                rate = place.rate(cell, kind)
                runs = [place.run(cell, kind, seed) for seed in extent.seeds_of(cell)]
                rows += [
                    replace(_row(kind, runs, sampler=sampler, step=cell.steps), cell=cell, rate=rate)
                    for sampler in SAMPLERS
                ]
            if cell.start == cell.weight != EULER and TINY in cell.kinds:
                name = f"untrained, {cell.start} ({cell.varied})"
                controls.setdefault(name, _row(name, [place.run(cell, TINY, 0)], step=0))
    return [row for row in (*controls.values(), *rows) if row.evaluations]


def _row(kind: str, runs: Iterable[Path], *, sampler: str = "own", **same: Any) -> Row:
    same["sampler"] = sampler
    told = [one for run in runs if RunFolder(run).evaluation_files for one in read_evaluations(run)]
    driven = [one for one in told if one.tasks and all(getattr(one, key) == value for key, value in same.items())]
    evaluations = tuple(sorted(driven, key=lambda one: one.seed))
    return Row(cell=None, kind=kind, rate=None, sampler=sampler, evaluations=evaluations)


def take_apart(rows: Iterable[Row]) -> list[Gap]:
    """The gaps of all blocks whose four cells are there, over the seeds that all four have."""
    blocks: dict[tuple[str, str], dict[tuple[str, str], Row]] = {}
    for row in rows:
        if row.cell is not None and row.sampler == "own":
            four = blocks.setdefault((row.cell.block, row.kind), {})
            four[row.cell.start, row.cell.weight] = row
    gaps = []
    for four in blocks.values():
        common = set.intersection(*({one.seed for one in row.evaluations} for row in four.values()))
        if len(four) == len(FOUR) and common:
            gaps.append(_gap({key: row.of_seeds(common) for key, row in four.items()}))
    return gaps


def _gap(four: Mapping[tuple[str, str], Row]) -> Gap:
    linear, start, weight, lcm = (four[key] for key in FOUR)
    error: dict[str, float] = {}
    if all(row.errors for row in four.values()):
        mean = {key: statistics.fmean(row.errors) for key, row in four.items()}
        base = mean[FOUR[0]]
        error = {"all": mean[FOUR[3]] - base, "start": mean[FOUR[1]] - base, "weight": mean[FOUR[2]] - base}
        error["together"] = error["all"] - error["start"] - error["weight"]
    parts = {"all": lcm, "start": start, "weight": weight}
    two_way = {}
    for part, row in parts.items():
        pairs = pair_outcomes(row.outcomes(True), linear.outcomes(True))
        if pairs:
            two_way[part] = paired_share_difference(pairs)
    assert linear.cell is not None
    return Gap(cell=linear.cell, kind=linear.kind, trainings=linear.trainings, error=error, two_way=two_way)


def _told(paired: Paired | None) -> dict[str, Any] | None:
    return None if paired is None else paired.to_json()
