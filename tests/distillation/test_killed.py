# SPDX-License-Identifier: Apache-2.0
"""A process of several is killed; a file of its own, so that it runs beside the others."""

import json
import shutil

import pytest
import torch
from launching import compare_with_one, launch, weights, zero


@pytest.mark.parametrize("strategy", ["ddp", "fsdp-on_policy-teacher", zero("zero2"), zero("zero3")])
def test_a_process_that_is_killed_costs_nothing_but_time(tmp_path, strategy):
    """Started again, both end with the very bits of an uninterrupted training."""
    broken = launch(tmp_path / "again", strategy + "-killed")
    assert broken.returncode != 0
    assert [p.name for p in (tmp_path / "again/checkpoints").glob("step_*")] == ["step_000002"]
    assert not (tmp_path / "again/student").exists()
    kept = tmp_path / "again/checkpoints/step_000002"
    assert {path.suffix for path in kept.rglob("*") if path.is_file()} == {".safetensors", ".json"}
    if strategy == "zero3":
        shutil.copytree(tmp_path / "again", tmp_path / "alone")

    done = launch(tmp_path / "again", strategy + "-killed", tmp_path / "two", strategy)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(p.name for p in (tmp_path / "two/checkpoints").iterdir()) == ["step_000002", "step_000004"]
    two, resumed = weights(tmp_path / "two"), weights(tmp_path / "again")
    assert all(torch.equal(value, resumed[name]) for name, value in two.items())
    compare_with_one(tmp_path, strategy)
    if strategy == "zero3":
        _goes_on_in_one_process(tmp_path / "alone", strategy, two)


def _goes_on_in_one_process(folder, strategy, expected):
    """Without torchrun, too, and from where two processes were."""
    done = launch(folder, strategy, processes=None)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for name, value in weights(folder).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=2e-6)
