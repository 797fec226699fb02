# SPDX-License-Identifier: Apache-2.0
"""Every way to a cheap student, on one teacher, the same data and the same episodes: one table, one figure.

    python analysis/benchmark.py           first: data, teacher and the consistency students, in runs/full
    python analysis/students.py            the rest of the students (hours), then the comparison
    python analysis/students.py --seeds 0  one seed of each
    python analysis/students.py --compare  the comparison of what there is so far
    python analysis/students.py --family cogvideox   the other family's teacher (kept apart)

Results go to analysis/results/students: every measurement as JSON, table, figure, which of the orders that the papers
report hold here, and what other learning rates come to. A run that was killed goes on where it was, on another machine
from what was kept.
"""

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmark import copy, restore, write_about

from flashwam import pipeline
from flashwam.demo.run import DEFAULT_FAMILY, PRESETS
from flashwam.evaluation.local import evaluate, latency_label, latency_timers, load_policy, time_in_turns
from flashwam.recipe.load import find_recipe, load_recipe
from flashwam.recipe.sections import Recipe
from flashwam.report.compare import format_table
from flashwam.report.metrics import read_metrics, series
from flashwam.report.results import pool_evaluations, read_evaluations
from flashwam.report.routes import Order, write_routes
from flashwam.sim.privileged import replay_episodes
from flashwam.swiftvla.evaluation import evaluate_with_auxiliary, latency_with_auxiliary, load_with_auxiliary
from flashwam.swiftvla.geometry import GeometryTransformer
from flashwam.swiftvla.geometry_training import train_geometry
from flashwam.swiftvla.streaming import StreamingGeometry
from flashwam.swiftvla.streaming_tokens import StreamingTokens
from flashwam.swiftvla.tokens import encode_tokens
from flashwam.system.files import write_whole
from flashwam.system.jobs import Job, run_jobs
from flashwam.wam.files import FAMILY_FILES, files_of

TEACHER = "teacher"
MODALITY = " with auxiliary"
RATE = "_lr_"
"""In the names of cells that differ from another in their learning rate alone."""
CONSISTENCY = ("on_policy", "best", "flash_wam", "naive_lcm")
TIMED_STEPS = 9
_LOOKING = "looking anew"
_FEW_EPISODES = 4
_KEPT = ("runs/**/evaluations/*.json", "benchmark/*/evaluations/*.json", "runs/*/metrics.jsonl", "runs/*/recipe.yaml")
INIT, PRETRAINED, EYES = "distill.init", "wam.pretrained", "wam.config.primary.pretrained"


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """One cell of the comparison.

    Args:
        recipe: Its recipe.
        start: The cell, or the teacher, that it is made from; None for data alone.
        field: The recipe's field that names that folder.
        nfe: Settings it is driven at; none for a stage that is not driven.
        auxiliary: Whether it is also driven with the modality of its training.
        settings: What differs from the recipe.
    """

    recipe: str
    start: str | None = None
    field: str = INIT
    nfe: tuple[str, ...] = ()
    auxiliary: bool = False
    settings: tuple[str, ...] = ()


def _foresight(suffix: str = "", decouplers: str = "", settings: tuple[str, ...] = ()) -> Student:
    start = f"foresight_decouplers{decouplers}"
    return Student(recipe=f"metaworld/foresight{suffix}", start=start, nfe=("1v/10a",), settings=settings)


def _swift(name: str, *, auxiliary: bool = True, settings: tuple[str, ...] = ()) -> Student:
    return Student(recipe=f"swiftvla/metaworld/{name}", nfe=("full",), auxiliary=auxiliary, settings=settings)


