# SPDX-License-Identifier: Apache-2.0
"""The velocities of a model of one's own are held against its states, where it trains and where it draws."""

import pytest
import torch
from distill_toys import ToySource, ToyWam

from flashwam.core.noise import NoiseSchedule
from flashwam.core.streams import StreamSpec
from flashwam.distillation.methods import FlowMatching
from flashwam.distillation.trainer import train
from flashwam.recipe.sections import LoopConfig
from flashwam.sampling import draw, samplers_for

SPECS = {name: StreamSpec(name=name, schedule=NoiseSchedule(1.0)) for name in ("video", "action")}
LOOP = LoopConfig(steps=1, batch_size=2, lr=1e-3, log_every=1, save_every=1)
WRONG = {
    "one channel": (
        lambda v: v | {"action": v["action"][:, :1]},
        r"stream 'action' must be \(.*\) as its state is; got",
    ),
    "one frame": (lambda v: v | {"video": v["video"][:, :, :1]}, r"stream 'video' must be \(.*\) as its state is; got"),
    "one sample": (lambda v: v | {"video": v["video"][:1]}, r"stream 'video' must be \(.*\) as its state is; got"),
    "a stream less": (lambda v: {"video": v["video"]}, r"stream 'action' is missing; got \['video'\]"),
    "nothing": (lambda v: None, r"expected a mapping from each of \['video', 'action'\] to its velocity; got None"),
    "a list": (lambda v: list(v.values()), "to its velocity; got a list"),
    "an array": (lambda v: v | {"video": v["video"].detach().numpy()}, "'video' must be a tensor; got a ndarray"),
    "whole numbers": (
        lambda v: v | {"video": v["video"].long()},
        "floating-point numbers, as its state; got torch.int",
    ),
    "doubles": (
        lambda v: v | {"video": v["video"].double()},
        "floating-point numbers, as its state; got torch.float64",
    ),
}


class Wrong(ToyWam):
    change = staticmethod(dict)

    def velocity(self, noisy, sigma, clean, context):
        return self.change(super().velocity(noisy, sigma, clean, context))


@pytest.fixture
def model():
    return Wrong.create(seed=0)


@pytest.mark.parametrize(("change", "told"), WRONG.values(), ids=list(WRONG))
def test_what_is_no_velocity_is_neither_trained_nor_drawn(model, tmp_path, change, told):
    model.change = change
    with pytest.raises(ValueError, match=f"velocity of Wrong: .*{told}"):
        train(FlowMatching(SPECS, model), ToySource(), LOOP, run_dir=tmp_path, seed=0)
    batch = ToySource().batch([0, 1])
    samplers = samplers_for(SPECS, steps=dict.fromkeys(SPECS, 1), teacher=True)

    @torch.no_grad()
    def velocity(x, sigma):
        return model.velocity(x, sigma, batch.history, {"text": batch.text})

    with pytest.raises(ValueError, match=told):
        draw(velocity, {name: torch.randn_like(x) for name, x in batch.clean.items()}, samplers)


def test_narrower_numbers_and_further_streams_are_velocities(model, tmp_path):
    model.change = lambda v: {name: x.to(torch.bfloat16) for name, x in v.items()} | {"more": torch.zeros(1)}
    train(FlowMatching(SPECS, model), ToySource(), LOOP, run_dir=tmp_path, seed=0)


def test_a_loss_without_a_gradient_says_why(model, tmp_path):
    model.change = lambda v: {name: x.detach() for name, x in v.items()}
    with pytest.raises(ValueError, match="student's loss depends on none of the weights that are trained"):
        train(FlowMatching(SPECS, model), ToySource(), LOOP, run_dir=tmp_path, seed=0)
