# SPDX-License-Identifier: Apache-2.0
"""The common part of studies whose cells are students of one small teacher: their folders, and how one is made, driven
and run to its results."""

import argparse
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from studies import Study, or_exit

from flashwam.core.sampler_name import sampler_options
from flashwam.demo import work
from flashwam.demo.place import DEFAULT_FAMILY
from flashwam.demo.place import Place as DemoPlace
from flashwam.demo.presets import Preset
from flashwam.evaluation.local import evaluate
from flashwam.pipeline.training import distill
from flashwam.recipe.sections import Recipe
from flashwam.run.folder import RunFolder
from flashwam.sim.gl import ensure_gl
from flashwam.system.files import whole_folder
from flashwam.system.jobs import Job, run_jobs

TEACHER = "teacher"
COLLECT, LATENTS = "collect", "latents"
SAMPLERS = ("own", "euler", "unit")
"""Ways in which students of the mechanism are sampled, see `flashwam.core.sampler_name`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyPlace:
    """Folders of everything.

    Args:
        out: Of the runs.
        results: What is kept of them.
        family: The teacher's.
        data: Of the demonstrations; one of its own in `out` if None.
        settings: Recipe settings for every run.
    """

    MADE_AGAIN: ClassVar[tuple[str, ...]] = (COLLECT, TEACHER, LATENTS)
    """Jobs whose results others need, and that are not kept."""
    FILMS: ClassVar[bool] = True
    """The teacher's and the best student's films are kept."""

    out: Path
    results: Path
    family: str = DEFAULT_FAMILY
    data: Path | None = None
    settings: tuple[str, ...] = ()

    def run(self, name: str, seed: int) -> Path:
        """Folder of a training."""
        return self.out / "runs" / (name if seed == 0 else f"{name}_seed{seed}")

    @property
    def study(self) -> Study:
        """The runs and what is kept of them."""
        return Study(
            out=self.out,
            results=self.results,
            made_again=self.MADE_AGAIN,
            films=self.FILMS,
            settings=self.settings,
        )

    @property
    def demo(self) -> DemoPlace:
        """Demonstrations and teacher lie where a demo has them."""
        preset = Preset(methods=(), overrides=self.settings)
        return DemoPlace(preset=preset, out=self.out, family=self.family, data=self.data)


def distil_or_take(recipe: Recipe, run: Path, found: Path | None) -> None:
    """Distils a cell, or takes it over from the search that came by it, at `found`."""
    if found is None or not RunFolder(found).result("student").is_dir():
        distill(recipe, run_dir=run)
        return
    take(run, found)


def take(run: Path, found: Path) -> None:
    """Takes a finished run over, without what was measured of it."""
    source = RunFolder(found)
    ignored = shutil.ignore_patterns(source.checkpoints.name, source.evaluations.name)
    with whole_folder(run) as building:
        shutil.copytree(source.path, building, ignore=ignored, dirs_exist_ok=True)


def drive(checkpoint: Path, seed: int, nfe: str, sampler: str = "own", out: Path | None = None) -> None:
    """Evaluates in closed and open loop."""
    evaluate(checkpoint, nfe=(nfe,), seed=seed, out=out, **sampler_options(sampler))


def drive_job(name: str, after: str, checkpoint: Path, seed: int, nfe: str, weight: float, **options: Any) -> Job:
    """The job of `drive`, whose further options are those of it."""
    sampler = options.get("sampler", "own")
    tail = "" if sampler == "own" else f"_{sampler}"
    kwargs = {"checkpoint": checkpoint, "seed": seed, "nfe": nfe, **options}
    job = f"drive/{name}_{seed}_{nfe.replace('/', '-')}{tail}"
    return Job(name=job, function=drive, kwargs=kwargs, after=(after,), weight=weight)


def first_jobs(place: StudyPlace) -> list[Job]:
    """Demonstrations, teacher and latents, which every cell needs."""
    about: dict[str, Any] = {"place": place.demo}
    teaching = {**about, "from_scratch": False}
    weight = 600 if place.demo.shipped_teacher is None else 1
    return [
        Job(name=COLLECT, function=work.collect_episodes, kwargs=about, weight=300, cores=2),
        Job(name=TEACHER, function=work.make_teacher, kwargs=teaching, after=(COLLECT,), weight=weight),
        Job(name=LATENTS, function=work.encode_episodes, kwargs=about, after=(TEACHER,), weight=60),
    ]


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `folders` reads."""
    parser.add_argument("--out", type=Path, help="folder of the runs; by default the study's own below runs/")
    told = "folder of what is kept of them; by default the study's own below analysis/results/"
    parser.add_argument("--results", type=Path, help=told)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", dest="settings", help="for every recipe")


def add_extent(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `run_study` and `folders` read."""
    add_folders(parser)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--compare", action="store_true", help="make nothing, compare what there is")


def folders(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The folders of the study of a name, and settings for all its recipes, as the options ask."""
    return {
        "out": arguments.out or Path("runs") / name,
        "results": arguments.results or Path("analysis/results") / name,
        "settings": tuple(arguments.settings),
    }


def run_study(
    place: StudyPlace, jobs: Sequence[Job], report: Callable[[], None], arguments: argparse.Namespace
) -> None:
    """Archives, or restores, runs the jobs and reports, as the options ask."""
    study = place.study
    if arguments.archive is not None:
        or_exit(study.archive, arguments.archive)
        return
    or_exit(study.restore, jobs, arguments.restore)
    if not arguments.compare:
        ensure_gl()
        run_jobs(jobs, study.out / "jobs", workers=arguments.workers, imported=place.demo.imported)
    or_exit(report)
