# SPDX-License-Identifier: Apache-2.0
"""The jobs of a demo, each after those it needs, with the seconds that it is thought to take."""

from pathlib import Path
from typing import Any

from flashwam.demo import work
from flashwam.demo.place import DEFAULT_FAMILY, Place
from flashwam.demo.presets import COOLER, Preset
from flashwam.recipe.sections import Recipe
from flashwam.run.folder import RunFolder
from flashwam.system.jobs import Job

__all__ = ["preset_jobs"]

TEACHER = "teacher"


def preset_jobs(preset: Preset, out: Path, *, from_scratch: bool = False, family: str = DEFAULT_FAMILY) -> list[Job]:
    """The jobs of a preset, each after those it needs.

    Args:
        preset: How much of everything.
        out: Folder of everything.
        from_scratch: Train the teacher even where one is shipped.
        family: Of the model.
    """
    place = Place(preset=preset, out=out, family=family)
    recipe = place.recipe("teacher")
    driving = 5 + 0.25 * recipe.evaluate.episodes * len(recipe.data.tasks)
    jobs = _first_jobs(place, recipe, from_scratch)
    for seed in preset.seeds:
        jobs += _teacher_jobs(place, seed, driving)
        kwargs = {"place": place, "seed": seed}
        jobs.append(Job(name=f"evaluate/random_{seed}", function=work.drive_random, kwargs=kwargs, weight=driving))
        for method in preset.methods:
            if seed == 0 and preset.rates:
                jobs += _search_jobs(place, method)
            jobs += _method_jobs(place, method, seed, driving)
    if preset.cross:
        after = tuple(f"distill/{method}_0" for method in preset.cross)
        jobs.append(Job(name="cross", function=work.cross, kwargs={"place": place}, after=after, weight=40))
    for method in preset.longer:
        jobs += _method_jobs(place, method, preset.seeds[0], driving)
    for method in preset.methods:
        jobs += _curve_jobs(place, method, driving)
    jobs += _late_jobs(place)
    students = tuple(f"distill/{method}_0".replace("@", "_") for method in (*preset.methods, *preset.longer))
    kwargs = {"place": place}
    jobs.append(Job(name="latency", function=work.time_all, kwargs=kwargs, after=students, weight=20, cores=2))
    if preset.film:
        # Who is filmed is known when all have been driven, and how long they draw when they have been timed.
        driven = tuple(job.name for job in jobs if job.name.startswith("evaluate/"))
        jobs.append(Job(name="film", function=work.film, kwargs=kwargs, after=(*driven, "latency"), weight=20))
    return jobs


def _first_jobs(place: Place, recipe: Recipe, from_scratch: bool) -> list[Job]:
    """Episodes, teacher and latents."""
    shipped = not from_scratch and place.shipped_teacher is not None
    weight = 1 if shipped else 60 + 0.15 * recipe.train.steps
    kwargs = {"place": place}
    taught = {**kwargs, "from_scratch": from_scratch}
    return [
        Job(name="collect", function=work.collect_episodes, kwargs=kwargs, weight=60, cores=2),
        Job(name="teacher", function=work.make_teacher, kwargs=taught, after=("collect",), weight=weight),
        Job(name="latents", function=work.encode_episodes, kwargs=kwargs, after=("teacher",), weight=20),
    ]


def _teacher_jobs(place: Place, seed: int, driving: float) -> list[Job]:
    """The teacher at its own steps and at few, and from cooler noise."""
    jobs = [
        _drive(
            f"teacher_{_stem(nfe)}_{seed}", place.teacher, nfe, seed, "latents", driving * (2.5 if nfe == "full" else 1)
        )
        for nfe in place.teacher_nfe
    ]
    if TEACHER in place.preset.cooler:
        name = f"teacher_full_{seed}_cooler"
        jobs.append(_drive(name, place.teacher, "full", seed, "latents", driving * 2.5, temperature=COOLER))
    return jobs


def _search_jobs(place: Place, method: str) -> list[Job]:
    """Every learning rate, then the choice."""
    rates = place.preset.rates
    tried = [f"rate/{method}_{rate:g}" for rate in rates]
    weight = _distill_weight(place.recipe(method))
    kwargs = {"place": place, "method": method}
    jobs = [
        Job(
            name=name,
            function=work.distil,
            kwargs={**kwargs, "seed": 0, "rate": rate},
            after=("latents",),
            weight=weight,
        )
        for name, rate in zip(tried, rates, strict=True)
    ]
    return [*jobs, Job(name=f"choose/{method}", function=work.choose_rate, kwargs=kwargs, after=tuple(tried))]


def _method_jobs(place: Place, method: str, seed: int, driving: float) -> list[Job]:
    """A student, and its evaluations at every setting."""
    preset = place.preset
    name = f"{method}_{seed}".replace("@", "_")
    run, done = place.run(method, seed), f"distill/{name}"
    jobs = [
        Job(
            name=done,
            function=work.distil,
            kwargs={"place": place, "method": method, "seed": seed},
            after=("latents", f"choose/{method.partition('@')[0]}") if preset.rates else ("latents",),
            weight=_distill_weight(place.recipe(method, seed=seed)),
        )
    ]
    for nfe in place.nfe[: 1 if method in preset.longer else None]:
        jobs.append(_drive(f"{name}_{_stem(nfe)}", run, nfe, seed, done, driving))
        if method in preset.euler:
            jobs.append(_drive(f"{name}_{_stem(nfe)}_euler", run, nfe, seed, done, driving, plain_euler=True))
            jobs.append(_drive(f"{name}_{_stem(nfe)}_unit", run, nfe, seed, done, driving, unit_amplitude=True))
    if method in preset.cooler:
        nfe = place.nfe[0]
        jobs.append(_drive(f"{name}_{_stem(nfe)}_cooler", run, nfe, seed, done, driving, temperature=COOLER))
    return jobs


def _curve_jobs(place: Place, method: str, driving: float) -> list[Job]:
    """The first seed's copies over the budget."""
    name, run = f"{method}_0", RunFolder(place.run(method, 0))
    return [
        _drive(f"{name}_step{step}", run.kept_step(step), place.nfe[0], 0, f"distill/{name}", driving)
        for step in place.preset.curve
    ]


def _late_jobs(place: Place) -> list[Job]:
    """The teacher, the same in the students' steps, and some students, in worlds that do not wait."""
    if not place.preset.clocks:
        return []
    models = [(f"teacher_{_stem(nfe)}", place.teacher, nfe, "latents") for nfe in ("full", "1v/1a")]
    models += [(f"{name}_1v-1a", place.run(name, 0), "1v/1a", f"distill/{name}_0") for name in place.preset.late]
    return [
        Job(
            name=f"late/{name}",
            function=work.drive_late,
            kwargs={"place": place, "checkpoint": checkpoint, "nfe": nfe},
            after=(after,),
            weight=400 if nfe == "full" else 90,
        )
        for name, checkpoint, nfe, after in models
    ]


def _drive(name: str, checkpoint: Path, nfe: str, seed: int, after: str, weight: float, **options: Any) -> Job:
    kwargs = {"checkpoint": checkpoint, "nfe": (nfe,), "seed": seed, **options}
    return Job(name=f"evaluate/{name}", function=work.drive, kwargs=kwargs, after=(after,), weight=weight)


def _stem(nfe: str) -> str:
    return nfe.replace("/", "-")


def _distill_weight(recipe: Recipe) -> float:
    substeps = max(spec.teacher_substeps for spec in recipe.streams.values())
    return 5 + (0.3 + 0.15 * substeps) * (recipe.train if recipe.distill is None else recipe.distill).steps
