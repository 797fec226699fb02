# SPDX-License-Identifier: Apache-2.0
"""Episodes of LIBERO through a policy server, by one process or several, each written down as soon as it has ended."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from flashwam.core.scenes import noise_seed
from flashwam.evaluation.pictures import save_film
from flashwam.evaluation.served_episode import drive_episode
from flashwam.serve.client import PolicyClient
from flashwam.sim.libero import Convention, LiberoEnv, LiberoTask
from flashwam.system.errors import FailedError, InputError
from flashwam.system.files import hold
from flashwam.system.workers import done_by_processes, worker_context

__all__ = ["Ended", "Place", "Unfinished", "drive_episodes", "film_file"]

_FILM = 8
_LATER = ("action_scale", "rotation", "weights", "settings")
"""Values that earlier versions did not write down: what lacks them was begun with the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """An episode that has ended.

    Args:
        task: Its task's name.
        episode: Its number, and that of its initial state.
        success: Whether the task was done.
        steps: Control steps.
        chunk_ms: Milliseconds of every chunk's round trip.
        alone: Whether no other episode was driven meanwhile, whose chunks would have to be waited for; False where an
            earlier version did not write it down.
    """

    task: str
    episode: int
    success: bool
    steps: int
    chunk_ms: tuple[float, ...]
    alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The server, the convention and the result of episodes.

    Args:
        url: Of the server.
        token: Where it asks for one.
        convention: The episodes'.
        seed: Of the noise.
        path: Of the result; films lie beside it.
    """

    url: str
    token: str | None
    convention: Convention
    seed: int
    path: Path


class Unfinished:
    """A file of the episodes that have ended: a line of what is measured, then one for each; a context manager.

    It is held while it is open, so that the same evaluation is not driven twice at once.

    Args:
        path: Of the file.
        about: What is measured, as plain values.

    Attributes:
        ended: Episodes in it, each once: the first of those that an earlier version wrote down twice.

    Raises:
        RuntimeError: Another process is driving these episodes.
        ValueError: It was begun to measure something else.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        self.ended: list[Ended] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+")
        try:
            hold(
                self._file.fileno(),
                f"another process is driving the episodes of {path}: wait for it or stop it, or give another out= "
                "folder (--out)",
            )
            if not os.fstat(self._file.fileno()).st_nlink:
                raise FailedError(f"another process has just completed the episodes of {path}: read its result")
            # As it will be read.
            self._begin(json.loads(json.dumps(about)))
        except BaseException:
            self.close()
            raise

    def _begin(self, about: Mapping[str, Any]) -> None:
        self._file.seek(0)
        lines = self._file.readlines()
        whole = [line for line in lines if line.endswith("\n")]
        if whole != lines:
            # A line that was being written when it was stopped.
            self._file.truncate(sum(len(line.encode()) for line in whole))
        if not whole:
            self._append(about)
            return
        before = json.loads(whole[0])
        now = _as_then(about, before)
        other = [name for name, value in now.items() if before.get(name) != _as_then(value, before.get(name))]
        if other:
            raise InputError(
                f"{self.path} was begun with other {', '.join(other)}: give another out= folder (--out), or delete it"
            )
        first: dict[tuple[str, int], Ended] = {}
        for one in map(_read, whole[1:]):
            first.setdefault((one.task, one.episode), one)
        self.ended = list(first.values())

    def add(self, ended: Ended) -> None:
        """Writes an episode down."""
        self.ended.append(ended)
        self._append(asdict(ended))

    def _append(self, told: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(told) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _as_then(value: Any, before: Any) -> Any:
    """A value of now, without those parts that the version which began did not write down."""
    if not (isinstance(value, Mapping) and isinstance(before, Mapping)):
        return value
    return {name: one for name, one in value.items() if name in before or name not in _LATER}


def _read(line: str) -> Ended:
    values = json.loads(line)
    return Ended(**values | {"chunk_ms": tuple(values["chunk_ms"])})


def film_file(path: Path, task: LiberoTask) -> Path:
    """The film of a task's first episode, beside the result at `path`."""
    return path.with_name(f"{path.stem}_task{task.index}.png")


class _Driver:
    """Drives one episode after another; it keeps its session, and its environment until another task comes."""

    def __init__(self, place: Place, *, alone: bool) -> None:
        self._place, self._alone = place, alone
        self._client = PolicyClient(place.url, place.token)
        self._env: LiberoEnv | None = None

    def drive(self, task: LiberoTask, episode: int) -> Ended:
        if self._env is None or self._env.task != task:
            self.rest()
            self._env = LiberoEnv(task, convention=self._place.convention)
        # The noise of each episode is its own, as in other simulators.
        driven = drive_episode(self._client, self._env, scene=episode, seed=noise_seed(self._place.seed, episode))
        if episode == 0:
            chosen = np.unique(np.linspace(0, driven.film.shape[1] - 1, _FILM).round().astype(int))
            save_film([driven.film[:, chosen]], film_file(self._place.path, task))
        milliseconds = tuple(round(ms, 3) for ms in driven.chunk_ms)
        return Ended(
            task=task.name,
            episode=episode,
            success=driven.success,
            steps=driven.steps,
            chunk_ms=milliseconds,
            alone=self._alone,
        )

    def rest(self) -> None:
        """Frees the environment."""
        if self._env is not None:
            self._env.close()
            self._env = None

    def close(self) -> None:
        """Ends the session too."""
        self.rest()
        self._client.close()


_DRIVER: _Driver | None = None
"""Of a worker process."""


def _begin(place: Place) -> None:
    global _DRIVER
    _DRIVER = _Driver(place, alone=False)


def _drive(wanted: tuple[LiberoTask, int]) -> Ended:
    if _DRIVER is None:
        raise RuntimeError("the worker has not begun")
    return _DRIVER.drive(*wanted)


def drive_episodes(place: Place, wanted: Sequence[tuple[LiberoTask, int]], *, processes: int) -> Iterator[Ended]:
    """Drives episodes, several at once where there are several processes.

    Args:
        place: Their server, convention and result.
        wanted: Tasks and numbers of episodes, those of one task together.
        processes: Workers, each with a session of its own.

    Yields:
        Every episode as it ends, in order with one process.

    Raises:
        RuntimeError: The server fails.
    """
    processes = min(processes, len(wanted))
    if processes <= 1:
        driver = _Driver(place, alone=True)
        try:
            yield from (driver.drive(task, episode) for task, episode in wanted)
        finally:
            driver.close()
        return
    begin, context = partial(_begin, place), worker_context()
    yield from done_by_processes(_drive, wanted, processes=processes, what="driving", context=context, begin=begin)
