# SPDX-License-Identifier: Apache-2.0
"""Makes and drives the cells of the mechanism's study, a job each."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cells import LATENTS, SAMPLERS, TEACHER, distil_or_take, drive, first_jobs
from mechanism_cells import EULER, HORIZONS, SEARCHED, Cell, Extent, Place
from searching import action_error, choose_rate, write_rate

from flashwam.system.jobs import Job

NFE = "1v/1a"


def choose(place: Place, cell: Cell, rates: Sequence[float], seeds: Sequence[int]) -> None:
    """Takes the learning rate of the least action error, mean over trainings, from inside of what was tried."""

    def attempt(rate: float, seed: int) -> float:
        recipe = place.recipe(cell, SEARCHED, seed=seed, rate=rate)
        return action_error(recipe, place.search(cell, rate, seed), NFE)

    tried = place.tried_file(cell)
    write_rate(place.rate_file(cell), choose_rate(attempt, rates=rates, seeds=seeds, tried=tried))


def make(place: Place, cell: Cell, kind: str, seed: int) -> None:
    """Distils a cell, or takes it over from the search that came by it."""
    rate = place.rate(cell, kind)
    found = place.search(cell, rate, seed) if kind == SEARCHED and cell.searched == cell else None
    distil_or_take(place.recipe(cell, kind, seed=seed, rate=rate), place.run(cell, kind, seed), found)


def mechanism_jobs(place: Place, extent: Extent) -> list[Job]:
    """Every job, each after those it needs and what tells most first: one seed before more, short before long."""
    jobs = {job.name: job for job in first_jobs(place)}
    for block in extent.blocks():
        seeds = extent.seeds_of(block[0])
        for some in (seeds[:1], seeds[1:]):
            for kind in (kind for kind in block[0].kinds if kind in extent.kinds):
                for seed in some:
                    every = [*_teacher_jobs(place, seed)]
                    for cell in block:
                        every += _cell_jobs(place, extent, cell, kind, seed)
                    jobs |= {job.name: job for job in every if job.name not in jobs}
    return list(jobs.values())


def _teacher_jobs(place: Place, seed: int) -> Iterator[Job]:
    """The teacher as it is driven, and its single step without any distillation."""
    for nfe, weight in (("full", 150), (NFE, 60)):
        yield _drive(f"{TEACHER}_{nfe.replace('/', '-')}_{seed}", LATENTS, weight, place.demo.teacher, seed, nfe=nfe)


def _cell_jobs(place: Place, extent: Extent, cell: Cell, kind: str, seed: int) -> Iterator[Job]:
    """A student and what it is driven with; where its f is not plain Euler, that too."""
    about: dict[str, Any] = {"place": place, "cell": cell}
    weight, name, after = 10 + 0.35 * cell.steps, f"{cell.name}_{kind}_{seed}", LATENTS
    if kind == SEARCHED:
        choice = _choice(place, extent, cell.searched)
        yield choice
        after = choice.name
        if cell.searched == cell and seed in extent.searched_over(cell):
            weight = 1
    made, run = f"make/{name}", place.run(cell, kind, seed)
    kwargs = {**about, "kind": kind, "seed": seed}
    yield Job(name=made, function=make, kwargs=kwargs, after=(after,), weight=weight)
    yield _drive(name, made, 60, run, seed)
    if cell.start == EULER or cell.horizons != HORIZONS:
        return
    if kind == SEARCHED:
        for sampler in SAMPLERS:
            if sampler != "own":
                yield _drive(f"{name}_{sampler}", made, 60, run, seed, sampler=sampler)
    elif cell.start == cell.weight:
        # The same in every block, so that it is driven in the first one alone.
        untrained = place.untrained(cell)
        yield _drive(f"{cell.varied}_{cell.start}-start_{seed}", made, 60, untrained, seed)


def _choice(place: Place, extent: Extent, cell: Cell) -> Job:
    seeds = extent.searched_over(cell)
    about = {"place": place, "cell": cell, "rates": extent.rates, "seeds": seeds}
    weight = len(extent.rates) * len(seeds) * (10 + 0.35 * cell.steps)
    return Job(name=f"choose/{cell.name}", function=choose, kwargs=about, after=(LATENTS,), weight=weight)


def _drive(name: str, after: str, weight: float, checkpoint: Path, seed: int, **options: str) -> Job:
    kwargs = {"checkpoint": checkpoint, "seed": seed, "nfe": NFE, **options}
    return Job(name=f"drive/{name}", function=drive, kwargs=kwargs, after=(after,), weight=weight)
