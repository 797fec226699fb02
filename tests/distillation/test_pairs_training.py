# SPDX-License-Identifier: Apache-2.0
"""Training on pairs: the same bits after an interruption, whole or by adapters, with no teacher after the first draw."""

import copy

import pytest
import torch
from torch.testing import assert_close
from waves import Waves, loop, make

from flashwam.core.streams import StreamSpec
from flashwam.distillation.futures import TeacherFuture
from flashwam.distillation.methods import make_method
from flashwam.distillation.setup import Setup
from flashwam.distillation.trainer import train
from flashwam.recipe.sections import LoraConfig
from flashwam.student import load_wam

STREAMS = {
    name: StreamSpec.from_config(name, {"shift": shift, "consistency": "linear", "teacher_steps": 2})
    for name, shift in (("video", 5.0), ("action", 1.0))
}
OPTIONS = {"first_share": None, "further_share": 0.5, "reuse": 2, "drawn_at_once": 5}
WAYS = {"whole": None, "adapters": LoraConfig(rank=4, alpha=8.0)}


class Interrupted(Exception):
    pass


class StopsAt:
    """Interrupts the run when samples from `index` on are asked for."""

    def __init__(self, source, index):
        self._source, self._index = source, index

    def batch(self, indices):
        if indices[0] >= self._index:
            raise Interrupted
        return self._source.batch(indices)


def run(folder, kept, lora, *, stop=None):
    """Trains from what `make` gives; returns the result, and the method as it ends."""
    config = loop("pairs", lora=lora, options=OPTIONS)
    student = make()
    method = make_method(config, STREAMS, student, teacher=student if lora else make())
    setup = Setup(data=kept, streams=STREAMS, seed=3, batch_size=config.batch_size, batches=config.steps)
    source = method.source(Waves(), setup)
    assert method.roles.teacher is None
    result = train(method, source if stop is None else StopsAt(source, stop), config, run_dir=folder, seed=3)
    return result, method


def weights(folder):
    return load_wam(folder)[0].state_dict()


@pytest.mark.parametrize("way", WAYS)
def test_resumed_equals_uninterrupted_bit_for_bit_and_draws_once(tmp_path, monkeypatch, way):
    drawn, draw = [], TeacherFuture.draw
    monkeypatch.setattr(TeacherFuture, "draw", lambda self, b, noise: drawn.append(b.size) or draw(self, b, noise))
    whole, _ = run(tmp_path / "whole", tmp_path, WAYS[way])
    # Six steps of eight samples, each pair used twice; two places of a chunk.
    assert sum(drawn) == 6 * 8 // 2
    for stop in (1, 4):
        with pytest.raises(Interrupted):
            run(tmp_path / "parts", tmp_path, WAYS[way], stop=stop * 8)
    parts, _ = run(tmp_path / "parts", tmp_path, WAYS[way])
    assert sum(drawn) == 6 * 8 // 2
    first, second = weights(whole), weights(parts)
    assert first.keys() == second.keys() == make().state_dict().keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], value) for name, value in make().state_dict().items())


def test_adapters_leave_the_backbone_alone_and_export_a_plain_student(tmp_path):
    result, method = run(tmp_path / "run", tmp_path, WAYS["adapters"])
    model = method.roles.model
    with model.adapters.merged(None) as plain:
        kept = copy.deepcopy(plain.state_dict())
    assert all(torch.equal(kept[name], value) for name, value in make().state_dict().items())
    data = Waves().batch([0, 1])
    sigma = {name: torch.full(x.shape[:1] + x.shape[2:3], 0.7) for name, x in data.clean.items()}
    with torch.no_grad():
        expected = model(data.clean, sigma, data.history, {"text": data.text})
        student = load_wam(result)[0](data.clean, sigma, data.history, {"text": data.text})
    for name, value in student.items():
        assert_close(value, expected[name], rtol=0, atol=1e-5)
