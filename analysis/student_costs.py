# SPDX-License-Identifier: Apache-2.0
"""Times the students of the comparison: a chunk of each, a step of its training, and what had to be made before it."""

import json
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from student_cells import CONSISTENCY, CONTROLS, MODALITY, PRETRAINED, RATE, STUDENTS, TEACHER, Place
from student_jobs import run_recipe

from flashwam import pipeline
from flashwam.demo.presets import PRESETS
from flashwam.evaluation.latency import latency_timers, time_in_turns
from flashwam.evaluation.policy import load_policy
from flashwam.recipe.load import load_recipe
from flashwam.recipe.sections import Recipe
from flashwam.report.metrics import read_metrics, series
from flashwam.run.folder import RunFolder
from flashwam.sim.privileged import replay_episodes
from flashwam.system.files import whole_folder, write_whole

TIMED_STEPS = 9
_LOOKING = "looking anew"
_FEW_EPISODES = 4


def _here(place: Place) -> list[str]:
    """Students to be timed, whose weights of the first seed are here: what was restored from measurements has none."""
    names = {name for name, seed in place.made() if seed == 0 and RATE not in name}
    return [name for name in STUDENTS if name in names and RunFolder(place.run(name, 0)).results]


def time_latencies(place: Place) -> None:
    """All models in turns, with nothing beside them; of those without weights here the earlier times stay, and what is
    new is told by their clock, see `on_one_clock`."""
    path = place.out / "comparison" / "latency.json"
    earlier = json.loads(path.read_text()) if path.is_file() else {}
    teacher = load_policy(place.teacher)
    sources = [(teacher, nfe) for nfe in ("full", "1v/1a", *CONTROLS[place.family])]
    runs = (RunFolder(place.benchmark_run(name, 0)) for name in CONSISTENCY)
    sources += [(load_policy(run.path), "1v/1a") for run in runs if run.results]
    sources += [(load_policy(place.run(name, 0)), nfe) for name in _here(place) for nfe in STUDENTS[name].nfe]
    timers = latency_timers(sources)
    for name in (n for n in _here(place) if STUDENTS[n].auxiliary):
        import student_modality

        label, timer = student_modality.latency_timer(place.run(name, 0))
        timers[label.replace(name, name + MODALITY)] = timer
    table = time_in_turns(timers, rounds=21)
    write_whole(path, (json.dumps(on_one_clock(earlier, table), indent=1) + "\n").encode())
    print(f"latency of {len(table)} models measured in turns")


def on_one_clock(
    earlier: Mapping[str, Mapping[str, float]], table: Mapping[str, Mapping[str, float]]
) -> dict[str, Mapping[str, float]]:
    """Joins times of two machines, or of two days.

    Args:
        earlier: Label -> part of a chunk -> milliseconds.
        table: The same of a later run, in which models took turns; it begins with the teacher's own steps.

    Returns:
        The later run where it has everything. Else the earlier times, and of the later run what they lack, by its share
        of the teacher's chunk in that run.
    """
    teacher = next(iter(table))
    if teacher not in earlier or not set(earlier) - set(table):
        return {**earlier, **table}
    clock = earlier[teacher]["chunk_ms"] / table[teacher]["chunk_ms"]
    added = {label: {part: clock * ms for part, ms in told.items()} for label, told in table.items()}
    return {**added, **earlier}


def time_training(place: Place, *, turns: int = 2) -> None:
    """Seconds a training step of every recipe, in turns, with nothing beside them, and what the whole took; of students
    without weights here the earlier costs stay."""
    path = place.out / "comparison" / "costs.json"
    earlier = json.loads(path.read_text()) if path.is_file() else {}
    data = f"data.root={place.benchmark / 'data'}"
    # Its own autoencoder would take the place of that of the data's latents.
    known = f"autoencoder.pretrained={place.teacher / 'vae'}"
    recipes = {TEACHER: load_recipe(place.path("metaworld/teacher"), [data, known])}
    for name in (name for name in CONSISTENCY if name not in earlier):
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
            run = RunFolder(place.out / "timed" / f"{name}_{turn}")
            if not run.metrics.is_file():
                run_recipe(_shortened(recipe, {"looks": 32} if name in pooled else {}), run.path)
            spent.setdefault(name, []).append(seconds_a_step(read_metrics(run.metrics)))
    recipes.pop(_LOOKING, None)
    costs = tell_costs(recipes, {name: min(each) for name, each in spent.items()}, time_preparation(place), earlier)
    for name in (name for name in (TEACHER, *CONSISTENCY) if name not in earlier):
        folder = place.teacher if name == TEACHER else place.benchmark_run(name, 0)
        costs[name]["parameters"] = load_policy(folder).wam.deployed_parameters()
    write_whole(path, (json.dumps(costs, indent=1) + "\n").encode())


