# SPDX-License-Identifier: Apache-2.0
"""A process of several is killed; a file of its own, so that it runs beside the others."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from launching import HAS_DEEPSPEED, compare_with_one, launch, launch_groups, weights, zero

STRATEGIES = ("ddp", "fsdp-on_policy-teacher", "zero2", "zero3")


@pytest.fixture(scope="module")
def continued(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Strategy -> folder: in `again` a training of two processes one of which was killed, continued; in `two` one that
    was not disturbed; in `alone` what was there after the kill."""
    folder = tmp_path_factory.mktemp("killed")
    runs = {}
    for name in STRATEGIES:
        again = folder / name / "again"
        if HAS_DEEPSPEED or not name.startswith("zero"):
            _kill_one_of_two(again, name)
            shutil.copytree(again, folder / name / "alone")
            runs[name] = [(again, name + "-killed"), (folder / name / "two", name)]
    ready = launch_groups(runs)

    def of(strategy: str) -> Path:
        ready(strategy)
        return folder / strategy

    return of


def _kill_one_of_two(folder: Path, strategy: str) -> None:
    broken = launch(folder, strategy + "-killed")
    assert broken.returncode != 0
    assert [p.name for p in (folder / "checkpoints").glob("step_*")] == ["step_000002"]
    assert not (folder / "student").exists()
    kept = folder / "checkpoints/step_000002"
    assert {path.suffix for path in kept.rglob("*") if path.is_file()} == {".safetensors", ".json"}


@pytest.mark.parametrize("strategy", [zero(name) if name.startswith("zero") else name for name in STRATEGIES])
def test_a_process_that_is_killed_costs_nothing_but_time(continued, strategy):
    """Started again, both end with the very bits of an uninterrupted training."""
    folder = continued(strategy)
    assert sorted(p.name for p in (folder / "two/checkpoints").iterdir()) == ["step_000002", "step_000004"]
    two, resumed = weights(folder / "two"), weights(folder / "again")
    assert all(torch.equal(value, resumed[name]) for name, value in two.items())
    compare_with_one(folder, strategy)
    if strategy == "zero3":
        _goes_on_in_one_process(folder / "alone", strategy, two)


def _goes_on_in_one_process(folder, strategy, expected):
    """Without torchrun, too, and from where two processes were."""
    done = launch(folder, strategy, processes=None)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for name, value in weights(folder).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=2e-6)