STUDENTS = {
    "foresight_decouplers": Student(recipe="metaworld/foresight_decouplers"),
    "swift_2d": _swift("2d", auxiliary=False),
    "swift_mask_auxiliary": _swift("mask_auxiliary"),
    "swift_mask_auxiliary_one_step": Student(
        recipe="swiftvla/metaworld/one_step", start="swift_mask_auxiliary", field=PRETRAINED, nfe=("1v/1a",)
    ),
    "foresight": _foresight(),
    "foresight_teacher_actions": _foresight("_teacher_actions"),
    "swift_full": _swift("full"),
    "swift_fusion": _swift("fusion"),
    "foresight_one_step": Student(
        recipe="metaworld/foresight_one_step", start="foresight", field=PRETRAINED, nfe=("1v/1a",)
    ),
    "swift_one_step": Student(
        recipe="swiftvla/metaworld/one_step", start="swift_full", field=PRETRAINED, nfe=("1v/1a",)
    ),
    "swift_auxiliary": _swift("auxiliary"),
    "swift_masks": _swift("masks"),
    "swift_mask_auxiliary_reconstruct": _swift("mask_auxiliary_reconstruct"),
    "swift_mask_auxiliary_reconstruct_one_step": Student(
        recipe="swiftvla/metaworld/one_step",
        start="swift_mask_auxiliary_reconstruct",
        field=PRETRAINED,
        nfe=("1v/1a",),
    ),
    "swift_mask_primary": _swift("mask_primary"),
    "foresight_no_raw": _foresight("_no_raw"),
    "foresight_no_semantic": _foresight("_no_semantic"),
    "foresight_no_geometric": _foresight("_no_geometric"),
    "foresight_mean_pool": _foresight("_mean_pool"),
    "foresight_decouplers_ground_truth": Student(recipe="metaworld/foresight_decouplers_ground_truth"),
    "foresight_ground_truth": _foresight("_ground_truth", "_ground_truth"),
    "foresight_decouplers_unpaired": Student(recipe="metaworld/foresight_decouplers_unpaired"),
    "foresight_unpaired": _foresight("_unpaired", "_unpaired"),
    "swift_2d_lr_3e-4": _swift("2d", auxiliary=False, settings=("train.lr=3e-4",)),
    "swift_2d_lr_3e-3": _swift("2d", auxiliary=False, settings=("train.lr=3e-3",)),
    "swift_mask_auxiliary_lr_3e-4": _swift("mask_auxiliary", auxiliary=False, settings=("train.lr=3e-4",)),
    "swift_mask_auxiliary_lr_3e-3": _swift("mask_auxiliary", auxiliary=False, settings=("train.lr=3e-3",)),
    "foresight_lr_3e-4": _foresight(settings=("distill.lr=3e-4",)),
    "foresight_lr_3e-3": _foresight(settings=("distill.lr=3e-3",)),
    "swift_two_stages": _swift("two_stages"),
    "swift_cache_3": _swift("cache_3"),
    "swift_cache_6": _swift("cache_6"),
    "masked_reconstruction": Student(
        recipe="metaworld/masked_reconstruction", start=TEACHER, field=EYES, nfe=("full",), auxiliary=True
    ),
    "masked_reconstruction_2d": Student(
        recipe="metaworld/masked_reconstruction_2d", start=TEACHER, field=EYES, nfe=("full",)
    ),
}
"""In the order in which they are made."""
ABLATIONS_FROM, RATES_FROM, FURTHER_FROM = "swift_auxiliary", "swift_2d_lr_3e-4", "swift_two_stages"
"""Where the ablations begin, the other learning rates, and what goes beyond the papers' tables. The first seed of the
main students and of the ablations comes first, then the other seeds of the main ones, those of the ablations, other
rates with the first seed alone, and the rest."""

ROUTES = {
    "teacher": (TEACHER,),
    "consistency distillation": CONSISTENCY,
    "foresight": ("foresight", *(name for name in STUDENTS if name.startswith("foresight_") and RATE not in name)),
    "modality in training alone": (
        "swift_mask_auxiliary_one_step",
        *(
            name
            for name in STUDENTS
            if name.startswith(("swift_", "masked_")) and name != "swift_mask_auxiliary_one_step" and RATE not in name
        ),
    ),
    "modality there too": tuple(name + MODALITY for name, cell in STUDENTS.items() if cell.auxiliary),
}

