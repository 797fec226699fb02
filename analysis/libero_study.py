# SPDX-License-Identifier: Apache-2.0
"""The miniature on LIBERO: its teacher with all of its steps and with few, and the students made of it.

    make libero                       first: LIBERO itself
    python analysis/libero_study.py         all cells (hours), then the comparison
    python analysis/libero_study.py --only naive_lcm flash_wam --seeds 0
    python analysis/libero_study.py --compare          the comparison of what there is so far
    python analysis/libero_study.py --from-scratch          train the teacher too, an hour and a half of one core
    python analysis/libero_study.py --archive FILE     an archive of what there is so far, for another machine
    python analysis/libero_study.py --restore FILE     go on from such an archive

`libero_study.yaml` lists the cells. Results go to analysis/results/libero (see `analysis/studies.py`). A run that was
killed goes on where it was. Learning rates are those of the recipes; they were not searched here.
"""

import argparse
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from cells import COLLECT, LATENTS, TEACHER, StudyPlace, add_extent, drive_job, folders, run_study
from libero_table import write_libero_table
from studies import add_options
from temperatures import cooler_folder, write_temperatures

from flashwam.core.sampler_name import sampler_name
from flashwam.core.temperature import Temperature
from flashwam.demo.work import take_shipped
from flashwam.evaluation.baselines import BASELINES, evaluate_baseline
from flashwam.evaluation.latency import latency_timers, time_in_turns
from flashwam.evaluation.policy import load_policy
from flashwam.pipeline.data import collect, prepare_data
from flashwam.pipeline.training import distill, train
from flashwam.recipe.layers import read_yaml
from flashwam.recipe.load import load_recipe
from flashwam.recipe.sections import Recipe
from flashwam.report.compare import compare
from flashwam.report.results import read_evaluations
from flashwam.run.card import write_card
from flashwam.run.folder import RunFolder
from flashwam.system.files import write_whole
from flashwam.system.jobs import Job
from flashwam.system.json_file import build
from flashwam.system.paths import ASSETS

