# SPDX-License-Identifier: Apache-2.0
"""`flashwam demo`: the whole job from demonstrations to a compared set of one-step students, at three sizes.

Every step is a resumable job of its own; an interrupted demo goes on where it was. The benchmark in the README is the
preset "full".
"""

import json
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashwam import pipeline
from flashwam.evaluation.cross import cross_table
from flashwam.evaluation.latency import latency_table
from flashwam.evaluation.local import evaluate
from flashwam.evaluation.policy import load_policy
from flashwam.recipe.build import plain
from flashwam.recipe.load import load_recipe
from flashwam.recipe.sections import Recipe, WamConfig
from flashwam.report.analyze import measured_gradients, schedule_sections
from flashwam.report.compare import compare, format_table, gather
from flashwam.report.compare_page import compare_sections
from flashwam.report.page import write_page
from flashwam.report.schedule import schedule_analysis
from flashwam.sim.gl import ensure_gl
from flashwam.system.errors import InputError
from flashwam.system.files import whole_folder, write_whole
from flashwam.system.jobs import Job, done_marker, run_jobs
from flashwam.system.json_file import read_mapping
from flashwam.system.paths import ASSETS, user_path
from flashwam.wam.files import FAMILY_FILES, FamilyFiles, files_of

__all__ = ["PRESETS", "Preset", "demo", "preset_jobs"]

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_PAGES = 60.0
"""Drawing one takes seconds, in which no job is started."""

DEFAULT_FAMILY = WamConfig().family


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """How much of everything a demo does.

    Args:
        methods: Recipes of recipes/metaworld, in the order they are run.
        overrides: For every recipe.
        distill: Overrides of the distillation recipes alone.
        seeds: Of distillation and evaluation.
        nfe: Settings every student is driven at; those of the recipes (`evaluate.nfe`) where empty.
        euler: Methods also sampled with plain Euler.
        curve: Distillation steps at which a copy is driven too, at the first setting and the first seed.
        rates: Learning rates tried for every method; its best by action error is used for every seed. Empty: the
            recipe's own.
        cross: Methods that are crossed with the teacher.
        longer: Methods that are also distilled for more steps, as "method@steps", at the first seed; driven at the
            first setting.
    """

    methods: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    distill: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    nfe: tuple[str, ...] = ("1v/1a",)
    euler: tuple[str, ...] = ()
    curve: tuple[int, ...] = ()
    rates: tuple[float, ...] = ()
    cross: tuple[str, ...] = ()
    longer: tuple[str, ...] = ()


# The comparisons that matter most first, so that an interrupted benchmark already shows them.
ALL_METHODS = ("naive_lcm", "flash_wam", "on_policy", "best", "video_only", "video_only_reg", "linear_both")

