# SPDX-License-Identifier: Apache-2.0
"""A suite of LIBERO that is driven through a policy server: its episodes, gone on with one by one, and their result."""

import logging
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from flashwam.evaluation.driving import task_numbers
from flashwam.evaluation.libero_episodes import Ended, Place, Unfinished, drive_episodes, film_file
from flashwam.run.evaluation import Asked, Evaluation, unfinished_folder
from flashwam.sim.closed_loop import TaskResult
from flashwam.sim.libero import Convention, LiberoTask, choose_tasks, suite_tasks
from flashwam.sim.libero.conventions import CAMERAS, CONTROLS
from flashwam.sim.libero.packages import require_packages
from flashwam.sim.libero.scenes import is_scene
from flashwam.system.errors import InputError
from flashwam.system.provenance import provenance

__all__ = ["Chosen", "SuiteJob", "check_model", "choose", "driven"]

logger = logging.getLogger(__name__)

_EPISODES = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Tasks of a suite that are to be driven.

    Args:
        tasks: In the suite's order.
        left_out: Names of those that nobody asked for by name, and that have no initial state.
        episodes: Of each.
    """

    tasks: tuple[LiberoTask, ...]
    left_out: tuple[str, ...]
    episodes: int

    @property
    def suite(self) -> str:
        """Name of the suite."""
        return self.tasks[0].suite

    def under(self, convention: Convention) -> str:
        """The part of a result's name that tells suite and convention: "libero_10_lingbot_va"."""
        return f"{self.suite}_{convention.name.rstrip('*')}"

    def asked(self, **settings: str) -> Asked:
        """The request, with what else decides the numbers."""
        return Asked(tasks=tuple(task.name for task in self.tasks), episodes=self.episodes, settings=settings)


def choose(suite: str, tasks: Sequence[str] | None, episodes: int | None) -> Chosen:
    """Looks a suite's tasks up.

    Args:
        suite: Its name.
        tasks: Numbers or names of tasks; all of the suite if None, but for those without an initial state.
        episodes: Per task; if None, 50, or as many as there are initial states where these are fewer.

    Raises:
        ImportError: LIBERO is not installed.
        ValueError: A suite, task or number of episodes is not there.
    """
    require_packages()
    there, left_out = _with_states(choose_tasks(suite_tasks(suite), tasks), tasks)
    most = min(len(task.states) for task in there)
    if episodes is not None and episodes > most:
        least = next(task for task in there if len(task.states) == most)
        raise InputError(
            f"{least.name} has {most} initial states; ask for at most so many episodes, not for {episodes}"
        )
    return Chosen(tasks=there, left_out=left_out, episodes=episodes or min(most, _EPISODES))


def _with_states(
    tasks: Sequence[LiberoTask], asked: Sequence[str] | None
) -> tuple[tuple[LiberoTask, ...], tuple[str, ...]]:
    """Tasks in which an episode can begin, and names of those that nobody asked for and none can."""
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


