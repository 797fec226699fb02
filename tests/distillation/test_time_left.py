# SPDX-License-Identifier: Apache-2.0
"""The time left that a training tells."""

import json
from types import SimpleNamespace

from distill_toys import GaussianTeacher, ToySource, ToyWam

from flashwam.core.streams import StreamSpec
from flashwam.distillation.methods import make_method
from flashwam.distillation.trainer import train
from flashwam.recipe.sections import LoopConfig


def test_the_time_left_does_not_count_on_further_first_steps(tmp_path, monkeypatch):
    """A first step may compile for a minute."""
    clock = [0.0]
    monkeypatch.setattr("flashwam.distillation.trainer.time", SimpleNamespace(monotonic=lambda: clock[0]))

    velocity = ToyWam.velocity

    def slow(*arguments):
        clock[0] += 1.0 if clock[0] else 1000.0
        return velocity(*arguments)

    monkeypatch.setattr(ToyWam, "velocity", slow)
    streams = {name: StreamSpec.from_config(name, {"shift": 1.0}) for name in ("video", "action")}
    config = LoopConfig(method="consistency", steps=4, batch_size=4, log_every=1)
    method = make_method(config, streams, ToyWam.create(seed=1), teacher=GaussianTeacher())
    train(method, ToySource(), config, run_dir=tmp_path, seed=0)
    first, *later = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert first["seconds_left"] > 3000
    assert [line["seconds_left"] for line in later] == sorted((line["seconds_left"] for line in later), reverse=True)
    assert later[0]["seconds_left"] < 30
    assert later[-1]["seconds_left"] == 0
