# SPDX-License-Identifier: Apache-2.0
"""The work of each job of a demo; every one goes on where it was."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flashwam.demo.filming import film_best
from flashwam.demo.place import Place
from flashwam.demo.presets import LATE_EPISODES, LATE_TASKS
from flashwam.evaluation.baselines import evaluate_baseline
from flashwam.evaluation.cross import cross_table
from flashwam.evaluation.latency import latency_table
from flashwam.evaluation.local import evaluate
from flashwam.evaluation.policy import load_policy
from flashwam.evaluation.real_time import evaluate_real_time
from flashwam.pipeline.data import collect, prepare_data
from flashwam.pipeline.training import distill, train
from flashwam.recipe.build import plain
from flashwam.recipe.sections import Recipe
from flashwam.run.card import renew_card
from flashwam.run.folder import CARD_FILE, INFO_FILE, RunFolder
from flashwam.system.files import whole_folder, write_whole
from flashwam.system.json_file import read_mapping
from flashwam.system.released import License

__all__ = [
    "choose_rate",
    "collect_episodes",
    "cross",
    "cross_students",
    "distil",
    "drive",
    "drive_late",
    "drive_random",
    "encode_episodes",
    "film",
    "make_teacher",
    "take_shipped",
    "time_all",
]

logger = logging.getLogger(__name__)


def make_teacher(place: Place, from_scratch: bool) -> None:
    """Takes the shipped teacher over, or trains one."""
    shipped = place.shipped_teacher
    if from_scratch or shipped is None:
        train(place.recipe("teacher"), run_dir=place.teacher_run)
    else:
        take_shipped(shipped, place.teacher, place.recipe("teacher"))


def take_shipped(shipped: Path, taken: Path, recipe: Recipe) -> None:
    """Takes a shipped teacher over, to be measured on a recipe's data and tasks."""
    with whole_folder(taken) as building:
        shutil.copytree(shipped, building, ignore=shutil.ignore_patterns(CARD_FILE), dirs_exist_ok=True)
        info = read_mapping(building / INFO_FILE)
        ours = plain(recipe)
        info["recipe"] |= {"data": ours["data"], "evaluate": ours["evaluate"]}
        write_whole(building / INFO_FILE, json.dumps(info, indent=2) + "\n")
        renew_card(building, license=License.of_card(shipped / CARD_FILE))


def collect_episodes(place: Place) -> None:
    """Collects the demonstrations that every run learns from."""
    collect(place.recipe("teacher"))


def encode_episodes(place: Place) -> None:
    """Encodes the episodes with the teacher's autoencoder, once before distillations start side by side."""
    prepare_data(place.recipe("flash_wam"))


def distil(place: Place, method: str, seed: int, rate: float | None = None) -> None:
    """Distils a student; with `rate` one of the search, judged by its actions alone."""
    if place.preset.rates and seed == 0 and rate is None and "@" not in method:
        _take_chosen(place, method)
        return
    distill(place.recipe(method, seed=seed, rate=rate), run_dir=place.run(method, seed, rate))
    if rate is not None:
        evaluate(place.run(method, seed, rate), nfe=("1v/1a",), closed_loop=False)


def _take_chosen(place: Place, method: str) -> None:
    """The first seed's run is the one that won the search."""
    chosen = read_mapping(place.rate_file(method))["lr"]
    run, won = place.run(method, 0), RunFolder(place.run(method, 0, chosen))
    if not won.result("student").is_dir():
        # A benchmark restored from its measurements has no weights of the search.
        distill(place.recipe(method), run_dir=run)
        return
    ignored = shutil.ignore_patterns(won.checkpoints.name, won.evaluations.name)
    with whole_folder(run) as building:
        shutil.copytree(won.path, building, ignore=ignored, dirs_exist_ok=True)


def choose_rate(place: Place, method: str) -> None:
    """Takes the learning rate whose student's one-step actions are nearest to the teacher's draws."""
    errors = {}
    for rate in place.preset.rates:
        (result,) = evaluate(place.run(method, 0, rate), nfe=("1v/1a",), closed_loop=False)
        errors[rate] = result["open_loop"]["action_error_teacher"]
    chosen = {
        "lr": min(errors, key=errors.__getitem__),
        "action_error_teacher": {f"{r:g}": e for r, e in errors.items()},
    }
    write_whole(place.rate_file(method), (json.dumps(chosen, indent=1) + "\n").encode())


def drive(checkpoint: Path, nfe: Sequence[str], seed: int, **options: Any) -> None:
    """Evaluates a checkpoint, in closed and open loop."""
    evaluate(checkpoint, nfe=nfe, seed=seed, **options)


def drive_late(place: Place, checkpoint: Path, nfe: str) -> None:
    """Evaluates a checkpoint in worlds that do not wait, by every clock of the preset."""
    clocks = place.preset.clocks
    evaluate_real_time(checkpoint, clocks=clocks, nfe=(nfe,), tasks=LATE_TASKS, episodes=LATE_EPISODES)


def drive_random(place: Place, seed: int) -> None:
    """Evaluates random actions on the demo's tasks, in the scenes that the models are driven in."""
    recipe = place.recipe("teacher")
    evaluate_baseline(
        "random",
        tasks=recipe.tasks,
        episodes=recipe.evaluate.episodes,
        seed=seed,
        out=RunFolder(place.out / "runs" / "random").evaluations,
    )


def cross(place: Place) -> None:
    """Lets every model act on every other's video, to tell what a mistake is due to."""
    cross_students(place, {method: place.run(method, 0) for method in place.preset.cross})


def cross_students(place: Place, students: Mapping[str, Path]) -> None:
    """Lets students, name -> folder, and their teacher act on each other's video in one step each."""
    teacher = load_policy(place.teacher)
    if any(len(stage) > 1 for stage in teacher.wam.stages):
        logger.info("nothing to cross: the streams are drawn together, so a video has its own actions")
        return
    sources = {f"{name} 1v/1a": (load_policy(folder), "1v/1a") for name, folder in students.items()}
    sources |= {f"teacher {nfe}": (teacher, nfe) for nfe in ("1v/1a", "full")}
    cross_table(sources, out=place.out / "comparison")


def time_all(place: Place) -> None:
    """Times all models in turns, with nothing beside them."""
    teacher = load_policy(place.teacher)
    sources = [(teacher, nfe) for nfe in place.teacher_nfe]
    for method in (*place.preset.methods, *place.preset.longer):
        policy = load_policy(place.run(method, 0))
        sources += [(policy, nfe) for nfe in place.nfe]
    latency_table(sources, out=place.out / "comparison")


def film(place: Place) -> None:
    """Films the teacher and the best student in one scene, by the robot's clock, if both were driven and timed."""
    made = film_best(place.evaluated, place.out / "comparison", place.preset.film, teacher=place.teacher)
    if made is None:
        logger.warning("no film: it needs a teacher and a student that were driven and timed")
