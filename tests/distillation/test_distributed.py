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
from distributed_run import lingbot_model, run

from flashwam.student import load_wam

HERE = Path(__file__).parent


needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None or shutil.which("c++") is None,
    reason="deepspeed, or the compiler that it builds a helper with, is missing",
)


def launch(*runs: Path | str) -> subprocess.CompletedProcess[str]:
    """Two processes for (folder, strategy), and for further ones after it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    paths = os.pathsep.join([str(HERE), str(HERE.parent), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    arguments = [str(HERE / "distributed_run.py"), *map(str, runs)]
    return subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=300)


def zero(strategy: str) -> object:
    return pytest.param(strategy, marks=needs_deepspeed)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_wam(folder / "student")[0].state_dict()


@pytest.mark.parametrize(
    "strategy",
    [
        "ddp-lora",
        "fsdp-on_policy",
        zero("zero2-offload"),
        zero("zero3-on_policy"),
    ],
)
def test_two_processes_train_as_one_does(tmp_path, strategy):
    done = launch(tmp_path / "two", strategy)
    assert done.returncode == 0, done.stderr[-3000:]
    compare_with_one(tmp_path, strategy)


def test_sharded_processes_train_every_family_as_one_does(tmp_path):
    """The stock blocks of a video transformer are units; what a family added around them belongs to the root."""
    strategies = ("fsdp-teacher", "fsdp-cogvideox-teacher")
    done = launch(*(part for name in strategies for part in (tmp_path / name / "two", name)))
    assert done.returncode == 0, done.stderr[-3000:]
    compare_with_one(tmp_path / strategies[0], strategies[0])
    # Two steps of up to 1e-3; a real network rounds more often than a toy.
    compare_with_one(tmp_path / strategies[1], strategies[1], atol=1e-5)


def compare_with_one(folder: Path, strategy: str, *, atol: float = 2e-6) -> None:
    run(folder / "one", "-".join(["single", *(o for o in strategy.split("-")[1:] if o not in ("teacher", "offload"))]))
    two = weights(folder / "two")
    for name, value in weights(folder / "one").items():
        torch.testing.assert_close(value, two[name], rtol=0, atol=atol)


@pytest.fixture(scope="module")
def in_float32(tmp_path_factory) -> dict[str, torch.Tensor]:
    """Weights after the same training in one process, in float32."""
    folder = tmp_path_factory.mktemp("float32")
    run(folder, "single-lingbot")
    return weights(folder)


@pytest.mark.parametrize(
    "strategy", ["fsdp-lingbot-bf16-teacher", zero("zero2-lingbot-bf16"), zero("zero3-lingbot-bf16-offload")]
)
def test_bfloat16_trains_as_float32_does(tmp_path, in_float32, strategy):
    """The way the weights go: measured 4 % apart, 10 % where the weights themselves are rounded."""
    done = launch(tmp_path / "two", strategy)
    assert done.returncode == 0, done.stderr[-3000:]
    start, two = lingbot_model(1).state_dict(), weights(tmp_path / "two")
    way = torch.cat([(value - start[name]).flatten() for name, value in in_float32.items()])
    other = torch.cat([(two[name].float() - start[name]).flatten() for name in in_float32])
    assert 0.005 < float((other - way).norm() / way.norm()) < 0.2


@pytest.mark.parametrize("strategy", ["ddp", "fsdp-on_policy-teacher", zero("zero2"), zero("zero3")])
def test_a_process_that_is_killed_costs_nothing_but_time(tmp_path, strategy):
    """Started again, both end with the very bits of an uninterrupted training."""
    done = launch(tmp_path / "two", strategy)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(p.name for p in (tmp_path / "two/checkpoints").iterdir()) == ["step_000002", "step_000004"]
    compare_with_one(tmp_path, strategy)

    broken = launch(tmp_path / "again", strategy + "-killed")
    assert broken.returncode != 0
    assert [p.name for p in (tmp_path / "again/checkpoints").glob("step_*")] == ["step_000002"]
    assert not (tmp_path / "again/student").exists()
    again = launch(tmp_path / "again", strategy + "-killed")
    assert again.returncode == 0, again.stderr[-3000:]
    two, resumed = weights(tmp_path / "two"), weights(tmp_path / "again")
    assert all(torch.equal(value, resumed[name]) for name, value in two.items())


def test_sharding_needs_several_processes(tmp_path):
    with pytest.raises(ValueError, match="torchrun"):
        run(tmp_path, "fsdp")