ORDERS = (
    *(
        Order(better="foresight", worse=worse, claim=f"S-VAM: {claim}", published=f"4.16, {published} (CALVIN)")
        for worse, claim, published in (
            ("foresight_no_geometric", "geometric foresight helps", "4.01"),
            ("foresight_no_semantic", "semantic foresight helps", "3.99"),
            ("foresight_no_raw", "the features themselves help", "3.93"),
            ("foresight_ground_truth", "the teacher's futures are better targets than true ones", "3.82"),
            ("foresight_mean_pool", "the resampler beats pooling", "3.72"),
        )
    ),
    Order(better="foresight", worse="foresight_unpaired", claim="S-VAM: same noise for look and target", published="-"),
    *(
        Order(better=better, worse=worse, claim=f"SwiftVLA: {claim}", published=f"{published} (RoboTwin)")
        for better, worse, claim, published in (
            ("swift_auxiliary" + MODALITY, "swift_2d", "the modality helps where it is there", ".40, .36"),
            (
                "swift_fusion" + MODALITY,
                "swift_auxiliary" + MODALITY,
                "fusion tokens and trajectory help more",
                ".50, .40",
            ),
            ("swift_fusion" + MODALITY, "swift_fusion", "never masked, it collapses without the modality", ".50, .02"),
            ("swift_mask_auxiliary", "swift_fusion", "masking the modality prevents that", ".40, .02"),
            ("swift_mask_auxiliary", "swift_2d", "so masked, it beats its recipe without the modality", ".40, .36"),
            (
                "swift_mask_auxiliary" + MODALITY,
                "swift_mask_auxiliary",
                "the modality is still worth something",
                ".48, .40",
            ),
            ("swift_masks", "swift_mask_auxiliary", "masking the 2D tokens too helps", ".50, .40 (row uncertain)"),
            (
                "swift_mask_auxiliary_reconstruct",
                "swift_mask_auxiliary",
                "reconstruction helps",
                ".50, .40 (row uncertain)",
            ),
            ("swift_full", "swift_mask_auxiliary_reconstruct", "masking and reconstructing both is best", ".53, .50"),
            ("swift_full", "swift_2d", "the student beats its recipe without the modality", ".53, .36"),
            (
                "swift_mask_auxiliary_reconstruct",
                "swift_2d",
                "so it does where the modality alone is masked and reconstructed",
                ".50, .36 (row uncertain)",
            ),
            ("swift_full" + MODALITY, "swift_full", "the modality is hardly missed", ".55, .53"),
            ("swift_full", "swift_cache_6", "a cache of random size beats 6", ".53, .52"),
            ("swift_cache_6", "swift_cache_3", "a cache of 6 beats 3", ".52, .47"),
        )
    ),
    Order(
        better="masked_reconstruction",
        worse="masked_reconstruction_2d",
        claim="SwiftVLA: the student beats its recipe without the modality through the eyes of a world-action model",
        published="-",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Folders of everything.

    Args:
        out: Of the runs made here.
        results: What is kept of them.
        benchmark: Of the benchmark whose data, teacher and consistency students are used.
        family: The teacher's; a cell of the other family's recipes stands for the one of the same name.
    """

    out: Path
    results: Path
    benchmark: Path
    family: str = DEFAULT_FAMILY

    @property
    def teacher(self) -> Path:
        return self.benchmark / "runs" / TEACHER / TEACHER

    def run(self, name: str, seed: int) -> Path:
        return self.out / "runs" / (name if seed == 0 else f"{name}_seed{seed}")

    def path(self, recipe: str) -> str:
        """The recipe for this family's small model."""
        folder, _, name = recipe.partition("/")
        return f"{files_of(self.family).miniature}/{name}" if folder == "metaworld" else recipe

    def has(self, name: str) -> bool:
        """Whether there is a recipe of this cell for the family."""
        try:
            find_recipe(self.path(STUDENTS[name].recipe))
        except FileNotFoundError:
            return False
        return True

    def recipe(self, name: str, seed: int, more: Sequence[str] = ()) -> Recipe:
        cell = STUDENTS[name]
        settings = [f"data.root={self.benchmark / 'data'}", f"seed={seed}", f"name={name}"]
        if name.startswith("foresight") or cell.field == PRETRAINED:
            settings.append(f"wam.pretrained={self.teacher}")
        else:
            settings.append(f"autoencoder.pretrained={self.teacher / 'vae'}")
        if cell.start is not None:
            start = self.teacher if cell.start == TEACHER else self.run(cell.start, seed) / TEACHER
            settings.append(f"{cell.field}={start}")
        return load_recipe(self.path(cell.recipe), [*settings, *cell.settings, *more])


def _section(recipe: Recipe) -> str:
    return "train" if recipe.distill is None else "distill"


def _run(recipe: Recipe, run_dir: Path) -> None:
    (pipeline.train if recipe.distill is None else pipeline.distill)(recipe, run_dir=run_dir)


def _make(place: Place, name: str, seed: int) -> None:
    _run(place.recipe(name, seed), place.run(name, seed))


def _replay(place: Place) -> None:
    recipe = place.recipe("swift_full", 0)
    replay_episodes(place.benchmark / "data", recipe.data.tasks, processes=recipe.data.processes)


def _tokens(place: Place) -> None:
    recipe = place.recipe("swift_full", 0)
    StreamingTokens(**recipe.train.options["provider"]).prepare(place.benchmark / "data", recipe.data.tasks, seed=0)


def _drive(place: Place, name: str, seed: int, modality: bool) -> None:
    run, nfe = place.run(name, seed), STUDENTS[name].nfe
    if modality:
        evaluate_with_auxiliary(run, nfe=nfe, seed=seed)
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


def with_starts(names: Iterable[str]) -> set[str]:
    """The cells, and those that they are made from."""
    wanted = set(names)
    while more := {STUDENTS[name].start for name in wanted} - wanted - {None, TEACHER}:
        wanted |= more
    return wanted


def student_jobs(place: Place, names: Collection[str], seeds: Sequence[int]) -> list[Job]:
    """Every student's making and driving, what matters most first."""
    kwargs = {"place": place}
    jobs = [
        Job(name="replay", function=_replay, kwargs=kwargs, weight=300, cores=2),
        Job(name="tokens", function=_tokens, kwargs=kwargs, after=("replay",), weight=400),
    ]
    order = list(STUDENTS)
    begin, tried, end = (order.index(name) for name in (ABLATIONS_FROM, RATES_FROM, FURTHER_FROM))
    main, ablations, rates, further = order[:begin], order[begin:tried], order[tried:end], order[end:]
    first, others = seeds[:1], seeds[1:]
    tiers = ((main + ablations, first), (main, others), (ablations, others), (rates, first), (further, seeds))
    for tier, some in tiers:
        for seed in some:
            jobs += [job for name in tier if name in names for job in _cell_jobs(place, name, seed)]
    return jobs


def _benchmark_run(place: Place, name: str, seed: int) -> Path:
    return place.benchmark / "runs" / (name if seed == 0 or name == TEACHER else f"{name}_seed{seed}")


def made(place: Place) -> Iterator[tuple[str, int]]:
    """Students, with their seeds, that have an evaluation."""
    for name, cell in STUDENTS.items():
        for seed in range(10):
            if cell.nfe and any((place.run(name, seed) / "evaluations").glob("*.json")):
                yield name, seed


def _here(place: Place) -> list[str]:
    """Students to be timed, whose weights of the first seed are here: what was restored from measurements has none."""
    names = {name for name, seed in made(place) if seed == 0 and RATE not in name}
    return [name for name in STUDENTS if name in names and any(place.run(name, 0).glob("*/flashwam.json"))]


def time_latencies(place: Place) -> None:
    """All models in turns, with nothing beside them; of those without weights here the earlier times stay."""
    path = place.out / "comparison" / "latency.json"
    earlier = json.loads(path.read_text()) if path.is_file() else {}
    teacher = load_policy(place.teacher)
    sources = [(teacher, "full"), (teacher, "1v/1a")]
    sources += [(load_policy(_benchmark_run(place, name, 0)), "1v/1a") for name in CONSISTENCY]
    sources += [(load_policy(place.run(name, 0)), nfe) for name in _here(place) for nfe in STUDENTS[name].nfe]
    timers = latency_timers(sources)
    for name in (n for n in _here(place) if STUDENTS[n].auxiliary):
        policy, sense = load_with_auxiliary(place.run(name, 0))
        samplers = policy.samplers("full")
        label = latency_label(policy, samplers).replace(name, name + MODALITY)
        timers[label] = partial(latency_with_auxiliary, policy, sense, samplers, chunks=3)
    table = time_in_turns(timers, rounds=21)
    write_whole(path, (json.dumps(earlier | table, indent=1) + "\n").encode())
    print(f"latency of {len(table)} models measured in turns")


def time_training(place: Place, *, turns: int = 2) -> None:
    """Seconds a training step of every recipe, in turns, with nothing beside them, and what the whole took."""
    data = f"data.root={place.benchmark / 'data'}"
    # Its own autoencoder would take the place of that of the data's latents.
    known = f"autoencoder.pretrained={place.teacher / 'vae'}"
    recipes = {TEACHER: load_recipe(place.path("metaworld/teacher"), [data, known])}
    for name in CONSISTENCY:
        settings = [*PRESETS["full"].distill, data, f"{PRETRAINED}={place.teacher}"]
        recipes[name] = load_recipe(place.path(f"metaworld/{name}"), settings)
    cells = set(_here(place))
    cells |= {STUDENTS[name].start for name in cells} - {None, TEACHER}
    recipes |= {name: place.recipe(name, 0) for name in STUDENTS if name in cells}
    spent: dict[str, list[float]] = {}
    # Looks are made before the first step: what one takes is what a step that looks anew takes longer.
    pooled = {name: recipe for name, recipe in recipes.items() if _option(recipe, "looks")}
    if pooled:
        recipes[_LOOKING] = place.recipe(next(iter(pooled)), 0, ["distill.options.looks=null"])
    for turn in range(turns):
        for name, recipe in recipes.items():
            run = place.out / "timed" / f"{name}_{turn}"
            if not (run / "metrics.jsonl").is_file():
                _run(_shortened(recipe, {"looks": 32} if name in pooled else {}), run)
            spent.setdefault(name, []).append(seconds_a_step(read_metrics(run / "metrics.jsonl")))
    own = {name: min(spent[name]) * _steps(recipe) for name, recipe in recipes.items()}
    for name, recipe in pooled.items():
        look = (min(spent[_LOOKING]) - min(spent[next(iter(pooled))])) / recipe.distill.batch_size
        own[name] += _option(recipe, "looks") * look
    recipes.pop(_LOOKING, None)
    once = time_preparation(place)
    costs = {name: {"training": own[name], "before": before(name, own, once)} for name in recipes}
    costs |= {name + MODALITY: costs[name] for name in costs if name in STUDENTS and STUDENTS[name].auxiliary}
    for name in (TEACHER, *CONSISTENCY):
        folder = place.teacher if name == TEACHER else _benchmark_run(place, name, 0)
        costs[name]["parameters"] = load_policy(folder).wam.deployed_parameters()
    for name, cost in costs.items():
        cost["seconds_a_step"] = min(spent[name.removesuffix(MODALITY)])
    path = place.out / "comparison" / "costs.json"
    earlier = json.loads(path.read_text()) if path.is_file() else {}
    write_whole(path, (json.dumps(earlier | costs, indent=1) + "\n").encode())


def seconds_a_step(metrics: Sequence[Mapping[str, Any]]) -> float:
    """Median over a run's logged steps but the first three."""
    return statistics.median(1 / rate for rate in series(metrics, "steps_per_second")[1][3:])


def _shortened(recipe: Recipe, options: Mapping[str, Any]) -> Recipe:
    loop = getattr(recipe, _section(recipe))
    few = replace(loop, steps=TIMED_STEPS, log_every=1, warmup_steps=0, options={**loop.options, **options})
    return replace(recipe, **{_section(recipe): few})


def _option(recipe: Recipe, key: str) -> Any:
    return None if recipe.distill is None else recipe.distill.options.get(key)


def _steps(recipe: Recipe) -> int:
    return getattr(recipe, _section(recipe)).steps


def time_preparation(place: Place) -> dict[str, float]:
    """Core seconds of what comes before training, from a few episodes of each task or a few windows of the pool."""
    kept = place.out / "timed" / "preparation.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    recipe = place.recipe("swift_full", 0)
    tasks, provider = recipe.data.tasks, StreamingTokens(**recipe.train.options["provider"])
    root, few = place.benchmark / "data", place.out / "timed" / "data"
    shutil.rmtree(few, ignore_errors=True)
    every = [len(_take(root / task, few / task, _FEW_EPISODES)) for task in tasks]
    share = sum(every) / (_FEW_EPISODES * len(tasks))

    def clock(call: Callable[[], Any]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    records = share * clock(partial(replay_episodes, few, tasks, processes=1, progress=False))
    trained = GeometryTransformer.from_pretrained(root / "geometry")
    learn = partial(train_geometry, few, config=trained.config, progress=False)
    start, more = (clock(partial(learn, folder=few / f"geometry_{steps}", steps=steps)) for steps in (20, 60))
    stream = StreamingGeometry(trained, side=provider.side)
    encode = clock(partial(encode_tokens, few, stream, capacities=provider.capacities, progress=False))
    spent = {"records": records, "geometry and tokens": (more - start) / 40 * provider.steps + share * encode}
    for name in (n for n in STUDENTS if "decouplers" in n and place.has(n)):
        pool = place.recipe(name, 0).distill.options["pool"]
        # One step leaves what decouplers learn from beside the data; other seeds than those of the cells make it anew.
        short = ["distill.steps=1", "distill.warmup_steps=0"]
        start, more = (
            clock(
                partial(
                    pipeline.distill,
                    place.recipe(name, seed, [*short, f"distill.options.pool={size}"]),
                    run_dir=place.out / "futures" / f"{name}_{seed}",
                )
            )
            for seed, size in ((100, 32), (101, 96))
        )
        # Of the teacher's draws, and the looks of vision models at them.
        each = (more - start) / 64
        spent[name] = start + (pool - 32) * each
    spent |= {
        name: each * _option(place.recipe(name, 0), "pool")
        for name in STUDENTS
        if place.has(name) and _option(place.recipe(name, 0), "actions") == "teacher"
    }
    write_whole(kept, (json.dumps(spent, indent=1) + "\n").encode())
    return spent


def _take(repo: Path, few: Path, count: int) -> list[str]:
    """The first episodes of a repo as one of their own; returns all there are."""
    shutil.copytree(repo / "meta", few / "meta")
    listed = (repo / "meta" / "episodes.jsonl").read_text().splitlines()
    (few / "meta" / "episodes.jsonl").write_text("\n".join(listed[:count]) + "\n")
    for name in ("data", "videos"):
        (few / name).symlink_to((repo / name).resolve())
    return listed


def before(name: str, own: dict[str, float], once: dict[str, float]) -> dict[str, float]:
    """What had to be made first -> seconds of one core."""
    if name == TEACHER:
        return {}
    if name in CONSISTENCY:
        return {TEACHER: own[TEACHER]}
    cell = STUDENTS[name]
    spent = {}
    if name.startswith("foresight"):
        spent = {TEACHER: own[TEACHER], "records": once["records"]}
    if name in once:
        spent["futures"] = once[name]
    if "2d" not in name and not name.startswith("foresight"):
        spent = {key: once[key] for key in ("records", "geometry and tokens")}
    if cell.start is not None:
        start = cell.start
        earlier = {} if start == TEACHER else before(start, own, once)
        futures = spent.get("futures", 0) + earlier.get("futures", 0)
        spent |= {**earlier, start: own[start], **({"futures": futures} if futures else {})}
    return spent


def _measured_before(place: Place) -> Iterator[Path]:
    """The benchmark's own evaluations at the settings that are compared, copied beside the others."""
    for name in (TEACHER, *CONSISTENCY):
        for seed in range(1 if name == TEACHER else 3):
            run = _benchmark_run(place, name, seed)
            settings = ("full", "1v-1a") if name == TEACHER else ("1v-1a",)
            wanted = tuple(f"evaluations/*_{nfe}_own_seed?.json" for nfe in settings)
            copy(run, place.out / "benchmark" / run.name, wanted)
            yield place.out / "benchmark" / run.name


def write_rates(place: Place) -> None:
    """Writes `rates.md`, the first seed of what was tried at several learning rates, if anything was."""
    there = {name for name, seed in made(place) if seed == 0}
    bases = dict.fromkeys(name.partition(RATE)[0] for name in STUDENTS if RATE in name and name in there)
    if not bases:
        return
    names = [name for base in bases for name in STUDENTS if name.partition(RATE)[0] == base]
    results = [result for name in names if name in there for result in read_evaluations(place.run(name, 0))]
    rows = sorted(pool_evaluations(results), key=lambda row: names.index(row.run))
    # Nothing else differs, and each was timed beside other jobs.
    rows = [replace(row, latency={}, parameters={}) for row in rows]
    write_whole(place.out / "comparison" / "rates.md", format_table(rows, markdown=True) + "\n")


def command(place: Place) -> str:
    """The call that makes what there is."""
    family = "" if place.family == DEFAULT_FAMILY else f" --family {place.family}"
    done = list(made(place))
    names, seeds = {name for name, _ in done}, sorted({seed for _, seed in done})
    missing = {name for name, cell in STUDENTS.items() if cell.nfe and place.has(name)} - names
    only = f" --only {' '.join(name for name in STUDENTS if name in names)}" if missing else ""
    return f"python analysis/students.py{family} --seeds {' '.join(map(str, seeds))}{only}"


def report(place: Place) -> None:
    """Table, figure and orders of what there is, beside the measurements."""
    out = place.out / "comparison"
    runs = list(_measured_before(place))
    for name, seed in made(place):
        run = place.run(name, seed)
        runs.append(run)
        if any((run / "with_auxiliary" / "evaluations").glob("*.json")):
            runs.append(run / "with_auxiliary")
    write_routes(runs, out=out, routes=ROUTES, orders=ORDERS)
    write_rates(place)
    count = copy(place.out, place.results, _KEPT)
    count += copy(place.out, place.results, ("comparison/*.json", "comparison/*.md", "comparison/*.png", "jobs/*.done"))
    write_about(place.results, command(place))
    print(f"{count} files kept in {place.results}")


def main() -> None:
    """Make, drive, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=sorted(FAMILY_FILES), default=DEFAULT_FAMILY)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(STUDENTS), default=list(STUDENTS), metavar="STUDENT")
    parser.add_argument("--compare", action="store_true", help="make nothing, compare what there is")
    arguments = parser.parse_args()
    prefix = "" if arguments.family == DEFAULT_FAMILY else f"{arguments.family}_"
    place = Place(
        out=Path("runs") / f"{prefix}students",
        results=Path("analysis/results") / f"{prefix}students",
        benchmark=Path("runs") / f"{prefix}full",
        family=arguments.family,
    )
    if not (place.teacher / "flashwam.json").is_file():
        raise SystemExit(f"{place.teacher} is missing: run analysis/benchmark.py --family {place.family} first")
    if not arguments.compare:
        names = with_starts(name for name in arguments.only if place.has(name))
        jobs = student_jobs(place, names, arguments.seeds)
        restore(place.results, place.out, jobs, (*_KEPT, "jobs/*.done", "comparison/*.json"))
        run_jobs(jobs, place.out / "jobs")
        time_latencies(place)
        time_training(place)
    report(place)


if __name__ == "__main__":
    main()
