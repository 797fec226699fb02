# SPDX-License-Identifier: Apache-2.0
"""Processes that begin with everything imported, for steps of seconds where importing takes a quarter of a minute.

A server imports once (Python's `forkserver`), and every process is a fork of it. Had an import touched the GPU, no fork
could use it: such a process becomes the plain interpreter's instead, which imports anew.
"""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path

__all__ = ["preload", "start"]

HERE = Path(__file__).resolve().parent
LOOK_WITHOUT_CUDA = "PYTORCH_NVML_BASED_CUDA_CHECK"
"""With it torch asks the driver's library whether there is a GPU, which leaves forks free to use one."""


def preload(environment: Mapping[str, str]) -> None:
    """Begins to import, in an environment that is then this process' own too."""
    os.environ.update(environment)
    os.environ["PYTHONPATH"] = f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    os.environ.setdefault(LOOK_WITHOUT_CUDA, "1")
    multiprocessing.get_context("forkserver").set_forkserver_preload(["imports"])
    forkserver.ensure_running()


def start(command: Sequence[str], *, environment: Mapping[str, str], output: Path) -> BaseProcess:
    """Starts what the interpreter would do of a command line, as the head of a process group.

    Args:
        command: Words after the interpreter: a script's path, `-m` and a module, or `-c` and code.
        environment: Of the process.
        output: File for what it prints.
    """
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_become, args=(tuple(command), dict(environment), output))
    process.start()
    return process


def _become(command: tuple[str, ...], environment: dict[str, str], output: Path) -> None:
    os.setsid()
    os.chdir(HERE.parent)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.environ.clear()
    os.environ.update(environment)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda._is_in_bad_fork():
        print("imports are made anew: one of them had touched the GPU")
        os.execve(sys.executable, [sys.executable, *command], environment)
    first, *rest = command
    if first == "-c":
        exec(compile(rest[0], "<command>", "exec"), {"__name__": "__main__"})
    elif first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(command)
        sys.path.insert(0, str(Path(first).resolve().parent))
        runpy.run_path(first, run_name="__main__")
