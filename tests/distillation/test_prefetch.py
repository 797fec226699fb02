# SPDX-License-Identifier: Apache-2.0
"""Reading ahead changes when samples are read and nothing else."""

import json
import threading

import pytest
import torch
from distill_toys import GaussianTeacher, ToySource, ToyWam

from flashwam.core.streams import StreamSpec
from flashwam.distillation.methods import NonFiniteError, make_method
from flashwam.distillation.prefetch import read_ahead
from flashwam.distillation.trainer import train
from flashwam.recipe.checks import FieldError
from flashwam.recipe.sections import LoopConfig
from flashwam.student import load_wam

STREAMS = {name: StreamSpec.from_config(name, {"shift": 1.0}) for name in ("video", "action")}


class Watched(ToySource):
    """Notes which draws are read in which thread; those from `broken` on cannot be."""

    def __init__(self, broken: int | None = None, **options: object) -> None:
        super().__init__(**options)
        self.broken, self.read = broken, []

    def batch(self, indices):
        self.read.append((indices, threading.current_thread()))
        if self.broken is not None and indices[0] >= self.broken:
            raise ValueError(f"data/episode_{indices[0]}.pth: too short")
        return super().batch(indices)

    def describe(self, index):
        return f"episode {index}"


def run(folder, source, *, prefetch, **changes):
    loop = LoopConfig(
        method="consistency",
        **{"steps": 6, "batch_size": 2, "accumulation": 2, "save_every": 2, "log_every": 1, **changes},
        prefetch=prefetch,
    )
    method = make_method(loop, STREAMS, ToyWam.create(seed=1), teacher=GaussianTeacher())
    return train(method, source, loop, run_dir=folder, seed=0)


def state(folder):
    lines = [json.loads(line) for line in (folder.parent / "metrics.jsonl").read_text().splitlines()]
    return load_wam(folder, trust=True)[0].state_dict(), [
        (line["step"], line["loss"], line["grad_norm"]) for line in lines
    ]


@pytest.fixture(autouse=True)
def no_thread_left():
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-ahead")]


def test_same_bits_with_and_without_and_after_an_interruption(tmp_path):
    plain, ahead = Watched(), Watched()
    weights, log = state(run(tmp_path / "plain", plain, prefetch=0))
    others = [state(run(tmp_path / "ahead", ahead, prefetch=2))]
    with pytest.raises(ValueError, match="too short"):
        run(tmp_path / "parts", Watched(broken=5 * 4 + 2), prefetch=3)
    assert (tmp_path / "parts/checkpoints/step_000004").is_dir()
    others.append(state(run(tmp_path / "parts", Watched(), prefetch=1)))
    for other, other_log in others:
        assert other_log == log
        assert all(torch.equal(value, other[name]) for name, value in weights.items())
    assert [draws for draws, _ in ahead.read] == [draws for draws, _ in plain.read]
    assert {thread for _, thread in plain.read} == {threading.current_thread()}
    assert threading.current_thread() not in {thread for _, thread in ahead.read}


def test_an_error_comes_at_its_own_step_with_its_words(tmp_path):
    with pytest.raises(ValueError, match=r"data/episode_14\.pth: too short"):
        run(tmp_path, Watched(broken=14), prefetch=4)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]


def test_a_sample_is_described_while_others_are_read(tmp_path):
    with pytest.raises(NonFiniteError, match="episode 9"):
        run(tmp_path, Watched(poison=9), prefetch=2)


def test_reading_is_bounded_and_ends_with_the_context():
    read, seen = [], threading.Event()

    def slow(indices):
        read.append(indices[0])
        if len(read) == 4:
            seen.set()
        return indices

    with read_ahead(slow, ([i] for i in range(100)), depth=3) as batches:
        assert next(batches) == [0]
        assert seen.wait(10)
        assert [next(batches) for _ in range(2)] == [[1], [2]]
    assert read == list(range(len(read)))
    assert 4 <= len(read) <= 6
    with read_ahead(slow, ([i] for i in range(5)), depth=9) as batches:
        assert list(batches) == [[0], [1], [2], [3], [4]]


def test_a_source_says_whether_it_is_worth_it(tmp_path):
    class Files(Watched):
        prefetch = 1

    source = Files()
    run(tmp_path / "a", source, prefetch=None, steps=2)
    assert threading.current_thread() not in {thread for _, thread in source.read}
    source = Files()
    run(tmp_path / "b", source, prefetch=0, steps=2)
    assert {thread for _, thread in source.read} == {threading.current_thread()}
    with pytest.raises(FieldError, match="prefetch must be at least 0"):
        LoopConfig(prefetch=-1)
