# SPDX-License-Identifier: Apache-2.0
"""Processes that work beside this one and share what is slow to import."""

import multiprocessing
from multiprocessing.context import ForkServerContext

__all__ = ["worker_context"]


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
