# SPDX-License-Identifier: Apache-2.0
"""A process of several is killed; a file of its own, so that it runs beside the others."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from launching import HAS_DEEPSPEED, Trainings, compare_with_one, weights, zero

STRATEGIES = ("ddp", "fsdp-on_policy-teacher", "zero2", "zero3")


@pytest.fixture(scope="module")
def continued(tmp_path_factory: pytest.TempPathFactory, trainings: Trainings) -> Path:
    """Folder of a folder for each strategy: in `again` a training of two processes one of which was killed, continued;
    in `two` one that was not disturbed; in `alone` what was there after the kill."""
    folder = tmp_path_factory.mktemp("killed")
    names = [name for name in STRATEGIES if HAS_DEEPSPEED or not name.startswith("zero")]
    broken = [(folder / name / "again", name + "-killed") for name in names]
    statuses = trainings.run(*broken)
    assert [(first > 0, second) for first, second in statuses] == [(True, -signal.SIGKILL)] * len(names)
    for again, _ in broken:
        assert [p.name for p in (again / "checkpoints").glob("step_*")] == ["step_000002"]
        assert not (again / "student").exists()
        kept = again / "checkpoints/step_000002"
        assert {path.suffix for path in kept.rglob("*") if path.is_file()} == {".safetensors", ".json"}
        shutil.copytree(again, again.with_name("alone"))
    statuses = trainings.run(*broken, *((folder / name / "two", name) for name in names))
    assert statuses == [[0, 0]] * 2 * len(names), trainings.errors()
    return folder


@pytest.mark.parametrize("strategy", [zero(name) if name.startswith("zero") else name for name in STRATEGIES])
def test_a_process_that_is_killed_costs_nothing_but_time(continued, trainings, strategy):
    """Started again, both end with the very bits of an uninterrupted training."""
    folder = continued / strategy
    assert sorted(p.name for p in (folder / "two/checkpoints").iterdir()) == ["step_000002", "step_000004"]
    two, resumed = weights(folder / "two"), weights(folder / "again")
    assert all(torch.equal(value, resumed[name]) for name, value in two.items())
    compare_with_one(folder, strategy)
    if strategy == "zero3":
        _goes_on_in_one_process(folder / "alone", strategy, trainings, expected=two)


@pytest.mark.parametrize("strategy", ["fsdp-on_policy-teacher", zero("zero2")])
def test_four_processes_go_on_from_where_two_were(continued, trainings, strategy):
    folder = continued / strategy
    assert trainings.run((folder / "alone", strategy), processes=4) == [[0] * 4], trainings.errors()
    expected = weights(folder / "two")
    for name, value in weights(folder / "alone").items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=2e-6)


def _goes_on_in_one_process(folder, strategy, trainings, *, expected):
    """Without torchrun, too, and from where two processes were."""
    assert trainings.run((folder, strategy), processes=None) == [[0]], trainings.errors()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for name, value in weights(folder).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=2e-6)
