# SPDX-License-Identifier: Apache-2.0
"""The film at the top of a page: the teacher beside the best student, in the first scene of some tasks."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from flashwam.demo.film import Take, frames_of, play, write_gif
from flashwam.evaluation.policy import load_policy
from flashwam.report.against import teacher_of
from flashwam.report.compare import gather
from flashwam.report.film import FILM, STILL, tell_film
from flashwam.report.row import Row
from flashwam.report.verdict import best_student
from flashwam.run.folder import INFO_FILE, RunFolder
from flashwam.run.model_info import ModelInfo
from flashwam.run.model_note import model_note
from flashwam.sim.local_policy import LocalPolicy
from flashwam.sim.simulators import get_task
from flashwam.system.errors import MissingFileError
from flashwam.system.files import whole_file
from flashwam.system.paths import user_path

__all__ = ["film_best"]

_SIDE, _COLOURS, _REST_MS = 208, 96, 800
_LEAST_STEP_MS, _MOST_FRAMES, _LONGEST_MS = 40, 200, 12_000


def film_best(
    runs: Sequence[Path | str], folder: Path, tasks: Sequence[str], *, teacher: Path | None = None
) -> Path | None:
    """Writes film, still and words into the folder of a comparison, before it is written.

    Args:
        runs: Evaluated ones, see `flashwam.report.compare.compare`.
        folder: Of the comparison.
        tasks: Names, in the order of the film.
        teacher: Of its weights, where they are not in its run.

    Returns:
        The film; None where no teacher, or no student, was driven and timed.

    Raises:
        FileNotFoundError: A run has no weights, or none of the step that was measured.
        ImportError: A task's simulator is not installed.
        ValueError: A task is unknown.
    """
    for task in tasks:
        get_task(task)
    rows, *_ = gather(runs, folder)
    student = best_student(rows)
    master = None if student is None else teacher_of(student, rows)
    if master is None or student is None or not all(row.latency.get("chunk_ms") for row in (master, student)):
        return None
    models = [_weights(master, teacher or master.folders[0]), _weights(student, student.folders[0])]
    by_actor = [_takes(row, model, tasks) for row, model in zip((master, student), models, strict=True)]
    return _write(folder, (master, student), dict(zip(tasks, zip(*by_actor, strict=True), strict=True)))


def _takes(row: Row, model: Path, tasks: Sequence[str]) -> list[Take]:
    policy = load_policy(model)
    policy.request(tasks, None)
    policy.wam.choose_precision(row.precision)
    driver = LocalPolicy(policy.wam, policy.samplers(row.steps_text, sampler=row.sampler), policy.codec)
    return [play(driver, task, 0, draw_ms=row.latency["chunk_ms"], size=_SIDE) for task in tasks]


def _weights(row: Row, folder: Path) -> Path:
    """The folder of the weights that a row was measured with: the run's result, its best, or one kept on the way."""
    run = RunFolder(user_path(folder))
    places = [run.path, *run.results, run.best, *(run.steps / name for name in run.kept_names)]
    steps = {place: ModelInfo.read(place).steps for place in places if (place / INFO_FILE).is_file()}
    if row.step is None or not steps:
        return run.path
    for place, step in steps.items():
        if step == row.step:
            return place
    there = ", ".join(f"{place.name} of step {step}" for place, step in steps.items())
    raise MissingFileError(
        f"{row.label} was measured at step {row.step}, and {run.path} has no such weights to film: it has {there}; "
        "evaluate one of these"
    )


def _write(folder: Path, actors: Sequence[Row], scenes: Mapping[str, Sequence[Take]]) -> Path:
    lengths = {task: min(max(take.end for take in takes), _LONGEST_MS) for task, takes in scenes.items()}
    # In hundredths of a second, as a GIF counts.
    step = max(_LEAST_STEP_MS, 10 * math.ceil(sum(lengths.values()) / _MOST_FRAMES / 10))
    draw_ms = [row.latency["chunk_ms"] for row in actors]
    frames = []
    for task, takes in scenes.items():
        shown = frames_of([takes], labels=[row.label for row in actors], draw_ms=draw_ms, step=step, rest=_REST_MS)
        frames += shown[: math.ceil((lengths[task] + _REST_MS) / step)]
    write_gif(frames, folder / FILM, milliseconds=step, colours=_COLOURS)
    with whole_file(folder / STILL) as building:
        frames[-1].save(building, "PNG", optimize=True)
    ends = "; ".join(f"{task}: {_ended(actors, takes, lengths[task])}" for task, takes in scenes.items())
    first = "scene" if len(scenes) == 1 else "scenes of its tasks"
    caption = (
        f"In real time, left {actors[0].label}, right {actors[1].label}: the first {first}, whatever became of it. A "
        f"robot stands still while its model draws a chunk. {ends[0].upper()}{ends[1:]}."
    )
    alt = f"Film of two robot arms side by side, left the teacher's, right the student's. {ends}"
    models = {row.label: model_note(row.folders[0], row.step, beside=folder) for row in actors}
    tell_film(folder, caption=caption, alt=alt, models=models)
    return folder / FILM


def _ended(actors: Sequence[Row], takes: Sequence[Take], shown: float) -> str:
    told = []
    for row, take in zip(actors, takes, strict=True):
        outcome = "succeeds" if take.success else "fails"
        late = f"is still at it after {shown / 1000:.1f} s"
        told.append(f"{row.run} {late if take.end > shown else f'{outcome} after {take.end / 1000:.1f} s'}")
    return ", ".join(told)
