# SPDX-License-Identifier: Apache-2.0
"""Batches read before they are due, by a thread, in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from flashwam.core.batch import Batch

__all__ = ["read_ahead"]

Read = Callable[[list[int]], Batch]


@contextmanager
def read_ahead(read: Read, draws: Iterable[list[int]], *, depth: int) -> Iterator[Iterator[Batch]]:
    """Gives an iterator over `read(indices)` for every list of `draws`.

    One thread reads, so `read` is never called twice at a time and always in order. An error of it is raised where its
    batch is asked for, not before. At the end of the context the thread is gone; what it was reading is waited for.

    Args:
        read: Gives a batch; what it returns must depend on its argument alone.
        draws: Draw numbers, batch by batch.
        depth: Batches that are read before they are asked for; 0 reads each when it is, in the caller's thread.
    """
    if depth == 0:
        yield map(read, draws)
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead") as thread:
        try:
            yield _results(thread, read, iter(draws), depth)
        finally:
            thread.shutdown(cancel_futures=True)


def _results(thread: ThreadPoolExecutor, read: Read, draws: Iterator[list[int]], depth: int) -> Iterator[Batch]:
    waiting: deque[Future[Batch]] = deque()
    for indices in draws:
        waiting.append(thread.submit(read, indices))
        if len(waiting) > depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
