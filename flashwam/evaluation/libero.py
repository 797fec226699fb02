# SPDX-License-Identifier: Apache-2.0
"""Evaluates a model behind a policy server on a suite of LIBERO; one JSON file per suite, gone on with by episode."""

import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from flashwam.core.steps import nfe_text
from flashwam.evaluation.driving import task_numbers
from flashwam.evaluation.libero_episodes import Ended, Place, Unfinished, drive_episodes, film_file
from flashwam.evaluation.served_model import described_by_server, refuse_earlier, served_how
from flashwam.run.evaluation import Asked, Evaluation, evaluation_name
from flashwam.run.folder import RunFolder
from flashwam.serve.client import PolicyClient
from flashwam.sim.closed_loop import TaskResult
from flashwam.sim.libero import Convention, LiberoTask, choose_tasks, get_convention, suite_tasks
from flashwam.sim.libero.conventions import CAMERAS, CONTROLS
from flashwam.sim.libero.packages import require_packages
from flashwam.system.errors import InputError
from flashwam.system.paths import user_path
from flashwam.system.provenance import provenance

__all__ = ["evaluate_on_libero"]

logger = logging.getLogger(__name__)

_EPISODES = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """A suite to be driven.

    Args:
        told: What the server tells of its model.
        request: What is measured.
        tasks: The suite's, chosen.
        left_out: Names of those that have no initial state.
        place: Their server, convention and result.
    """

    told: Mapping[str, Any]
    request: Asked
    tasks: tuple[LiberoTask, ...]
    left_out: tuple[str, ...]
    place: Place

    @property
    def suite(self) -> str:
        return self.tasks[0].suite

    @property
    def wanted(self) -> list[tuple[LiberoTask, int]]:
        """All episodes."""
        return [(task, episode) for task in self.tasks for episode in range(self.request.episodes)]


