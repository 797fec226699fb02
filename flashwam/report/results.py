# SPDX-License-Identifier: Apache-2.0
"""Evaluation results of runs, read and pooled into the rows of a comparison."""

import logging
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flashwam.core.pairing import Episode
from flashwam.core.scenes import EVAL_SEED_BASE, evaluation_scene
from flashwam.report.distinct import distinct_evaluations, runs_apart
from flashwam.report.recipes import run_recipe
from flashwam.report.row import Row, Share
from flashwam.report.study import find_study, study_evaluations
from flashwam.run.conventions import Conventions
from flashwam.run.evaluation import Evaluation, TaskNumbers, read_real_time, read_run
from flashwam.run.folder import RunFolder
from flashwam.system.errors import MissingFileError
from flashwam.system.paths import user_path

__all__ = ["pool_evaluations", "read_evaluations", "read_real_time_evaluations", "training_seeds"]

logger = logging.getLogger(__name__)


def read_evaluations(run: Path | str) -> list[Evaluation]:
    """Reads a run's evaluations, or those of a study's runs, in worlds that waited for their policy.

    Args:
        run: A folder with `evaluations/*.json`, a study's folder, or that of a run in one (`flashwam.report.study`).

    Raises:
        FileNotFoundError: where the folder or its evaluations are missing.
        ValueError: for a file or a line that is not an evaluation.
    """
    folder = user_path(run)
    study = None if RunFolder(folder).evaluation_files else find_study(folder)
    if study is None:
        return read_run(folder)
    found = [result for result in _of_study(study, folder) if result.real_time is None]
    if not found:
        raise MissingFileError(f"{study} has no evaluations of a run {folder.relative_to(study)}")
    return found


def read_real_time_evaluations(run: Path | str) -> list[Evaluation]:
    """Reads a run's evaluations, or those of a study's runs, in worlds that did not wait; none where there are none.

    Args:
        run: See `read_evaluations`.

    Raises:
        ValueError: for a file or a line that is not an evaluation.
    """
    folder = user_path(run)
    if found := read_real_time(folder):
        return found
    study = find_study(folder)
    if study is None:
        return []
    return [one for one in _of_study(study, folder) if one.real_time is not None]


def _of_study(study: Path, folder: Path) -> Iterator[Evaluation]:
    """Evaluations of a study's run, or of all of them; those of other runs are not even checked."""
    for file, content in study_evaluations(study):
        if file.is_relative_to(folder):
            found = Evaluation.from_json(content, file, file=file)
            if folder in (study, found.folder):
                yield found


def _mean(dicts: Sequence[Mapping[str, float] | None]) -> dict[str, float]:
    collected: dict[str, list[float]] = {}
    for values in dicts:
        for key, value in (values or {}).items():
            collected.setdefault(key, []).append(float(value))
    return {key: sum(values) / len(values) for key, values in collected.items()}


def _timed_alike(parts: Sequence[Evaluation]) -> Sequence[Evaluation]:
    """Those whose latency is of the passes alone, or, where there are none, of round trips to a server."""
    return [one for one in parts if not one.round_trip] or parts


def _tasks(result: Evaluation) -> dict[str, Share]:
    return {
        name: Share(
            successes=task.success,
            episodes=task.episodes,
            commitment=task.commitment,
            multimodal=task.multimodal,
            ways=task.ways if task.multimodal else {},
        )
        for name, task in result.tasks.items()
    }


def pool_evaluations(results: Sequence[Evaluation]) -> list[Row]:
    """Pools evaluations of one run, step, NFE, sampler and convention over seeds, in the order that they first appear.

    Of a run that was measured in its own numbers, what was measured in others is left out and counted: methods are
    compared by what they made, and not by how it was rounded. What was measured twice counts once, see
    `flashwam.report.distinct`.
    Folders whose runs share a name are told apart, see `runs_apart`. Pictures that are named but are not there any more
    are left out; a warning counts them, but for those of a study, which keeps few.
    """
    under = Conventions(results)

    def way(one: Evaluation) -> tuple[Any, ...]:
        return one.run, tuple(one.nfe.items()), one.sampler, one.precision, under.name(one), one.step

    results = runs_apart(_of_one_precision(distinct_evaluations(results, way)), way)
    single = [result for result in results if result.file is not None and result.file.is_file()]
    gone = [one.file for one in single if any(_picture(one, name) is None for name in _named_pictures(one))]
    if gone:
        logger.warning("%d evaluations name pictures that are not there, %s first", len(gone), gone[0])
    groups: dict[tuple[Any, ...], list[Evaluation]] = {}
    for result in results:
        groups.setdefault(way(result), []).append(result)
    last: dict[str, int] = {}
    for run, *_, step in groups:
        last[run] = max(last.get(run, 0), step or 0)
    _warn_of_shorter(results, last)
    return [
        Row(
            run=run,
            kind=parts[0].kind,
            step=step,
            final=(step or 0) == last[run],
            nfe=dict(nfe),
            sampler=sampler,
            seeds=tuple((part.seed, _tasks(part)) for part in parts),
            open_loop=_mean([p.open_loop for p in parts]),
            latency=_mean([p.latency for p in _timed_alike(parts)]),
            round_trip=all(p.round_trip for p in parts),
            stages=parts[0].stages,
            motion=tuple(one for p in parts for one in _motion(p, lambda numbers: numbers.motion)),
            first_motion=tuple(one for p in parts for one in _motion(p, lambda numbers: numbers.first_motion)),
            strips=tuple(path for p in parts if (path := _picture(p, p.strip)) is not None),
            films=tuple(path for p in parts if (path := _picture(p, p.film)) is not None),
            task_films=_first_films(parts),
            parameters=next((p.parameters for p in parts if p.parameters), {}),
            folders=tuple(dict.fromkeys(part.folder for part in parts)),
            training_seeds=training_seeds(parts),
            outcomes=_outcomes(parts),
            family=next((part.family for part in parts if part.family), ""),
            taught_by=_teachers(parts),
            guided=bool(parts[0].guidance),
            precision=precision,
            convention=convention,
        )
        for (run, nfe, sampler, precision, convention, step), parts in groups.items()
    ]