SHIPPED = ASSETS / "libero_teacher"
FILE = Path(__file__).with_name("libero_study.yaml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """Everything that is made and driven; `libero_study.yaml` says what the fields mean."""

    seeds: tuple[int, ...]
    teacher: tuple[str, ...]
    students: Mapping[str, tuple[str, ...]]
    cooler: Mapping[str, tuple[Temperature, ...]]


CELLS = build(FILE, Cells, read_yaml(FILE.read_bytes(), str(FILE)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place(StudyPlace):
    """Every run's recipe; demonstrations and teacher lie where a demo has them."""

    FILMS: ClassVar[bool] = False
    """Two views of nine tasks would take megabytes."""

    def recipe(self, name: str, seed: int = 0) -> Recipe:
        own = [f"data.root={self.demo.data_root}", f"seed={seed}", f"name={name}"]
        if name != TEACHER:
            own.append(f"wam.pretrained={self.demo.teacher}")
        return load_recipe(f"libero_small/{name}", [*own, *self.settings])


def collect_episodes(place: Place) -> None:
    """Collects the demonstrations."""
    collect(place.recipe(TEACHER))


def make_teacher(place: Place, from_scratch: bool) -> None:
    """Takes the shipped teacher over, or trains one."""
    recipe = place.recipe(TEACHER)
    if from_scratch:
        train(recipe, run_dir=place.demo.teacher_run)
    else:
        take_shipped(SHIPPED, place.demo.teacher, recipe)


def make(place: Place, name: str, seed: int) -> None:
    """Distils a student."""
    distill(place.recipe(name, seed), run_dir=place.run(name, seed))


def encode_episodes(place: Place) -> None:
    """Encodes the episodes once, before distillations start side by side."""
    prepare_data(place.recipe(next(iter(CELLS.students))))


def drive_baseline(place: Place, name: str, seed: int) -> None:
    """Evaluates a baseline in the scenes that the models are driven in."""
    recipe, out = place.recipe(TEACHER), RunFolder(place.run(name, 0)).evaluations
    evaluate_baseline(name, tasks=recipe.tasks, episodes=recipe.evaluate.episodes, seed=seed, out=out)


def time_steps(place: Place, *, rounds: int = 9) -> None:
    """Times a chunk at every number of steps, in turns, by the teacher: every student has the same network."""
    policy = load_policy(place.demo.teacher)
    settings = dict.fromkeys([*CELLS.teacher, *(nfe for each in CELLS.students.values() for nfe in each)])
    timed = time_in_turns(latency_timers([(policy, nfe) for nfe in settings]), rounds=rounds)
    named = [policy.name, *CELLS.students]
    table = {label.replace(policy.name, name, 1): told for name in named for label, told in timed.items()}
    write_whole(place.out / "comparison" / "latency.json", json.dumps(table, indent=1) + "\n")


def libero_jobs(place: Place, names: Collection[str], seeds: Sequence[int], *, from_scratch: bool = False) -> list[Job]:
    """Every job, each after those it needs; seed by seed the first settings of everybody before any further one."""
    about = {"place": place}
    teaching = {**about, "from_scratch": from_scratch}
    jobs = [
        Job(name=COLLECT, function=collect_episodes, kwargs=about, weight=1200, cores=2),
        Job(
            name=TEACHER,
            function=make_teacher,
            kwargs=teaching,
            after=(COLLECT,),
            weight=5400 if from_scratch else 1,
        ),
        Job(name=LATENTS, function=encode_episodes, kwargs=about, after=(TEACHER,), weight=30),
    ]
    later = []
    for seed in seeds:
        first, second, *others = _drives(place, TEACHER, seed, CELLS.teacher, after=LATENTS)
        jobs += [first, second]
        later += others
        cooler = [*_cooler(place, TEACHER, seed, CELLS.teacher[0], after=LATENTS)]
        for name in names:
            student = f"make/{name}_{seed}"
            kwargs = {**about, "name": name, "seed": seed}
            jobs.append(Job(name=student, function=make, kwargs=kwargs, after=(LATENTS,), weight=400))
            first, *others = _drives(place, name, seed, CELLS.students[name], after=student)
            jobs.append(first)
            later += others
            cooler += _cooler(place, name, seed, CELLS.students[name][0], after=student)
        jobs += cooler
        for name in BASELINES:
            kwargs = {**about, "name": name, "seed": seed}
            baseline = f"drive/{name}_{seed}"
            later.append(Job(name=baseline, function=drive_baseline, kwargs=kwargs, after=(LATENTS,), weight=900))
    jobs += later
    jobs.append(Job(name="latency", function=time_steps, kwargs=about, after=(LATENTS,), weight=20, cores=2))
    return jobs


def _drives(place: Place, name: str, seed: int, settings: Sequence[str], *, after: str) -> Iterator[Job]:
    for nfe in settings:
        yield drive_job(name, after, _driven(place, name, seed), seed, nfe, 900)


def _cooler(place: Place, name: str, seed: int, nfe: str, *, after: str) -> Iterator[Job]:
    checkpoint = _driven(place, name, seed)
    out = cooler_folder(place.demo.teacher_run if name == TEACHER else checkpoint)
    for temperature in CELLS.cooler.get(name, ()):
        sampler = sampler_name(temperature=temperature)
        yield drive_job(name, after, checkpoint, seed, nfe, 900, sampler=sampler, out=out)


def _driven(place: Place, name: str, seed: int) -> Path:
    return place.demo.teacher if name == TEACHER else place.run(name, seed)


def report(place: Place, *, card: bool = True) -> None:
    """Tables and figures of what there is, beside the measurements; with `card` the shipped teacher's results in its
    card."""
    runs, out = place.demo.evaluated, place.out / "comparison"
    compare(runs, out=out)
    write_libero_table(runs, out)
    write_temperatures(runs, out)
    place.study.keep("python analysis/libero_study.py")
    if card:
        write_card(SHIPPED, evaluations=read_evaluations(place.results / "runs" / TEACHER))


def main() -> None:
    """Make, drive, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(CELLS.students), default=list(CELLS.students))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(CELLS.seeds))
    parser.add_argument("--from-scratch", action="store_true", help="train the teacher even though one is shipped")
    add_extent(parser)
    add_options(parser)
    arguments = parser.parse_args()
    place = Place(**folders("libero", arguments))
    jobs = libero_jobs(place, arguments.only, arguments.seeds, from_scratch=arguments.from_scratch)
    ours = not (arguments.from_scratch or arguments.settings)
    run_study(place, jobs, partial(report, place, card=ours), arguments)


if __name__ == "__main__":
    main()
