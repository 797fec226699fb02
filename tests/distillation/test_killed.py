# SPDX-License-Identifier: Apache-2.0
"""A process of several is killed; a file of its own, so that it runs beside the others."""

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

    done = launch(tmp_path / "again", strategy + "-killed", tmp_path / "two", strategy)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(p.name for p in (tmp_path / "two/checkpoints").iterdir()) == ["step_000002", "step_000004"]
    two, resumed = weights(tmp_path / "two"), weights(tmp_path / "again")
    assert all(torch.equal(value, resumed[name]) for name, value in two.items())
    compare_with_one(tmp_path, strategy)
