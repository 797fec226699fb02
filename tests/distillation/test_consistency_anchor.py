# SPDX-License-Identifier: Apache-2.0
"""The anchor of a consistency loss at the end of the teacher's whole path."""

from itertools import pairwise

import pytest
import torch
from distill_toys import SPREAD, GaussianTeacher, Point, ToyWam, gaussian_velocity, teacher_jump

from flashwam.core.noise import append_dims
from flashwam.distillation.methods import ConsistencyDistillation
from flashwam.distillation.methods.states import training_levels


def test_anchor_is_the_end_of_the_teachers_path_from_the_same_state(wam, teacher, specs, batch, draws):
    """Three Euler steps by hand, evenly spaced on the training grid; the video's guided with w = 3."""
    streams = specs(video={"guidance": [3.0, 3.0]})
    method = ConsistencyDistillation(streams, wam, teacher=teacher, anchor=0.3, anchor_steps=3)
    plain = ConsistencyDistillation(streams, ToyWam.create(seed=1), teacher=teacher).loss(batch, draws)
    output = method.loss(batch, draws)
    shift = batch.text.mean((1, 2))
    start = training_levels(method.roles.model, batch, draws, streams)
    total = 0.0
    for name, term in output.terms.items():
        index = start[name].double()
        nodes = [streams[name].schedule.sigma(1 - (index + k / 3 * (1000 - index)) / 1000) for k in range(4)]
        nodes = [level.float().masked_fill(batch.given, 0.0) for level in nodes]
        x = state = teacher_jump(method, batch, draws)[0][name]
        for here, there in pairwise(nodes):
            told, untold = (
                gaussian_velocity(x, append_dims(here, x), GaussianTeacher.mean(name, text, x), SPREAD[name])
                for text in (shift, torch.zeros_like(shift))
            )
            velocity = untold + (3.0 if name == "video" else 1.0) * (told - untold)
            x = x + append_dims(there - here, x) * velocity
        straight = (state - x) / append_dims(nodes[0], x)
        apart = ((term.velocity.detach() - straight) ** 2)[term.mask.expand_as(x)].mean()
        torch.testing.assert_close(output.metrics[f"{name}/anchor"], apart)
        total += 0.3 * apart
        assert torch.equal(term.loss, plain.terms[name].loss)
    torch.testing.assert_close(output.loss.detach(), plain.loss.detach() + total)


def test_anchor_costs_a_walk_of_the_teacher_and_holds_streams_that_jump_alone(teacher, specs, batch, draws):
    streams = specs(action={"weight": 0, "regulariser": 0.5})
    method = ConsistencyDistillation(streams, ToyWam.create(seed=1), teacher=teacher, anchor=0.2, anchor_steps=5)
    teacher.calls = 0
    output = method.loss(batch, draws)
    assert teacher.calls == 1 + 5
    assert set(output.metrics) == {"video/anchor"}
    velocity = output.terms["video"].velocity
    gradient = torch.autograd.grad(output.loss, velocity, retain_graph=True)[0]
    assert not bool(gradient[:, :, 0].any())
    assert float(gradient[:, :, 1:].abs().min()) > 0


def test_anchor_of_a_straight_flow_is_reached_by_its_own_velocity(specs, batch, draws):
    method = ConsistencyDistillation(specs(), Point(), teacher=Point(), anchor=1.0, anchor_steps=4)
    output = method.loss(batch, draws)
    assert max(float(value) for value in output.metrics.values()) < 1e-6


@pytest.mark.parametrize(
    "wrong", [{"anchor": -0.1}, {"anchor": float("nan")}, {"anchor_steps": 0}, {"anchor_steps": 2.5}]
)
def test_anchor_out_of_range_is_refused(wrong, wam, teacher, specs):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ConsistencyDistillation(specs(), wam, teacher=teacher, **wrong)


def test_anchor_without_a_jump_is_refused(wam, teacher, specs):
    with pytest.raises(ValueError, match="anchor holds streams that jump"):
        ConsistencyDistillation(specs(weight=0, regulariser=1.0), wam, teacher=teacher, anchor=0.2)
