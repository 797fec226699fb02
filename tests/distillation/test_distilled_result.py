# SPDX-License-Identifier: Apache-2.0
"""Distillation to the end, where the right answer is known: one step must land where the exact flow does."""

from dataclasses import replace

import pytest
import torch
from distill_toys import MEAN, SPREAD, GaussianTeacher, ToySource, ToyWam
from torch import nn

from flashwam.core.consistency import Linear
from flashwam.core.noise import append_dims
from flashwam.distillation.draws import Draws
from flashwam.distillation.methods import ConsistencyDistillation


class Affine(ToyWam):
    """v = alpha(sigma) x + beta(sigma): enough for the exact one-step map of Gaussian data, and no more."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.nets = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 2)) for name in self.streams}
        )

    def velocity(self, noisy, sigma, clean, context):
        out = {}
        for name, x in noisy.items():
            alpha, beta = self.nets[name](sigma[name][..., None]).unbind(-1)
            out[name] = append_dims(alpha, x) * x + append_dims(beta, x)
        return out


def one_step_error(model: ToyWam, name: str, function) -> float:
    """Root mean square distance of one step from sigma = 1 to the exact flow's end, mean + spread eps."""
    eps = torch.randn(512, 1, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    sigma = torch.ones(512, 1)
    with torch.no_grad():
        velocity = model.velocity({name: eps}, {name: sigma}, {}, {})[name]
    return float((function(eps, sigma, velocity) - MEAN[name] - SPREAD[name] * eps).square().mean().sqrt())


@pytest.mark.parametrize("function", ["linear", "lcm"])
def test_one_step_lands_where_the_flow_does_with_the_functions_own_sampler(specs, function):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        student = Affine()
    streams = specs(consistency=function, teacher_substeps=8)
    before = {name: one_step_error(student, name, spec.consistency) for name, spec in streams.items()}
    method = ConsistencyDistillation(streams, student, teacher=GaussianTeacher())
    optimizer = torch.optim.Adam(method.roles.model.parameters(), lr=1e-2)
    steps = 300
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-2 * (1 - step / steps)
        batch = ToySource().batch(range(32 * (step % 8), 32 * (step % 8 + 1)))
        batch = replace(batch, text=torch.zeros_like(batch.text))
        method.loss(batch, Draws(seed=0, step=step, positions=range(32))).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(0.95)
    for name, spec in streams.items():
        # What is left is the teacher's own bias: eight Euler steps over half the grid.
        assert one_step_error(student, name, spec.consistency) < min(0.12, before[name] / 4)
        euler = one_step_error(student, name, Linear())
        if function == "lcm":
            # A plain Euler step on an lcm student is the sampler mismatch: far off however well it was trained.
            assert euler > 0.3
        else:
            assert euler < 0.12