def check_model(told: Mapping[str, Any], where: str) -> None:
    """Refuses a model that sees or does something else than LIBERO's robot.

    Args:
        told: What it tells of itself; a server of another make tells nothing.
        where: Such as "at ws://127.0.0.1:29536", for the message.

    Raises:
        ValueError: It has other cameras or controls.
    """
    cameras, controls = told.get("cameras"), told.get("controls")
    if cameras is not None and set(cameras) != set(CAMERAS):
        scene = next((task for task in told.get("tasks") or () if is_scene(task)), None)
        advice = "take one that was trained on LIBERO's own pictures"
        if scene is not None:
            advice = (
                "it sees both views in one small picture, and is driven in its own scenes of LIBERO by plain flashwam "
                f"evaluate, without --sim and --suite; such as --tasks {scene}"
            )
        raise InputError(
            f"LIBERO's pictures are {', '.join(CAMERAS)}; the model {where} has {', '.join(cameras)}: {advice}"
        )
    if controls not in (None, CONTROLS):
        raise InputError(f"LIBERO's robot has {CONTROLS} controls; the model {where} has {controls}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteJob:
    """A suite to be driven.

    Args:
        told: What the model tells of itself.
        described: The same, as fields of an `Evaluation`.
        setting: Steps of a chunk.
        how: The end of its label that tells it from others of these steps, such as " fp8"; as a rule empty.
        asked: What is measured.
        chosen: The tasks.
        place: Their server, convention and result.
        more: What was driven, for the result.
    """

    told: Mapping[str, Any]
    described: Mapping[str, Any]
    setting: str
    how: str = ""
    asked: Asked
    chosen: Chosen
    place: Place
    more: Mapping[str, Any]

    @property
    def suite(self) -> str:
        """Name of the suite."""
        return self.chosen.suite

    @property
    def run(self) -> str:
        """Name of the model's run."""
        return str(self.told.get("name") or "server")

    @property
    def wanted(self) -> list[tuple[LiberoTask, int]]:
        """All episodes."""
        return [(task, episode) for task in self.chosen.tasks for episode in range(self.chosen.episodes)]

    @property
    def simulator(self) -> dict[str, Any]:
        """The part of a result that says how episodes are run."""
        convention = self.place.convention
        instructions = {task.name: task.instruction(convention.instruction) for task in self.chosen.tasks}
        told = {**convention.told(self.suite), "instructions": instructions}
        return told | ({"left_out": list(self.chosen.left_out)} if self.chosen.left_out else {})

    @property
    def about(self) -> dict[str, Any]:
        """The values that have to be the same for an evaluation to go on."""
        told = self.simulator
        return {
            "tasks or episodes": {"tasks": self.asked.tasks, "episodes": self.asked.episodes},
            "convention": told["convention"],
            "packages": told["packages"],
            "model": dict(self.told),
            "settings": dict(self.asked.settings),
        }


@contextmanager
def driven(job: SuiteJob, *, processes: int, progress: bool) -> Iterator[Evaluation]:
    """Drives what has not ended yet, gives the result to be written, and then forgets the single episodes.

    Args:
        job: The suite.
        processes: Episodes that are driven at once, each by a process with a session of its own.
        progress: Show a bar with the time left.

    Raises:
        RuntimeError: Another process is driving the same episodes, or the server fails.
        ValueError: What was begun was something else.
    """
    path = job.place.path
    with Unfinished(Path(f"{unfinished_folder(path)}.jsonl"), job.about) as unfinished:
        _drive_missing(job, unfinished, processes=processes, progress=progress)
        yield _result(job, unfinished.ended)
        unfinished.path.unlink()


def _drive_missing(job: SuiteJob, unfinished: Unfinished, *, processes: int, progress: bool) -> None:
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


def _chunk_ms(tasks: Sequence[LiberoTask], ended: Sequence[Ended]) -> dict[str, float]:
    """Median milliseconds of a chunk by task, of episodes that were driven alone: of several at once each waits for the
    others. Tasks of which none was are left out."""
    timed = {
        task.name: [ms for one in ended if one.alone and one.task == task.name for ms in one.chunk_ms] for task in tasks
    }
    return {name: round(statistics.median(each), 3) for name, each in timed.items() if each}


def _result(job: SuiteJob, ended: Sequence[Ended]) -> Evaluation:
    tasks = job.chosen.tasks
    numbers = task_numbers([_task_result(task, ended) for task in tasks])
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
    chunk_ms = _chunk_ms(tasks, ended)
    films = {task.name: film_file(job.place.path, task).name for task in tasks}
    return Evaluation(
        run=job.run,
        label=f"{job.run} {job.setting}{job.how} {job.suite}",
        setting=job.setting,
        tasks=numbers,
        overall=replace(together, motion=None, first_motion=None),
        **job.described,
        asked=job.asked,
        latency={"chunk_ms": statistics.median(chunk_ms.values())} if chunk_ms else {},
        seed=job.place.seed,
        provenance=provenance(),
        more={**job.more, "simulator": {**job.simulator, "chunk_ms": chunk_ms, "films": films}},
    )
