# SPDX-License-Identifier: Apache-2.0
"""A gradient that is not finite ends a training, and the parameters that have it are named."""

import re

import pytest
import torch
from distill_toys import GaussianTeacher, ToySource, ToyWam

from flashwam.core.streams import StreamSpec
from flashwam.distillation.methods import NonFiniteError, make_method
from flashwam.distillation.trainer import train
from flashwam.recipe.sections import LoopConfig

STREAMS = {
    "video": StreamSpec.from_config("video", {"shift": 5.0, "consistency": "lcm"}),
    "action": StreamSpec.from_config("action", {"shift": 1.0}),
}


def loop(**changes) -> LoopConfig:
    return LoopConfig(method="consistency", steps=24, batch_size=4, lr=1e-2, log_every=4, **changes)


def test_non_finite_gradient_stops_the_run(tmp_path):
    class Breaks(ToyWam):
        def velocity(self, noisy, sigma, clean, context):
            out = super().velocity(noisy, sigma, clean, context)
            # Finite value, infinite derivative.
            return {n: v + torch.sqrt((v - v.detach()).abs()) for n, v in out.items()}

    config = loop(save_every=1)
    method = make_method(config, STREAMS, Breaks.create(seed=1), teacher=GaussianTeacher())
    with pytest.raises(NonFiniteError, match=r"gradient is not finite, in \d+ of \d+ parameters"):
        train(method, ToySource(), config, run_dir=tmp_path, seed=0)
    assert not list((tmp_path / "checkpoints").glob("*"))


def test_the_parameter_whose_gradient_is_not_finite_is_named(tmp_path):
    """Clipping spreads it to all others, and the optimiser to all weights."""
    config = loop(save_every=1)
    student = ToyWam.create(seed=1)
    name, broken = [*student.named_parameters()][-1]
    method = make_method(config, STREAMS, student, teacher=GaussianTeacher())
    broken.register_hook(lambda grad: torch.full_like(grad, torch.nan))
    told = rf"not finite, in 1 of \d+ parameters, first \['{re.escape(name)}'\]"
    with pytest.raises(NonFiniteError, match=told):
        train(method, ToySource(), config, run_dir=tmp_path, seed=0)
