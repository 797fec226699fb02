# SPDX-License-Identifier: Apache-2.0
"""A real distillation's gradients, logged by the loop, lie on the theory's |b|."""

import pytest
from distill_toys import GaussianTeacher, ToySource, ToyWam

from flashwam.core.streams import StreamSpec
from flashwam.distillation.methods import ConsistencyDistillation
from flashwam.distillation.trainer import train
from flashwam.recipe.sections import LoopConfig, Recipe
from flashwam.report.analyze import analyze


def test_a_toys_gradients_fall_with_sigma_as_b_does(tmp_path):
    streams = {
        "video": StreamSpec.from_config("video", {"shift": 5.0, "consistency": "lcm"}),
        "action": StreamSpec.from_config("action", {"shift": 1.0, "consistency": "linear"}),
    }
    method = ConsistencyDistillation(streams, ToyWam.create(seed=1), teacher=GaussianTeacher())
    loop = LoopConfig(steps=100, batch_size=32, lr=1e-3, diagnose_every=5, log_every=5, save_every=1000)
    train(method, ToySource(), loop, run_dir=tmp_path / "run", seed=0)
    measured = analyze(Recipe(name="toy", streams=streams), out=tmp_path / "out", checkpoint=tmp_path / "run")[
        "measured"
    ]
    for name in streams:
        ratios = [g / t for g, t in zip(measured[name]["gradient"], measured[name]["theory"], strict=True)]
        assert len(ratios) == 10
        assert max(abs(ratio - 1) for ratio in ratios) < 0.15, (name, ratios)
        assert measured[name]["scale"] == pytest.approx(1, abs=0.05)
    # Between the lowest and the highest bin lie two orders of magnitude for lcm, about one for linear.
    assert measured["video"]["gradient"][-1] / measured["video"]["gradient"][0] > 60
    assert 10 < measured["action"]["gradient"][-1] / measured["action"]["gradient"][0] < 30
