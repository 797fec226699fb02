# SPDX-License-Identifier: Apache-2.0
"""Makes and drives the students of `one_step.yaml`, a job each."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from cells import TEACHER, distil_or_take, drive, first_jobs
from one_step_cells import STUDENTS, TEACHER_NFE, TEACHER_SEEDS, Place, with_starts
from searching import FIRST_RATES, action_error, choose_rate, write_rate

from flashwam.demo import work
from flashwam.evaluation.recording import record
from flashwam.system.jobs import Job

SEARCHED_SEEDS = 2


def choose(place: Place, name: str) -> None:
    """Searches a cell's learning rate."""
    nfe = place.recipe(name, 0, FIRST_RATES[0]).evaluate.nfe[0]
    seeds = STUDENTS[name].seeds[:SEARCHED_SEEDS]

    def attempt(rate: float, seed: int) -> float:
        return action_error(place.recipe(name, seed, rate), place.attempt(name, rate, seed), nfe)

    write_rate(place.rate_file(name), choose_rate(attempt, rates=FIRST_RATES, seeds=seeds))


def make(place: Place, name: str, seed: int) -> None:
    """Distils a cell, or takes it over from the search that came by it."""
    recipe = place.recipe(name, seed)
    found = place.attempt(name, recipe.distill.lr, seed) if STUDENTS[name].search else None
    distil_or_take(recipe, place.run(name, seed), found)


def record_start(place: Place, name: str, seed: int) -> None:
    """Records the student that a cell goes on from, as it is driven at one step."""
    cell, recipe = STUDENTS[name], place.recipe(name, seed)
    out = place.recording(cell.start, seed)
    record(place.run(cell.start, seed), out, episodes=cell.record, tasks=recipe.data.tasks, seed=seed)


def one_step_jobs(place: Place, names: Collection[str], seeds: Sequence[int]) -> list[Job]:
    """Every job, each after those it needs; the cells in their order, every seed of one before the next."""
    jobs = first_jobs(place)
    cells = {
        name: [job for s in STUDENTS[name].seeds if s in seeds for job in _cell(place, name, s)]
        for name in with_starts(names)
    }
    first, *others = cells.values() if cells else [[]]
    jobs += first
    # The teacher's own steps in every scene first: nothing is compared without them.
    jobs += [job for nfe in TEACHER_NFE[place.family] for job in _teacher(place, nfe, seeds)]
    jobs += [_random(place, seed) for seed in TEACHER_SEEDS if seed in seeds]
    jobs += [job for cell in others for job in cell]
    return list({job.name: job for job in jobs}.values())


def _teacher(place: Place, nfe: str, seeds: Collection[int]) -> Iterator[Job]:
    for seed in TEACHER_SEEDS:
        if seed in seeds:
            yield _drive(TEACHER, "latents", place.demo.teacher, seed, nfe, 170 if nfe == "full" else 70)


def _random(place: Place, seed: int) -> Job:
    about = {"place": place.demo, "seed": seed}
    return Job(name=f"drive/random_{seed}", function=work.drive_random, kwargs=about, after=("latents",), weight=70)


def _cell(place: Place, name: str, seed: int) -> Iterator[Job]:
    cell, after, about = STUDENTS[name], ["latents"], {"place": place, "name": name}
    shape = place.recipe(name, seed, FIRST_RATES[0])
    weight = 10 + 0.015 * shape.distill.steps * shape.distill.batch_size
    if cell.search:
        tried = len(FIRST_RATES) * SEARCHED_SEEDS
        yield Job(name=f"choose/{name}", function=choose, kwargs=about, after=("latents",), weight=tried * weight)
    if cell.search or cell.rate is not None:
        after = [f"choose/{name if cell.search else cell.rate}"]
        weight = 1 if seed in cell.seeds[:SEARCHED_SEEDS] and cell.search else weight
    if cell.start is not None:
        after.append(f"make/{cell.start}_{seed}")
    if cell.record:
        taped = f"record/{name}_{seed}"
        yield Job(name=taped, function=record_start, kwargs={**about, "seed": seed}, after=(after[-1],), weight=100)
        after.append(taped)
    made = f"make/{name}_{seed}"
    yield Job(name=made, function=make, kwargs={**about, "seed": seed}, after=tuple(after), weight=weight)
    for nfe in shape.evaluate.nfe:
        for sampler in ("own", *cell.samplers):
            yield _drive(name, made, place.run(name, seed), seed, nfe, 70, sampler=sampler)


def _drive(name: str, after: str, checkpoint: Path, seed: int, nfe: str, weight: float, **options: Any) -> Job:
    tail = "".join(f"_{value}" for value in options.values() if value != "own")
    kwargs = {"checkpoint": checkpoint, "seed": seed, "nfe": nfe, **options}
    job = f"drive/{name}_{seed}_{nfe.replace('/', '-')}{tail}"
    return Job(name=job, function=drive, kwargs=kwargs, after=(after,), weight=weight)