def _teachers(parts: Sequence[Evaluation]) -> frozenset[str]:
    """Names of the runs that students' recipes take their teacher from."""
    folders = dict.fromkeys(part.folder for part in parts if part.kind == "student")
    told = [recipe.get("wam") for folder in folders if (recipe := run_recipe(folder)) is not None]
    paths = [wam.get("pretrained") for wam in told if isinstance(wam, Mapping)]
    return frozenset(RunFolder.of_model(Path(path)).name for path in paths if isinstance(path, str))


def _warn_of_shorter(results: Sequence[Evaluation], last: Mapping[str, int]) -> None:
    """Names runs of which some training was not evaluated where the others end: it is in no row of the last step."""
    ends: dict[str, dict[int | None, int]] = {}
    for one in results:
        own = ends.setdefault(one.run, {})
        own[one.training_seed] = max(own.get(one.training_seed, 0), one.step or 0)
    for run, steps in ends.items():
        short = [f"{seed} ({step})" for seed, step in steps.items() if step < last[run]]
        if short:
            told = "%s is compared after %d steps; trainings of these seeds were evaluated after fewer alone: %s"
            logger.warning(told, run, last[run], ", ".join(short))


def _of_one_precision(results: Sequence[Evaluation]) -> list[Evaluation]:
    own = {result.run for result in results if result.precision == "own"}
    kept = [result for result in results if result.precision == "own" or result.run not in own]
    if len(kept) < len(results):
        logger.info("%d evaluations of rounded models are left out", len(results) - len(kept))
    return kept


def training_seeds(parts: Sequence[Evaluation]) -> tuple[int, ...]:
    """Distinct seeds of the trainings of evaluations; none where one does not tell its own."""
    told = [part.training_seed for part in parts if part.training_seed is not None]
    return tuple(dict.fromkeys(told)) if len(told) == len(parts) else ()


def _outcomes(parts: Sequence[Evaluation]) -> dict[Hashable, dict[Episode, bool]]:
    """Training -> episode -> success, of the evaluations that tell it, see `Row.outcomes`.

    An older evaluation does not tell its training: a folder is one, named by the first seed that it was driven at.
    """
    first: dict[Path, int] = {}
    for part in parts:
        first[part.folder] = min(first.get(part.folder, part.seed or 0), part.seed or 0)
    found: dict[Hashable, dict[Episode, bool]] = {}
    for part in parts:
        training = first[part.folder] if part.training_seed is None else part.training_seed
        for name, task in part.tasks.items():
            won = task.outcomes or ()
            scenes = task.scenes or [evaluation_scene(part.seed or 0, episode) for episode in range(len(won))]
            own = found.setdefault(training, {})
            for scene, success in zip(scenes, won, strict=True):
                own[name if scene >= EVAL_SEED_BASE else (name, part.seed), scene] = bool(success)
    return {training: scenes for training, scenes in found.items() if scenes}


def _motion(
    result: Evaluation, which: Callable[[TaskNumbers], Sequence[float | None] | None]
) -> list[tuple[str, float, bool]]:
    return [
        (name, float(alike), bool(success))
        for name, task in result.tasks.items()
        for alike, success in zip(which(task) or (), task.outcomes or (), strict=False)
        if alike is not None
    ]


def _task_films(result: Evaluation) -> dict[str, str]:
    """Task -> name of a picture, of those that its simulator names."""
    simulator = result.more.get("simulator")
    films = simulator.get("films") if isinstance(simulator, Mapping) else None
    return {task: name for task, name in films.items() if isinstance(name, str)} if isinstance(films, Mapping) else {}


def _named_pictures(result: Evaluation) -> list[str]:
    return [name for name in (result.strip, result.film, *_task_films(result).values()) if name]


def _first_films(parts: Sequence[Evaluation]) -> dict[str, Path]:
    """Task -> picture of it that is there, the first part's."""
    found: dict[str, Path] = {}
    for part in parts:
        for task, name in _task_films(part).items():
            if task not in found and (path := _picture(part, name)) is not None:
                found[task] = path
    return found


def _picture(result: Evaluation, name: str | None) -> Path | None:
    if not name or result.file is None:
        return None
    places = (result.folder / name, result.file.parent / name)
    return next((path for path in places if path.is_file()), None)
