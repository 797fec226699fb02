# SPDX-License-Identifier: Apache-2.0
"""The cells of success over latency, as `real_time.yaml` has them: a model, a seed, a robot's habit and a latency."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cells import TEACHER, take
from one_step_cells import STUDENTS, Place
from one_step_jobs import one_step_jobs

from flashwam.demo import work
from flashwam.evaluation.policy import load_policy
from flashwam.evaluation.real_time import evaluate_real_time, local_loop_ms
from flashwam.recipe.layers import read_yaml
from flashwam.run.real_time import RealTime, both_habits
from flashwam.system.errors import InputError
from flashwam.system.files import write_whole
from flashwam.system.jobs import Job
from flashwam.system.json_file import build

FILE = Path(__file__).with_name("real_time.yaml")
TIMED = "loop_ms"
"""Cell, and file of the comparison, of the latency of this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """Everything that is driven; `real_time.yaml` says what the fields mean."""

    teacher: tuple[str, ...]
    students: tuple[str, ...]
    student_nfe: str
    seeds: tuple[int, ...]
    tasks: tuple[str, ...]
    episodes: int
    latencies: tuple[float, ...]
    control_hz: float
    patience: float
    marks: Mapping[str, float]

    @property
    def clocks(self) -> list[RealTime]:
        """Robots of both habits at every latency."""
        return both_habits(self.latencies, control_hz=self.control_hz, patience=self.patience)


CELLS = build(FILE, Cells, read_yaml(FILE.read_bytes(), str(FILE)))


def drive_late(checkpoint: Path, seed: int, nfe: str, clock: RealTime, tasks: Sequence[str], episodes: int) -> None:
    """Drives a model by a clock."""
    evaluate_real_time(checkpoint, clocks=[clock], nfe=(nfe,), seed=seed, tasks=tasks, episodes=episodes)


def time_loops(place: Place, cells: Cells) -> None:
    """Times what the teacher's network takes here at every number of steps; every student's is the same."""
    policy = load_policy(place.demo.teacher)
    every = dict.fromkeys([*cells.teacher, cells.student_nfe])
    told = {nfe: local_loop_ms(policy, policy.samplers(nfe)) for nfe in every}
    write_whole(place.out / "comparison" / f"{TIMED}.json", json.dumps(told, indent=1) + "\n")


def real_time_jobs(place: Place, cells: Cells, *, students: Path | None = None) -> list[Job]:
    """Every job, each after those it needs; a latency of everybody before the next.

    Args:
        place: Folders.
        cells: What is driven.
        students: Folder of a study by `one_step.py`, whose students are taken over; they are made if None.

    Raises:
        ValueError: A student, or a teacher that is not shipped, is missing there.
    """
    names = [name for name in cells.students if place.has(name)]
    jobs = _made(place, names, cells.seeds) if students is None else _taken(place, names, cells.seeds, students)
    models = [(TEACHER, seed, nfe, place.demo.teacher, TEACHER) for nfe in cells.teacher for seed in cells.seeds]
    models += [
        (name, seed, cells.student_nfe, place.run(name, seed), f"make/{name}_{seed}")
        for name in names
        for seed in STUDENTS[name].seeds
        if seed in cells.seeds
    ]
    for clock in cells.clocks:
        for name, seed, nfe, checkpoint, after in models:
            about = {"seed": seed, "nfe": nfe, "clock": clock, "tasks": cells.tasks, "episodes": cells.episodes}
            job = f"late/{name}_{seed}_{nfe.replace('/', '-')}_{clock.name}"
            kwargs: dict[str, Any] = {"checkpoint": checkpoint, **about}
            weight = 90 if nfe == "full" else 20
            jobs.append(Job(name=job, function=drive_late, kwargs=kwargs, after=(after,), weight=weight))
    timed = {"place": place, "cells": cells}
    return [*jobs, Job(name=TIMED, function=time_loops, kwargs=timed, after=(TEACHER,), weight=20, cores=2)]


def _made(place: Place, names: Collection[str], seeds: Sequence[int]) -> list[Job]:
    """The jobs of `one_step.py` that leave a model."""
    jobs = one_step_jobs(place, names, seeds)
    return [job for job in jobs if not job.name.startswith("drive/") and job.name != "latency"]


def _taken(place: Place, names: Collection[str], seeds: Collection[int], source: Path) -> list[Job]:
    there = Place(out=source, results=source, family=place.family)
    return [_teacher(place, there), *_takes(place, names, seeds, there)]


def _teacher(place: Place, source: Place) -> Job:
    """The shipped teacher, or the one that the students learnt from."""
    if place.demo.shipped_teacher is not None:
        teaching = {"place": place.demo, "from_scratch": False}
        return Job(name=TEACHER, function=work.make_teacher, kwargs=teaching, weight=1)
    if not source.demo.teacher.is_dir():
        raise InputError(f"{source.demo.teacher} is missing; make it first: python analysis/one_step.py")
    about = {"run": place.demo.teacher_run, "found": source.demo.teacher_run}
    return Job(name=TEACHER, function=take, kwargs=about, weight=1)


def _takes(place: Place, names: Collection[str], seeds: Collection[int], source: Place) -> Iterator[Job]:
    for name in names:
        for seed in STUDENTS[name].seeds:
            if seed not in seeds:
                continue
            run, found = place.run(name, seed), source.run(name, seed)
            if not (found / "student").is_dir():
                raise InputError(f"{found} has no student; make it first: python analysis/one_step.py --only {name}")
            yield Job(name=f"make/{name}_{seed}", function=take, kwargs={"run": run, "found": found}, weight=1)
