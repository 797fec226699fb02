# SPDX-License-Identifier: Apache-2.0
"""Starts trainings of two processes, and compares what comes out with one."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from distributed_run import run

from flashwam.student import load_wam

HERE = Path(__file__).parent


HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
needs_deepspeed = pytest.mark.skipif(not HAS_DEEPSPEED, reason="deepspeed is missing")


def launch(*runs: Path | str, processes: int | None = 2) -> subprocess.CompletedProcess[str]:
    """Two processes for (folder, strategy), and for further ones after it; or None for one without torchrun."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return _start([] if processes is None else torchrun, *runs)


def fork(*runs: tuple[Path, str], processes: int = 2) -> tuple[list[list[int]], str]:
    """For every (folder, strategy) the exit statuses of its processes, forked from one that has all imported; and what
    they wrote to stderr. For many short trainings, some of which end badly."""
    done = _start([], "--fork", str(processes), *(part for run in runs for part in run))
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def _start(before: list[str], *after: Path | str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(HERE), str(HERE.parent), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *before, str(HERE / "distributed_run.py"), *map(str, after)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def launch_groups(runs: dict[str, list[tuple[Path, str]]]) -> Callable[[str], None]:
    """Makes sure that a strategy's trainings are done; those of a group share two processes, which take seconds to
    start.

    Args:
        runs: Strategy -> (folder, strategy) of its trainings, in their order. DeepSpeed's are a group of their own.
    """
    done: dict[bool, subprocess.CompletedProcess[str]] = {}

    def ready(strategy: str) -> None:
        zero = strategy.startswith("zero")
        if zero not in done:
            group = [run for name, several in runs.items() if name.startswith("zero") == zero for run in several]
            done[zero] = launch(*(part for run in group for part in run))
        assert done[zero].returncode == 0, done[zero].stderr[-3000:]

    return ready


def zero(strategy: str) -> object:
    return pytest.param(strategy, marks=needs_deepspeed)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_wam(folder / "student", trust=True)[0].state_dict()


def compare_with_one(folder: Path, strategy: str, *, atol: float = 2e-6) -> None:
    run(folder / "one", "-".join(["single", *(o for o in strategy.split("-")[1:] if o not in ("teacher", "offload"))]))
    two = weights(folder / "two")
    for name, value in weights(folder / "one").items():
        torch.testing.assert_close(value, two[name], rtol=0, atol=atol)