PRESETS = {
    "smoke": Preset(
        methods=("naive_lcm", "flash_wam"),
        overrides=(
            "data.tasks=[button-press,reach-wall]",
            "data.episodes=4",
            # One episode in 20 is kept for judging.
            "data.multimodal_episodes=20",
            "autoencoder.steps=30",
            "autoencoder.width=32",
            "train.steps=30",
            "evaluate.episodes=3",
            "evaluate.open_loop_samples=16",
        ),
        distill=("distill.steps=10", "distill.save_every=5", "distill.diagnose_every=5", "distill.log_every=5"),
    ),
    "quick": Preset(
        # The longest first, so that both cores are busy to the end.
        methods=("best", "on_policy", "naive_lcm", "flash_wam"),
        overrides=(
            "data.tasks=[button-press,reach-wall,button-wall]",
            "data.episodes=60",
            "data.multimodal_episodes=150",
            "evaluate.episodes=24",
        ),
        distill=("distill.steps=200",),
        cross=("best", "on_policy"),
    ),
    "pilot": Preset(
        methods=ALL_METHODS,
        distill=("distill.steps=300", "distill.warmup_steps=25", "distill.lr=3e-4"),
        nfe=(),
        euler=("naive_lcm", "flash_wam"),
        curve=(0, 50, 150),
        cross=("flash_wam", "best", "on_policy"),
    ),
    "full": Preset(
        methods=ALL_METHODS,
        distill=("distill.steps=400", "distill.warmup_steps=25", "distill.lr_decay=cosine"),
        seeds=(0, 1, 2),
        nfe=(),
        euler=("naive_lcm", "flash_wam"),
        curve=(0, 50, 150),
        rates=(1e-4, 3e-4, 1e-3, 3e-3),
        cross=("flash_wam", "best", "on_policy"),
        longer=("on_policy@1500",),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a preset keeps its things; knows every run's folder and recipe."""

    preset: Preset
    out: Path
    family: str = DEFAULT_FAMILY

    def __post_init__(self) -> None:
        if self.files is None or self.files.miniature is None:
            known = sorted(name for name in FAMILY_FILES if files_of(name).miniature is not None)
            raise InputError(f"there is no small model of family {self.family!r} to show; expected one of {known}")

    @property
    def files(self) -> FamilyFiles:
        """The family's knowledge of files, its miniature among it."""
        return files_of(self.family)

    @property
    def shipped_teacher(self) -> Path | None:
        """A trained teacher that the package brings along."""
        name = self.files.miniature_teacher
        return None if name is None else ASSETS / name

    @property
    def nfe(self) -> tuple[str, ...]:
        """Settings every student is driven at."""
        return self.preset.nfe or tuple(self.recipe(self.preset.methods[0]).evaluate.nfe)

    @property
    def teacher_run(self) -> Path:
        return self.out / "runs" / "teacher"

    @property
    def teacher(self) -> Path:
        return self.teacher_run / "teacher"

    def rate_file(self, method: str) -> Path:
        return self.out / "rates" / f"{method.partition('@')[0]}.json"

    def run(self, method: str, seed: int, rate: float | None = None) -> Path:
        if rate is not None:
            return self.out / "rates" / f"{method}_{rate:g}"
        method = method.replace("@", "_")
        return self.out / "runs" / (method if seed == 0 else f"{method}_seed{seed}")

    def recipe(self, method: str, *, seed: int = 0, rate: float | None = None) -> Recipe:
        method, _, steps = method.partition("@")
        name = f"{method}_{steps}" if steps else method
        overrides = [*self.preset.overrides, f"data.root={self.out / 'data'}", f"seed={seed}", f"name={name}"]
        if method != "teacher":
            overrides += [*self.preset.distill, f"wam.pretrained={self.teacher}"]
            # The budget's curve is read off one run; the others need no copies.
            if self.preset.curve and seed == 0 and not steps:
                overrides.append(f"distill.keep_steps=[{','.join(map(str, self.preset.curve))}]")
            if rate is not None:
                overrides.append(f"distill.lr={rate:g}")
            elif self.rate_file(method).is_file():
                overrides.append(f"distill.lr={read_mapping(self.rate_file(method))['lr']:g}")
            if steps:
                overrides.append(f"distill.steps={steps}")
        return load_recipe(f"{self.files.miniature}/{method}", overrides)


def _train_teacher(place: _Place, from_scratch: bool) -> None:
    shipped = place.shipped_teacher
    if not from_scratch and shipped is not None:
        with whole_folder(place.teacher) as building:
            shutil.copytree(shipped, building, dirs_exist_ok=True)
            info = read_mapping(building / "flashwam.json")
            info["recipe"] = _data_of(place, info["recipe"])
            write_whole(building / "flashwam.json", json.dumps(info, indent=2) + "\n")
        return
    pipeline.train(place.recipe("teacher"), run_dir=place.teacher_run)


def _data_of(place: _Place, recipe: dict[str, Any]) -> dict[str, Any]:
    """A shipped teacher is measured on this demo's data and tasks."""
    ours = plain(place.recipe("teacher"))
    return {**recipe, "data": ours["data"], "evaluate": ours["evaluate"]}


def _collect(place: _Place) -> None:
    pipeline.collect(place.recipe("teacher"))


def _prepare(place: _Place) -> None:
    """Latents of the shipped teacher's autoencoder, made once before distillations start side by side."""
    pipeline.prepare_data(place.recipe("flash_wam"))


def _distill(place: _Place, method: str, seed: int, rate: float | None = None) -> None:
    if place.preset.rates and seed == 0 and rate is None and "@" not in method:
        _take_chosen(place, method)
        return
    pipeline.distill(place.recipe(method, seed=seed, rate=rate), run_dir=place.run(method, seed, rate))
    if rate is not None:
        evaluate(place.run(method, seed, rate), closed_loop=False)


def _take_chosen(place: _Place, method: str) -> None:
    """The first seed's run is the one that won the search."""
    chosen = read_mapping(place.rate_file(method))["lr"]
    run = place.run(method, 0)
    if not (place.run(method, 0, chosen) / "student").is_dir():
        # A benchmark restored from its measurements has no weights of the search.
        pipeline.distill(place.recipe(method), run_dir=run)
        return
    ignored = shutil.ignore_patterns("checkpoints", "evaluations")
    with whole_folder(run) as building:
        shutil.copytree(place.run(method, 0, chosen), building, ignore=ignored, dirs_exist_ok=True)


def _choose_rate(place: _Place, method: str) -> None:
    """The learning rate whose student's one-step actions are nearest to the teacher's draws."""
    errors = {}
    for rate in place.preset.rates:
        (result,) = evaluate(place.run(method, 0, rate), closed_loop=False)
        errors[rate] = result["open_loop"]["action_error_teacher"]
    chosen = {
        "lr": min(errors, key=errors.__getitem__),
        "action_error_teacher": {f"{r:g}": e for r, e in errors.items()},
    }
    write_whole(place.rate_file(method), (json.dumps(chosen, indent=1) + "\n").encode())


def _evaluate(checkpoint: Path, nfe: Sequence[str], seed: int, **options: Any) -> None:
    evaluate(checkpoint, nfe=nfe, seed=seed, **options)


def _cross(place: _Place) -> None:
    teacher = load_policy(place.teacher)
    if any(len(stage) > 1 for stage in teacher.wam.stages):
        logger.info("nothing to cross: the streams are drawn together, so a video has its own actions")
        return
    sources = {f"{method} 1v/1a": (load_policy(place.run(method, 0)), "1v/1a") for method in place.preset.cross}
    sources |= {f"teacher {nfe}": (teacher, nfe) for nfe in ("1v/1a", "full")}
    cross_table(sources, out=place.out / "comparison")


def _time(place: _Place) -> None:
    """All models in turns, with nothing beside them."""
    teacher = load_policy(place.teacher)
    sources = [(teacher, nfe) for nfe in dict.fromkeys(("full", "1v/1a", *place.nfe))]
    for method in (*place.preset.methods, *place.preset.longer):
        policy = load_policy(place.run(method, 0))
        sources += [(policy, nfe) for nfe in place.nfe]
    latency_table(sources, out=place.out / "comparison")


def preset_jobs(preset: Preset, out: Path, *, from_scratch: bool = False, family: str = DEFAULT_FAMILY) -> list[Job]:
    """The jobs of a preset, each after those it needs."""
    place = _Place(preset=preset, out=out, family=family)
    recipe = place.recipe("teacher")
    shipped = not from_scratch and place.shipped_teacher is not None
    episodes = recipe.evaluate.episodes * len(recipe.data.tasks)
    driving = 5 + 0.25 * episodes
    jobs = [Job(name="collect", function=_collect, kwargs={"place": place}, weight=60, cores=2)]
    weight = 1 if shipped else 60 + 0.15 * recipe.train.steps
    jobs.append(
        Job(
            name="teacher",
            function=_train_teacher,
            kwargs={"place": place, "from_scratch": from_scratch},
            after=("collect",),
            weight=weight,
        )
    )
    jobs.append(Job(name="latents", function=_prepare, kwargs={"place": place}, after=("teacher",), weight=20))

    def drive(name: str, checkpoint: Path, nfe: str, seed: int, after: str, cost: float, **options: Any) -> Job:
        kwargs = {"checkpoint": checkpoint, "nfe": (nfe,), "seed": seed, **options}
        return Job(name=f"evaluate/{name}", function=_evaluate, kwargs=kwargs, after=(after,), weight=cost)

    for seed in preset.seeds:
        for nfe in dict.fromkeys(("full", "1v/1a", *place.nfe)):
            cost = driving * (2.5 if nfe == "full" else 1)
            jobs.append(drive(f"teacher_{nfe.replace('/', '-')}_{seed}", place.teacher, nfe, seed, "latents", cost))
        for method in preset.methods:
            if seed == 0 and preset.rates:
                jobs += _search_jobs(place, method)
            jobs += _method_jobs(place, method, seed, driving, drive)
    if preset.cross:
        after = tuple(f"distill/{method}_0" for method in preset.cross)
        jobs.append(Job(name="cross", function=_cross, kwargs={"place": place}, after=after, weight=40))
    for method in preset.longer:
        jobs += _method_jobs(place, method, preset.seeds[0], driving, drive)
    for method in preset.methods:
        jobs += _curve_jobs(place, method, driving, drive)
    students = tuple(f"distill/{method}_0".replace("@", "_") for method in (*preset.methods, *preset.longer))
    jobs.append(Job(name="latency", function=_time, kwargs={"place": place}, after=students, weight=20, cores=2))
    return jobs


def _search_jobs(place: _Place, method: str) -> list[Job]:
    """Every learning rate, then the choice."""
    rates = place.preset.rates
    tried = [f"rate/{method}_{rate:g}" for rate in rates]
    weight = _distill_weight(place.recipe(method))
    kwargs = {"place": place, "method": method}
    jobs = [
        Job(name=name, function=_distill, kwargs={**kwargs, "seed": 0, "rate": rate}, after=("latents",), weight=weight)
        for name, rate in zip(tried, rates, strict=True)
    ]
    return [*jobs, Job(name=f"choose/{method}", function=_choose_rate, kwargs=kwargs, after=tuple(tried))]


def _distill_weight(recipe: Recipe) -> float:
    substeps = max(spec.teacher_substeps for spec in recipe.streams.values())
    return 5 + (0.3 + 0.15 * substeps) * recipe.distill.steps


def _method_jobs(place: _Place, method: str, seed: int, driving: float, drive: Any) -> list[Job]:
    preset = place.preset
    recipe = place.recipe(method, seed=seed)
    after = ("latents", f"choose/{method.partition('@')[0]}") if preset.rates else ("latents",)
    longer = method in preset.longer
    name = f"{method}_{seed}".replace("@", "_")
    jobs = [
        Job(
            name=f"distill/{name}",
            function=_distill,
            kwargs={"place": place, "method": method, "seed": seed},
            after=after,
            weight=_distill_weight(recipe),
        )
    ]
    run, done = place.run(method, seed), f"distill/{name}"
    for nfe in place.nfe[: 1 if longer else None]:
        stem = nfe.replace("/", "-")
        jobs.append(drive(f"{name}_{stem}", run, nfe, seed, done, driving))
        if method in preset.euler:
            jobs.append(drive(f"{name}_{stem}_euler", run, nfe, seed, done, driving, plain_euler=True))
    return jobs


def _curve_jobs(place: _Place, method: str, driving: float, drive: Any) -> list[Job]:
    """The first seed's copies over the budget."""
    name, steps = f"{method}_0", place.run(method, 0) / "steps"
    nfe = place.nfe[0]
    return [
        drive(f"{name}_step{step}", steps / f"step_{step}", nfe, 0, f"distill/{name}", driving)
        for step in place.preset.curve
    ]


def demo(
    *,
    preset: str = "quick",
    out: str | Path = "runs/demo",
    from_scratch: bool = False,
    workers: int = 2,
    family: str = DEFAULT_FAMILY,
) -> Path:
    """Runs a preset and keeps its page up to date.

    Args:
        preset: "smoke", "quick", "pilot" or "full".
        out: Folder of everything; an earlier demo in it is continued.
        from_scratch: Train the teacher even where one is shipped.
        workers: Processes at a time.
        family: Of the model, see `flashwam.wam.files.FamilyFiles.miniature`.

    Returns:
        The page, `<out>/index.html`.

    Raises:
        ValueError: unknown preset or family, or `out` holds another demo.
    """
    if preset not in PRESETS:
        raise InputError(f"preset must be one of {sorted(PRESETS)}; got {preset!r}")
    ensure_gl()
    out = user_path(out)
    # The smoke demo trains its own teacher: what it checks is that everything works.
    from_scratch = from_scratch or preset == "smoke"
    place = _Place(preset=PRESETS[preset], out=out, family=family)
    asked = {"preset": preset, "from_scratch": from_scratch, "family": place.family}
    kept = out / "demo.json"
    if kept.is_file() and {"family": DEFAULT_FAMILY, **read_mapping(kept)} != asked:
        raise InputError(f"{out} holds the demo {kept.read_text().strip()}, not {asked}; give another --out")
    write_whole(kept, (json.dumps(asked) + "\n").encode())
    page = _write_page(place, preset, [])
    print(f"schedule analysis: {page} (fills as results come)", flush=True)
    jobs = preset_jobs(PRESETS[preset], out, from_scratch=from_scratch, family=family)
    drawn = time.monotonic()

    def refresh(job: Job) -> None:
        nonlocal drawn
        if job.name.startswith(("evaluate/", "cross", "latency")) and time.monotonic() - drawn > _SECONDS_BETWEEN_PAGES:
            _write_page(place, preset, jobs)
            drawn = time.monotonic()

    run_jobs(jobs, out / "jobs", workers=workers, on_done=refresh)
    compare(_evaluated(place), out=out / "comparison")
    page = _write_page(place, preset, jobs)
    rows, _, _ = gather(_evaluated(place), out / "comparison")
    print(format_table([row for row in rows if row.final]))
    print(f"page: {page}")
    return page


def _evaluated(place: _Place) -> list[Path]:
    """Runs with at least one evaluation."""
    return sorted(folder.parent for folder in (place.out / "runs").glob("*/evaluations") if any(folder.glob("*.json")))


def _write_page(place: _Place, preset: str, jobs: Sequence[Job]) -> Path:
    analysis = {"recipe": "flash_wam", **schedule_analysis(place.recipe("flash_wam").streams)}
    metrics = place.run("flash_wam", 0) / "metrics.jsonl"
    if (place.run("flash_wam", 0) / "student").is_dir():
        analysis["measured"] = measured_gradients(analysis, metrics)
    sections = list(schedule_sections(analysis, place.out / "analysis"))
    runs = _evaluated(place)
    if runs:
        folder = place.out / "comparison"
        rows, curves, cross = gather(runs, folder)
        sections = [*compare_sections(rows, folder, metrics=curves, cross=cross), *sections]
    left = sum(not done_marker(place.out / "jobs", job.name).is_file() for job in jobs)
    lead = (
        "Demonstrations from a physics simulator, a world-action model trained on them, and that teacher distilled to "
        "one step per stream by several methods, all driven in closed loop."
    )
    if not jobs or left:
        lead += " **This page is not finished: results are added as they come.**"
    return write_page(
        place.out / "index.html",
        "From many steps to one: what was done, what it kept, and why",
        sections,
        lead=lead,
        footer=f"Made by `flashwam demo --preset {preset} --family {place.family}`.",
    )
