# SPDX-License-Identifier: Apache-2.0
"""A handful of resumable jobs on a few processes, each after those it needs; what is done is never done again."""

import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tqdm import tqdm

from flashwam.system.changed_settings import changed_settings
from flashwam.system.errors import FailedError, InputError
from flashwam.system.files import write_whole
from flashwam.system.json_file import read_mapping
from flashwam.system.processes import end_with
from flashwam.system.workers import worker_context

__all__ = ["Job", "JobFailed", "check_jobs", "done_marker", "run_jobs"]

_ASKED = "asked"
_BAR = "{desc} {percentage:3.0f}%|{bar:20}| {elapsed} < {remaining}"


class JobFailed(FailedError):
    """A job ended with an error; the message ends with the last lines of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One call in a process of its own.

    Args:
        name: Unique; names its log and its marker.
        function: Importable; run with `kwargs` in a clean process. It must itself be resumable.
        kwargs: Its arguments.
        after: Names of the jobs that must be done before.
        weight: Rough seconds, for the time left.
        cores: Processes it keeps busy.
    """

    name: str
    function: Callable[..., Any]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    weight: float = 10.0
    cores: int = 1

    @property
    def asked(self) -> dict[str, Any]:
        """The plain ones among its arguments, by which a call that differs is told; not folders, which may move."""
        return {name: value for name, value in self.kwargs.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float)


def _file(folder: Path, job: str, suffix: str) -> Path:
    return folder / f"{job.replace('/', '__')}.{suffix}"


def done_marker(folder: Path, job: str) -> Path:
    """The file in a folder of jobs that says that a job is done."""
    return _file(folder, job, "done")


def _call(job: Job, log: Path, marker: Path, caller: Connection) -> None:
    threading.Thread(target=end_with, args=(caller,), daemon=True).start()
    # A lock between processes would be reported as leaked, since this one ends without clean-up.
    tqdm.set_lock(threading.RLock())
    with log.open("a") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        try:
            import torch

            torch.set_num_threads(1)
            logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
            start = time.monotonic()
            job.function(**job.kwargs)
            told = {"seconds": round(time.monotonic() - start, 1), _ASKED: job.asked}
            write_whole(marker, json.dumps(told) + "\n")
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)


def check_jobs(jobs: Sequence[Job]) -> None:
    """Raises ValueError where two jobs share a name or one stands before what it needs."""
    names = [job.name for job in jobs]
    if len(set(names)) != len(names):
        raise ValueError(f"job names must be unique; got {sorted(n for n in names if names.count(n) > 1)}")
    seen: set[str] = set()
    for job in jobs:
        if not set(job.after) <= seen:
            raise ValueError(f"job {job.name!r} must come after {sorted(set(job.after) - seen)} in the list")
        seen.add(job.name)


def _refuse_otherwise(job: Job, marker: Path) -> None:
    """Refuses a job that was done with other arguments; earlier versions did not note them."""
    noted = read_mapping(marker).get(_ASKED) if marker.is_file() else None
    if isinstance(noted, Mapping) and (changed := changed_settings(noted, job.asked)):
        raise InputError(
            f"{job.name} was done otherwise ({changed}): give another folder, ask for the same, or remove {marker} and "
            "what it made"
        )


def run_jobs(
    jobs: Sequence[Job],
    folder: Path,
    *,
    workers: int = 2,
    on_done: Callable[[Job], None] | None = None,
    imported: Sequence[str] = (),
) -> dict[str, float]:
    """Runs jobs in order, several at a time; those with a marker in `folder` count as done.

    Args:
        jobs: In an order in which every job comes after those it needs.
        folder: Keeps `<name>.log` and, once done, `<name>.done`.
        workers: Processes at a time.
        on_done: Called after each job that ran now.
        imported: Modules that jobs import late, which are imported once for all of them; those that are not installed
            are left out. Importing one must leave nothing behind that a fork does not survive, such as a GL context.

    Returns:
        Seconds that each job took, also those done in an earlier run.

    Raises:
        ValueError: One was done with other arguments.
        JobFailed: as soon as one fails; the others are stopped and resume with the next call.
    """
    check_jobs(jobs)
    folder.mkdir(parents=True, exist_ok=True)
    marker = {job.name: done_marker(folder, job.name) for job in jobs}
    for job in jobs:
        _refuse_otherwise(job, marker[job.name])
    log = {job.name: _file(folder, job.name, "log") for job in jobs}
    done = {job.name for job in jobs if marker[job.name].is_file()}
    waiting = [job for job in jobs if job.name not in done]
    running: dict[str, tuple[Job, BaseProcess]] = {}
    context = worker_context("torch", *(job.function.__module__ for job in jobs), *imported)
    # Nobody writes to it: it closes with this process, however that ends.
    ours, _alive = context.Pipe(duplex=False)
    total = sum(job.weight for job in waiting)
    # tqdm owns the clock, the rate and the estimate; a unit is one expected second of one core.
    with tqdm(total=round(total), unit="s", bar_format=_BAR) as bar:
        try:
            while waiting or running:
                busy = sum(job.cores for job, _ in running.values())
                for job in list(waiting):
                    if not set(job.after) <= done:
                        continue
                    if running and busy + job.cores > workers:
                        continue
                    process = context.Process(target=_call, args=(job, log[job.name], marker[job.name], ours))
                    process.start()
                    running[job.name] = (job, process)
                    waiting.remove(job)
                    busy += job.cores
                bar.set_description_str(", ".join(running) or "done")
                time.sleep(0.2)
                for name, (job, ended) in list(running.items()):
                    if ended.is_alive():
                        continue
                    del running[name]
                    ended.join()
                    if ended.exitcode != 0 or not marker[name].is_file():
                        tail = "\n".join(log[name].read_text(errors="replace").splitlines()[-15:])
                        raise JobFailed(f"job {name!r} failed (log: {log[name]}):\n{tail}")
                    done.add(name)
                    bar.update(round(job.weight))
                    if on_done is not None:
                        on_done(job)
        finally:
            for _, stopped in running.values():
                stopped.terminate()
                stopped.join()
    return {job.name: json.loads(marker[job.name].read_text())["seconds"] for job in jobs}
