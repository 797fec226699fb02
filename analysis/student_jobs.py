# SPDX-License-Identifier: Apache-2.0
"""Makes and drives the students of the comparison, a job each.

What needs a paper's own folder imports it when it runs, see `student_modality.py`.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from student_cells import CONTROLS, STUDENTS, TEACHER, TIERS, Place

from flashwam import pipeline
from flashwam.evaluation.local import evaluate
from flashwam.recipe.sections import Recipe
from flashwam.run.folder import RunFolder
from flashwam.sim.privileged import replay_episodes
from flashwam.system.files import write_whole
from flashwam.system.jobs import Job


def run_recipe(recipe: Recipe, run_dir: Path) -> None:
    """Trains or distils, as the recipe says."""
    (pipeline.train if recipe.distill is None else pipeline.distill)(recipe, run_dir=run_dir)


def _make(place: Place, name: str, seed: int) -> None:
    run_recipe(place.recipe(name, seed), place.run(name, seed))


def _replay(place: Place) -> None:
    recipe = place.recipe("swift_full", 0)
    replay_episodes(place.benchmark / "data", recipe.data.tasks, processes=recipe.data.processes)


def _tokens(place: Place) -> None:
    import student_modality

    student_modality.prepare_tokens(place)


def _drive(place: Place, name: str, seed: int, modality: bool) -> None:
    run, nfe = place.run(name, seed), STUDENTS[name].nfe
    if modality:
        import student_modality

        student_modality.evaluate_with_auxiliary(run, nfe=nfe, seed=seed)
    else:
        evaluate(run, nfe=nfe, seed=seed)


def _cell_jobs(place: Place, name: str, seed: int) -> Iterator[Job]:
    cell, about = STUDENTS[name], {"place": place, "name": name, "seed": seed}
    after = ["tokens" if cell.recipe.startswith("swift") or cell.auxiliary else "replay"]
    if cell.start not in (None, TEACHER):
        after.append(f"make/{cell.start}_{seed}")
    make = f"make/{name}_{seed}"
    yield Job(name=make, function=_make, kwargs=about, after=tuple(after), weight=300)
    for modality in (False, True)[: 0 if not cell.nfe else 1 + cell.auxiliary]:
        drive = f"drive/{name}_{seed}{'_auxiliary' * modality}"
        yield Job(name=drive, function=_drive, kwargs={**about, "modality": modality}, after=(make,), weight=80)


def take_measured(place: Place, name: str, seed: int, nfe: str) -> Path:
    """Copies the benchmark's own evaluations of a run, at these steps, beside those made here; returns the folder."""
    run = RunFolder(place.benchmark_run(name, seed))
    copies = RunFolder(place.out / "benchmark" / run.name)
    for path in run.evaluations.glob(f"*_{nfe.replace('/', '-')}_own_seed?.json"):
        write_whole(copies.evaluations / path.name, path.read_bytes())
    return copies.path


def _control(place: Place, nfe: str, seed: int) -> None:
    """Drives the benchmark's teacher at few steps, for which nobody trained it, unless the benchmark did."""
    folder = take_measured(place, TEACHER, 0, nfe)
    evaluate(place.teacher, nfe=(nfe,), seed=seed, out=RunFolder(folder).evaluations)


def _control_jobs(place: Place, seeds: Sequence[int]) -> Iterator[Job]:
    for nfe in CONTROLS[place.family]:
        for seed in seeds:
            kwargs = {"place": place, "nfe": nfe, "seed": seed}
            yield Job(name=f"control/{nfe.replace('/', '-')}_{seed}", function=_control, kwargs=kwargs, weight=90)


def student_jobs(place: Place, names: Collection[str], seeds: Sequence[int]) -> list[Job]:
    """Every student's making and driving, what matters most first."""
    first, others = seeds[:1], seeds[1:]
    main, ablations = list(TIERS["main"]), list(TIERS["ablations"])
    tiers = (
        (main + ablations, first),
        (main, others),
        (ablations, others),
        (list(TIERS["rates"]), first),
        (list(TIERS["causes"]), first),
        (list(TIERS["further"]), seeds),
    )
    jobs = [
        job
        for tier, some in tiers
        for seed in some
        for name in tier
        if name in names
        for job in _cell_jobs(place, name, seed)
    ]
    jobs += _control_jobs(place, seeds)
    kwargs = {"place": place}
    before = [Job(name="replay", function=_replay, kwargs=kwargs, weight=300, cores=2)]
    if any("tokens" in job.after for job in jobs):
        before.append(Job(name="tokens", function=_tokens, kwargs=kwargs, after=("replay",), weight=400))
    return before + jobs
