# SPDX-License-Identifier: Apache-2.0
"""Starts trainings of two processes, and compares what comes out with one."""

import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed_run import run

from flashwam.student import load_wam

HERE = Path(__file__).parent
HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
needs_deepspeed = pytest.mark.skipif(not HAS_DEEPSPEED, reason="deepspeed is missing")


class Trainings:
    """Trainings of several processes, which are forks of one that has imported everything: seconds less for each.

    Args:
        log: File for what they write.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        with log.open("w") as errors:
            self._server = subprocess.Popen(
                [sys.executable, str(HERE / "forking.py")],
                env=_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )

    def run(self, *runs: tuple[Path, str], processes: int | None = 2) -> list[list[int]]:
        """For every (folder, strategy) the exit statuses of its processes; for None those of one without torchrun's
        environment."""
        asked = {"processes": processes, "runs": [[str(folder), strategy] for folder, strategy in runs]}
        print(json.dumps(asked), file=self._server.stdin, flush=True)
        answered, _, _ = select.select([self._server.stdout], [], [], 300)
        line = self._server.stdout.readline() if answered else ""
        assert line, f"no answer:\n{self.errors()}"
        return json.loads(line)

    def errors(self) -> str:
        """The last that the processes wrote."""
        return self._log.read_text(errors="replace")[-3000:]

    def close(self) -> None:
        """Ends the server, and what still trains."""
        os.killpg(self._server.pid, signal.SIGKILL)
        self._server.communicate()


def torchrun(*runs: tuple[Path, str]) -> None:
    """Two processes started by torchrun, which train every (folder, strategy) in turn."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(HERE / "distributed_run.py"), *(str(part) for run in runs for part in run)]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def _environment() -> dict[str, str]:
    paths = os.pathsep.join([str(HERE), str(HERE.parent), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def zero(strategy: str) -> object:
    return pytest.param(strategy, marks=needs_deepspeed)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_wam(folder / "student", trust=True)[0].state_dict()


def compare_with_one(folder: Path, strategy: str, *, atol: float = 2e-6) -> None:
    run(folder / "one", "-".join(["single", *(o for o in strategy.split("-")[1:] if o not in ("teacher", "offload"))]))
    two = weights(folder / "two")
    for name, value in weights(folder / "one").items():
        torch.testing.assert_close(value, two[name], rtol=0, atol=atol)
    one, both = ([line["loss"] for line in metrics(folder / name) if "loss" in line] for name in ("one", "two"))
    assert both == pytest.approx(one, rel=1e-3)


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def judged_lines(folder: Path) -> list[dict[str, float]]:
    """Lines of a run's metrics that hold what was judged."""
    return [line for line in metrics(folder) if any(name.startswith("judged/") for name in line)]


def compare_judged(folder: Path) -> None:
    """Two processes measure what one does, and keep the same model as the best."""
    one, two = (judged_lines(folder / name) for name in ("one", "two"))
    assert [line["step"] for line in two] == [0, 2, 4, 6]
    assert [pytest.approx(line, rel=1e-4) for line in one] == two
    best = [json.loads((folder / name / "best/flashwam.json").read_text()) for name in ("one", "two")]
    assert best[0]["steps"] == best[1]["steps"] == min(two, key=lambda line: line["judged/action_error_expert"])["step"]
