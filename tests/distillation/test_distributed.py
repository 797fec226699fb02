# SPDX-License-Identifier: Apache-2.0
"""Two processes do what one does."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed_run import run

from flashwam.student import load_wam

HERE = Path(__file__).parent


needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None or shutil.which("c++") is None,
    reason="deepspeed, or the compiler that it builds a helper with, is missing",
)


def launch(folder: Path, strategy: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    paths = os.pathsep.join([str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    arguments = [str(HERE / "distributed_run.py"), str(folder), strategy]
    return subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("strategy", ["ddp", "ddp-lora", pytest.param("zero3", marks=needs_deepspeed)])
def test_two_processes_train_as_one_does(tmp_path, strategy):
    done = launch(tmp_path / "two", strategy)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(p.name for p in (tmp_path / "two/checkpoints").iterdir()) == ["step_000002", "step_000004"]
    one, two = (
        load_wam(run(tmp_path / "one", strategy.replace(strategy.partition("-")[0], "single")))[0],
        load_wam(tmp_path / "two/student")[0],
    )
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, two.state_dict()[name], rtol=0, atol=2e-6)

    # Continued from the last checkpoint, by two processes again, it ends with the very same bits.
    shutil.rmtree(tmp_path / "two/student")
    again = launch(tmp_path / "two", strategy)
    assert again.returncode == 0, again.stderr[-3000:]
    resumed = load_wam(tmp_path / "two/student")[0].state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in two.state_dict().items())
