# SPDX-License-Identifier: Apache-2.0
"""Makes and drives the students of `one_step.yaml`, a job each."""

import json
import shutil
from collections.abc import Collection, Iterator, Sequence

from cells import LATENTS, TEACHER, distil_or_take, drive_job, first_jobs
from one_step_cells import (
    COOLER_SEEDS,
    CROSSED,
    GUIDANCE,
    GUIDED,
    STUDENTS,
    TEACHER_COOLER,
    TEACHER_NFE,
    TEACHER_SEEDS,
    Place,
    draws_from,
    with_starts,
)
from searching import FIRST_RATES, action_error, choose_rate, write_rate
from temperatures import cooler_folder

from flashwam.core.sampler_name import sampler_name
from flashwam.core.temperature import Temperature
from flashwam.demo import work
from flashwam.evaluation.latency import latency_timers, time_in_turns
from flashwam.evaluation.policy import load_policy
from flashwam.evaluation.recording import record
from flashwam.recipe.sections import Recipe
from flashwam.run.folder import CARD_FILE, INFO_FILE
from flashwam.run.model_info import read_info
from flashwam.system.files import whole_folder, write_whole
from flashwam.system.jobs import Job

SEARCHED_SEEDS = 2


def guide(place: Place) -> None:
    """Puts the teacher a second time, as one that is driven with guidance."""
    told = read_info(place.demo.teacher)
    told["name"] = GUIDED
    told["streams"]["video"]["guidance_scale"] = GUIDANCE
    with whole_folder(place.guided_teacher) as building:
        # Its card speaks of the one without.
        ignored = shutil.ignore_patterns(CARD_FILE)
        shutil.copytree(place.demo.teacher, building, ignore=ignored, dirs_exist_ok=True)
        write_whole(building / INFO_FILE, json.dumps(told, indent=2) + "\n")


def choose(place: Place, name: str) -> None:
    """Searches a cell's learning rate."""
    nfe = place.recipe(name, 0, FIRST_RATES[0]).evaluate.nfe[0]
    seeds = STUDENTS[name].seeds[:SEARCHED_SEEDS]

    def attempt(rate: float, seed: int) -> float:
        return action_error(place.recipe(name, seed, rate), place.attempt(name, rate, seed), nfe)

    tried = place.tried_file(name)
    write_rate(place.rate_file(name), choose_rate(attempt, rates=FIRST_RATES, seeds=seeds, tried=tried))


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


def time_steps(place: Place, *, rounds: int = 9) -> None:
    """Times a chunk at every number of steps, in turns, by the teacher: every student has the same network."""
    policy = load_policy(place.demo.teacher)
    timed = time_in_turns(latency_timers([(policy, nfe) for nfe in TEACHER_NFE[place.family]]), rounds=rounds)
    named = [policy.name, *(name for name in STUDENTS if place.has(name))]
    table = {label.replace(policy.name, name, 1): told for name in named for label, told in timed.items()}
    write_whole(place.out / "comparison" / "latency.json", json.dumps(table, indent=1) + "\n")


def time_guided(place: Place, *, rounds: int = 9) -> None:
    """Times the guided teacher's own steps and a student's, in turns."""
    guided, plain = load_policy(place.guided_teacher), load_policy(place.demo.teacher)
    students = [name for name, cell in STUDENTS.items() if cell.guided]
    settings = place.recipe(students[0], 0, FIRST_RATES[0]).evaluate.nfe
    timed = time_in_turns(latency_timers([(guided, "full"), *((plain, nfe) for nfe in settings)]), rounds=rounds)
    table = {label: told for label, told in timed.items() if label.startswith(GUIDED)}
    own = {label: told for label, told in timed.items() if label not in table}
    table |= {label.replace(plain.name, name, 1): told for name in students for label, told in own.items()}
    write_whole(place.out / "comparison_guided" / "latency.json", json.dumps(table, indent=1) + "\n")


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
    # Last of the teacher's, since what is driven there tells more about what is known.
    for name in cells:
        jobs += _teacher_for(place, name, [seed for seed in STUDENTS[name].seeds if seed in seeds])
    jobs += _cooler_teacher(place, seeds)
    jobs += [_random(place, seed) for seed in TEACHER_SEEDS if seed in seeds]
    if guided := [name for name in cells if STUDENTS[name].guided]:
        jobs += _guided_teacher(place, guided, seeds)
    jobs += [job for cell in others for job in cell]
    firsts = {name: STUDENTS[name].seeds[0] for name in CROSSED}
    made = tuple(f"make/{name}_{seed}" for name, seed in firsts.items())
    if {*made} <= {job.name for job in jobs}:
        crossed = {"place": place.demo, "students": {name: place.run(name, seed) for name, seed in firsts.items()}}
        jobs.append(Job(name="cross", function=work.cross_students, kwargs=crossed, after=made, weight=90))
    jobs.append(Job(name="latency", function=time_steps, kwargs={"place": place}, after=(LATENTS,), weight=20, cores=2))
    return list({job.name: job for job in jobs}.values())


