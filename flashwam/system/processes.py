# SPDX-License-Identifier: Apache-2.0
"""Ending a process without finalising its interpreter."""

import atexit
import os
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import NoReturn

__all__ = ["end_process", "end_with"]


def end_with(caller: Connection) -> NoReturn:
    """Ends this process once the caller, which holds the other end alone, is gone or has closed it.

    A process must not write on beside the one that the call after a killed one starts. Runs in a thread of its own.
    """
    with suppress(EOFError, OSError):
        caller.recv()
    os._exit(1)


def end_process(status: int) -> NoReturn:
    """Ends this process as `sys.exit` does; one that trained beside others, without taking its interpreter apart.

    Gloo's threads drop the tensors of finished collectives whenever they next get to run, and need the interpreter for
    it. One that comes while CPython (before 3.14) is being taken apart aborts the process, so that a training whose
    student is written counts as failed (pytorch/pytorch#190489). Leaving the process group joins those threads only
    where nothing else refers to it, and DeepSpeed and sharded models do.

    Args:
        status: Exit status, 0 for success; after anything else the other processes are not waited for.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not (distributed.is_available() and distributed.is_initialized()):
        sys.exit(status)
    if status == 0:
        distributed.destroy_process_group()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