def evaluate_on_libero(
    url: str,
    *,
    suite: str,
    token: str | None = None,
    tasks: Sequence[str] | None = None,
    episodes: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    convention: Convention | None = None,
    processes: int = 1,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Drives tasks of a suite through a policy server.

    Episode i begins in a task's initial state i. Every episode is written down when it has ended, and an evaluation
    that was stopped goes on with those that are missing.

    Args:
        url: Such as "ws://127.0.0.1:29536".
        suite: Such as "libero_10", see `suite_names`.
        token: Where the server asks for one.
        tasks: Numbers or names of tasks; all of the suite if None, but for those without an initial state.
        episodes: Per task; if None, 50, or as many as there are initial states where these are fewer.
        seed: Of the noise alone, where the server takes one.
        out: Folder for the result; `runs/served/<name>/evaluations` if None.
        convention: That of LingBot-VA's published client if None.
        processes: Episodes that are driven at once, each by a process with a session of its own.
        progress: Show a bar with the time left.

    Returns:
        One result, as written. Its `simulator` tells the convention, and every instruction that was given.

    Raises:
        FileExistsError: There is a measurement of this name and step in `out`.
        ImportError: LIBERO is not installed.
        RuntimeError: Another process is driving the same episodes, or the server fails.
        ValueError: A suite, task or number of episodes is not there, the server's model has other cameras or controls,
            or what was begun was something else.
    """
    require_packages()
    chosen, left_out = _with_states(choose_tasks(suite_tasks(suite), tasks), tasks)
    request = _request(chosen, episodes)
    with PolicyClient(url, token) as client:
        told = client.metadata
    _check_model(told, url)
    run = RunFolder(Path("runs") / "served" / str(told.get("name") or "server"))
    convention = convention or get_convention("lingbot_va")
    folder = user_path(out) if out is not None else run.evaluations
    how = served_how(told, f"{suite}_{convention.name.rstrip('*')}")
    name = evaluation_name(told.get("step"), _setting(told), how, seed)
    place = Place(url=url, token=token, convention=convention, seed=seed, path=folder / f"{name}.json")
    refuse_earlier(place.path)
    job = _Job(told=told, request=request, tasks=chosen, left_out=left_out, place=place)
    with Unfinished(folder / "unfinished" / f"{name}.jsonl", _about(job)) as unfinished:
        _drive_missing(job, unfinished, processes=processes, progress=progress)
        result = _result(job, unfinished.ended)
        result.write(place.path)
        unfinished.path.unlink()
    return [result.to_json()]


def _with_states(
    tasks: Sequence[LiberoTask], asked: Sequence[str] | None
) -> tuple[tuple[LiberoTask, ...], tuple[str, ...]]:
    """Tasks of a suite in which an episode can begin, and names of those that nobody asked for and none can."""
    there = tuple(task for task in tasks if len(task.states))
    suite, names = tasks[0].suite, tuple(task.name for task in tasks if not len(task.states))
    if not (there or asked):
        raise InputError(f"no task of {suite} has initial states: drive another suite")
    for name in names:
        told = f"{name} has no initial state in {suite}, so no episode of it can begin"
        if asked:
            raise InputError(f"{told}: leave it out of --tasks")
        logger.warning("%s: it is left out", told)
    return there, names


def _request(tasks: Sequence[LiberoTask], episodes: int | None) -> Asked:
    here = min(len(task.states) for task in tasks)
    asked = Asked(tasks=tuple(task.name for task in tasks), episodes=episodes or min(here, _EPISODES))
    for task in tasks:
        if len(task.states) < asked.episodes:
            raise InputError(
                f"{task.name} has {len(task.states)} initial states; ask for at most so many episodes, not for "
                f"{asked.episodes}"
            )
    return asked


def _drive_missing(job: _Job, unfinished: Unfinished, *, processes: int, progress: bool) -> None:
    """Drives what has not ended yet."""
    there = {(one.task, one.episode) for one in unfinished.ended}
    missing = [(task, episode) for task, episode in job.wanted if (task.name, episode) not in there]
    total = len(job.wanted)
    if there:
        logger.info("going on after %d of %d episodes", len(there), total)
    with tqdm(total=total, initial=total - len(missing), unit="episode", disable=not progress, smoothing=0.05) as bar:
        for ended in drive_episodes(job.place, missing, processes=processes):
            unfinished.add(ended)
            bar.update()
            bar.set_postfix_str(f"{sum(one.success for one in unfinished.ended)} succeeded")


def _check_model(told: Mapping[str, Any], url: str) -> None:
    """Refuses a model that sees or does something else; a server of another make says nothing of it."""
    cameras, controls = told.get("cameras"), told.get("controls")
    if cameras is not None and set(cameras) != set(CAMERAS):
        raise InputError(
            f"LIBERO's pictures are {', '.join(CAMERAS)}; the model at {url} has {', '.join(cameras)}: serve one that "
            "was trained on LIBERO"
        )
    if controls not in (None, CONTROLS):
        raise InputError(f"LIBERO's robot has {CONTROLS} controls; the model at {url} has {controls}")


def _setting(told: Mapping[str, Any]) -> str:
    return nfe_text(told.get("nfe") or {}) or "unknown"


def _about(job: _Job) -> dict[str, Any]:
    """The values that have to be the same for an evaluation to go on."""
    told = _simulator(job)
    return {
        "tasks or episodes": {"tasks": job.request.tasks, "episodes": job.request.episodes},
        "convention": told["convention"],
        "packages": told["packages"],
        "model": dict(job.told),
    }


def _task_result(task: LiberoTask, ended: Sequence[Ended]) -> TaskResult:
    mine = sorted((one for one in ended if one.task == task.name), key=lambda one: one.episode)
    result = TaskResult(
        task=task.name,
        multimodal=False,
        success=tuple(one.success for one in mine),
        ways=(),
        commitment=None,
        steps=tuple(one.steps for one in mine),
        chunks=sum(len(one.chunk_ms) for one in mine),
        scenes=tuple(one.episode for one in mine),
    )
    logger.info("%s: %s %d/%d", task.suite, task.name, sum(result.success), len(result.success))
    return result


def _simulator(job: _Job) -> dict[str, Any]:
    convention = job.place.convention
    instructions = {task.name: task.instruction(convention.instruction) for task in job.tasks}
    told = {**convention.told(job.suite), "instructions": instructions}
    return told | ({"left_out": list(job.left_out)} if job.left_out else {})


def _result(job: _Job, ended: Sequence[Ended]) -> Evaluation:
    told, run = job.told, str(job.told.get("name") or "server")
    numbers = task_numbers([_task_result(task, ended) for task in job.tasks])
    each = list(numbers.values())
    episodes = sum(one.episodes for one in each)
    together = replace(
        each[0],
        episodes=episodes,
        success=sum(one.success for one in each),
        steps=sum((one.steps or 0) * one.episodes for one in each) / episodes,
        outcomes=None,
        scenes=None,
    )
    chunk_ms = {
        task.name: round(statistics.median(ms for one in ended if one.task == task.name for ms in one.chunk_ms), 3)
        for task in job.tasks
    }
    films = {task.name: film_file(job.place.path, task).name for task in job.tasks}
    return Evaluation(
        run=run,
        label=f"{run} {_setting(told)} {job.suite}",
        setting=_setting(told),
        tasks=numbers,
        overall=replace(together, motion=None, first_motion=None),
        **described_by_server(told),
        asked=job.request,
        latency={"chunk_ms": statistics.median(chunk_ms.values())},
        seed=job.place.seed,
        provenance=provenance(),
        more={
            "server": {"url": job.place.url, "model": dict(told)},
            "simulator": {**_simulator(job), "chunk_ms": chunk_ms, "films": films},
        },
    )