def _teacher(place: Place, nfe: str, seeds: Collection[int]) -> Iterator[Job]:
    for seed in TEACHER_SEEDS:
        if seed in seeds:
            yield drive_job(TEACHER, LATENTS, place.demo.teacher, seed, nfe, 170 if nfe == "full" else 70)


def _teacher_for(place: Place, name: str, seeds: Sequence[int]) -> Iterator[Job]:
    """The teacher in a cell's second set of scenes, there as cool as the cell too, and in both sets as it drew the
    cell's draws."""
    cell = STUDENTS[name]
    again = [seed + cell.again for seed in seeds if cell.again]
    yield from (drive_job(TEACHER, LATENTS, place.demo.teacher, seed, "full", 170) for seed in again)
    yield from (_cooler_drive(place, seed, "full", temperature) for temperature in cell.cooler for seed in again)
    drawn = draws_from(place.recipe(name, 0, FIRST_RATES[0]))
    if drawn is not None:
        yield from (_cooler_drive(place, seed, "full", drawn) for seed in (*seeds, *again))


def _cooler_teacher(place: Place, seeds: Collection[int]) -> Iterator[Job]:
    for nfe, temperatures in TEACHER_COOLER[place.family].items():
        for temperature in temperatures:
            yield from (_cooler_drive(place, seed, nfe, temperature) for seed in COOLER_SEEDS if seed in seeds)


def _cooler_drive(place: Place, seed: int, nfe: str, temperature: Temperature) -> Job:
    weight, sampler = 170 if nfe == "full" else 70, sampler_name(temperature=temperature)
    out = cooler_folder(place.demo.teacher_run)
    return drive_job(TEACHER, LATENTS, place.demo.teacher, seed, nfe, weight, sampler=sampler, out=out)


def _guided(place: Place) -> Job:
    return Job(name=GUIDED, function=guide, kwargs={"place": place}, after=(LATENTS,), weight=1)


def _guided_teacher(place: Place, names: Collection[str], seeds: Collection[int]) -> Iterator[Job]:
    yield _guided(place)
    for seed in sorted({seed for name in names for seed in STUDENTS[name].seeds}.intersection(seeds)):
        yield drive_job(GUIDED, GUIDED, place.guided_teacher, seed, "full", 250)
    about = {"place": place}
    yield Job(name="latency/guided", function=time_guided, kwargs=about, after=(GUIDED,), weight=20, cores=2)


def _random(place: Place, seed: int) -> Job:
    about = {"place": place.demo, "seed": seed}
    return Job(name=f"drive/random_{seed}", function=work.drive_random, kwargs=about, after=(LATENTS,), weight=70)


def _training_weight(recipe: Recipe) -> float:
    return 10 + 0.015 * recipe.distill.steps * recipe.distill.batch_size


def _choice(place: Place, name: str) -> Job:
    weight = len(FIRST_RATES) * SEARCHED_SEEDS * _training_weight(place.recipe(name, 0, FIRST_RATES[0]))
    about = {"place": place, "name": name}
    return Job(name=f"choose/{name}", function=choose, kwargs=about, after=(LATENTS,), weight=weight)


def _cell(place: Place, name: str, seed: int) -> Iterator[Job]:
    cell, recipe, about = STUDENTS[name], place.recipe(name, seed, FIRST_RATES[0]), {"place": place, "name": name}
    after, weight = [LATENTS], _training_weight(recipe)
    if cell.guided:
        yield _guided(place)
        after.append(GUIDED)
    if (rated := name if cell.search else cell.rate) is not None:
        choice = _choice(place, rated)
        yield choice
        after.append(choice.name)
    if cell.search and seed in cell.seeds[:SEARCHED_SEEDS]:
        weight = 1
    if cell.start is not None:
        after.append(f"make/{cell.start}_{seed}")
    if cell.record:
        taped = f"record/{name}_{seed}"
        yield Job(name=taped, function=record_start, kwargs={**about, "seed": seed}, after=(after[-1],), weight=100)
        after.append(taped)
    made = f"make/{name}_{seed}"
    yield Job(name=made, function=make, kwargs={**about, "seed": seed}, after=tuple(after), weight=weight)
    for nfe in recipe.evaluate.nfe:
        for sampler in ("own", *cell.samplers):
            yield drive_job(name, made, place.run(name, seed), seed, nfe, 70, sampler=sampler)
    for temperature in cell.cooler:
        sampler, run = sampler_name(temperature=temperature), place.run(name, seed)
        nfe, out = recipe.evaluate.nfe[0], cooler_folder(run)
        for scenes in (seed, *((seed + cell.again,) if cell.again else ())):
            yield drive_job(name, made, run, scenes, nfe, 70, sampler=sampler, out=out)
    if cell.again:
        yield drive_job(name, made, place.run(name, seed), seed + cell.again, recipe.evaluate.nfe[0], 70)
