# SPDX-License-Identifier: Apache-2.0
"""Processes that work beside this one: clean ones that share what is slow to import, and jobs done by several."""

import multiprocessing
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext, ForkServerContext
from typing import TypeVar

from flashwam.system.errors import FailedError
from flashwam.system.processes import end_with

__all__ = ["done_by_processes", "worker_context"]

Job = TypeVar("Job")
Result = TypeVar("Result")


def worker_context(*modules: str) -> ForkServerContext:
    """Gives a context whose processes are forks of a server that has imported some modules once for all of them.

    They are not forked from this process, whose threads, devices and GL contexts would not survive it: they start as
    clean as spawned ones, seconds sooner. The first context that starts a process decides what the server imports.

    Args:
        modules: Their names; those that are not installed are left out. Importing one must leave nothing behind that a
            fork does not survive.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(sorted({*modules} - {"__main__"}))
    return context


def done_by_processes(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    processes: int,
    what: str,
    context: BaseContext | None = None,
    begin: Callable[[], None] | None = None,
) -> Iterator[Result]:
    """Does jobs in several processes, which end with the iterator, however it ends.

    Args:
        function: Does one job; importable, as is `begin`.
        jobs: All of them; they are begun in order.
        processes: At most as many.
        what: A process in messages, such as "converting".
        context: That of the processes; clean new ones if None.
        begin: Makes a process ready for its first job. Where it fails, the jobs do.

    Yields:
        Results as they come.

    Raises:
        RuntimeError: A process was killed.
        Exception: That of the first job that failed; one that cannot be sent is told in a RuntimeError.
    """
    if not jobs:
        return
    context = context or multiprocessing.get_context("spawn")
    held, caller = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        min(processes, len(jobs)), mp_context=context, initializer=_begin, initargs=(held, begin)
    )
    try:
        for future in as_completed([pool.submit(_do, function, job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool as error:
        raise FailedError(
            f"a {what} process died, perhaps for want of memory; run again with fewer processes to go on"
        ) from error
    finally:
        # At once: those at work still, after an error or an interruption, are not waited for, and simulators' contexts
        # are not taken apart.
        caller.close()
        pool.shutdown(cancel_futures=True)
        held.close()


_failed: Exception | None = None
"""Of a process that could not begin."""


def _begin(caller: Connection, begin: Callable[[], None] | None) -> None:
    global _failed
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with, args=(caller,), daemon=True).start()
    try:
        if begin is not None:
            begin()
    except Exception as error:
        # One that is raised here would be lost: the pool tells no more than that it is broken.
        _failed = error


def _do(function: Callable[[Job], Result], job: Job) -> Result:
    try:
        if _failed is not None:
            raise _failed
        return function(job)
    except Exception as error:
        raise _as_sent(error) from None


def _as_sent(error: Exception) -> Exception:
    """The error, or where it cannot be sent to another process, one that tells of it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error