def tell_costs(
    recipes: Mapping[str, Recipe],
    steps: Mapping[str, float],
    once: Mapping[str, float],
    earlier: Mapping[str, dict[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Costs of every student in seconds of one core, of its own training and of what came before.

    Args:
        recipes: Name -> what was timed.
        steps: Name -> seconds of a step; `_LOOKING` -> those of a step that looks anew, as the first student whose
            looks are made before otherwise does not.
        once: What comes before training -> seconds.
        earlier: Costs of another machine, or of another day: their teacher's step is the clock by which these are told,
            and what was timed there alone, the teacher and the consistency students stay.
    """
    clock = earlier[TEACHER]["seconds_a_step"] / steps[TEACHER] if TEACHER in earlier else 1.0
    own = {name: clock * steps[name] * _steps(recipe) for name, recipe in recipes.items()}
    pooled = [name for name, recipe in recipes.items() if _option(recipe, "looks")]
    for name in pooled:
        recipe = recipes[name]
        look = clock * (steps[_LOOKING] - steps[pooled[0]]) / recipe.distill.batch_size
        own[name] += _option(recipe, "looks") * look
    once = {name: clock * seconds for name, seconds in once.items()}
    costs: dict[str, dict[str, Any]] = {
        name: {"training": own[name], "before": before(name, own, once), "seconds_a_step": clock * steps[name]}
        for name in recipes
    }
    costs |= {name + MODALITY: costs[name] for name in costs if name in STUDENTS and STUDENTS[name].auxiliary}
    known = {name: earlier[name] for name in (TEACHER, *CONSISTENCY) if name in earlier}
    return {**earlier, **costs, **known}


def seconds_a_step(metrics: Sequence[Mapping[str, Any]]) -> float:
    """Median over a run's logged steps but the first three."""
    return statistics.median(1 / rate for rate in series(metrics, "steps_per_second")[1][3:])


def _section(recipe: Recipe) -> str:
    return "train" if recipe.distill is None else "distill"


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
    tasks = place.recipe("swift_full", 0).data.tasks
    root, few = place.benchmark / "data", place.out / "timed" / "data"
    shutil.rmtree(few, ignore_errors=True)
    every = [len(_take(root / task, few / task, _FEW_EPISODES)) for task in tasks]
    share = sum(every) / (_FEW_EPISODES * len(tasks))

    def clock(call: Callable[[], Any]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    records = share * clock(partial(replay_episodes, few, tasks, processes=1, progress=False))
    import student_modality

    spent = {"records": records, "geometry and tokens": student_modality.time_tokens(place, few, share, clock)}
    starts = {cell.start for cell in STUDENTS.values()}
    for name in (n for n in STUDENTS if "decouplers" in n and n in starts and place.has(n)):
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
    for name, cell in STUDENTS.items():
        if place.has(name) and _option(recipe := place.recipe(name, 0), "actions") == "teacher":
            # Those of the decouplers are there.
            drawn = _option(place.recipe(cell.start, 0), "pool")
            spent[name] = each * max(0, _option(recipe, "pool") - drawn)
    write_whole(kept, (json.dumps(spent, indent=1) + "\n").encode())
    return spent


def _take(repo: Path, few: Path, count: int) -> list[str]:
    """The first episodes of a repo as one of their own; returns all there are."""
    listed = (repo / "meta" / "episodes.jsonl").read_text().splitlines()
    with whole_folder(few) as building:
        shutil.copytree(repo / "meta", building / "meta")
        write_whole(building / "meta" / "episodes.jsonl", "\n".join(listed[:count]) + "\n")
        for name in ("data", "videos"):
            (building / name).symlink_to((repo / name).resolve())
    return listed


def before(name: str, own: dict[str, float], once: dict[str, float]) -> dict[str, float]:
    """Seconds of one core for everything that had to be made first."""
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
