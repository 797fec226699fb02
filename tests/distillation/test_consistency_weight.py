# SPDX-License-Identifier: Apache-2.0
"""The gradient weight of a consistency loss, taken from another function than the student's own."""

from dataclasses import dataclass, replace

import pytest
import torch
from distill_toys import GaussianTeacher, ToyWam, teacher_jump

from flashwam.core.consistency import LCM, ConsistencyFunction, Linear
from flashwam.core.noise import append_dims
from flashwam.distillation.methods import ConsistencyDistillation
from flashwam.distillation.methods.consistency import weight_ratio


@pytest.mark.parametrize("weight", ["linear", "lcm"])
@pytest.mark.parametrize("start", ["linear", "lcm"])
def test_start_and_gradient_weight_are_chosen_apart(start, weight, specs, batch, draws):
    """dL/dv by hand: the slope of pseudo-Huber at the start's own difference, times |b| of the other function."""
    streams = specs(consistency=start, huber_c=0.3)
    as_other = dict.fromkeys(streams, weight)
    method = ConsistencyDistillation(streams, ToyWam.create(seed=1), teacher=GaussianTeacher(), weight_as=as_other)
    output = method.loss(batch, draws)
    noisy, _, end, end_sigma = teacher_jump(method, batch, draws)
    with torch.no_grad():
        target = method.roles.target(end, end_sigma, batch.history, {"text": batch.text})
    b = {"linear": lambda s: s, "lcm": lambda s: s**2 * 0.5 / torch.sqrt(s**2 + 0.25)}[weight]
    for name, term in output.terms.items():
        own = streams[name].consistency
        f = own(noisy[name], term.sigma, term.velocity.detach()), own(end[name], end_sigma[name], target[name])
        difference = f[0] - f[1]
        slope = difference / torch.sqrt(difference**2 + 0.3**2)
        count = term.mask.expand_as(difference).sum((1, 2, 3, 4), keepdim=True)
        expected = -append_dims(b(term.sigma), slope) * slope * term.mask / count
        gradient = torch.autograd.grad(term.loss.sum(), term.velocity, retain_graph=True)[0]
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-8)
        torch.testing.assert_close(term.gradient_scale, b(term.sigma))


def test_streams_take_gradient_weights_of_their_own(specs, batch, draws):
    streams = specs(action={"consistency": "lcm"})
    plain, one = (
        ConsistencyDistillation(streams, ToyWam.create(seed=1), teacher=GaussianTeacher(), weight_as=given).loss(
            batch, draws
        )
        for given in (None, {"action": "linear"})
    )
    assert torch.equal(one.terms["video"].loss, plain.terms["video"].loss)
    assert bool((one.terms["action"].loss > 2 * plain.terms["action"].loss).all())


@pytest.mark.parametrize("function", ["linear", "lcm", {"name": "lcm", "sigma_data": 0.3}])
def test_gradient_weight_of_the_own_function_is_no_option(function, specs, batch, draws):
    results = []
    for given in (None, {"video": function, "action": function}):
        student = ToyWam.create(seed=1)
        streams = specs(consistency=function)
        method = ConsistencyDistillation(streams, student, teacher=GaussianTeacher(), weight_as=given)
        loss = method.loss(batch, draws).loss
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in student.parameters())])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


@dataclass(frozen=True)
class Late(ConsistencyFunction):
    """Does not look at the velocity below half noise."""

    def a(self, sigma):
        return torch.ones_like(sigma)

    def b(self, sigma):
        return -(sigma - 0.5).clamp(min=0)


def test_no_gradient_weight_is_taken_where_the_own_function_has_no_gradient(specs, batch, draws):
    sigma = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    assert weight_ratio(Late(), Linear(), sigma).tolist() == [1, 1, 1, 3, 2]
    assert weight_ratio(Linear(), Late(), sigma).tolist() == pytest.approx([1, 0, 0, 1 / 3, 1 / 2])
    assert weight_ratio(LCM(), Linear(), sigma)[0] == 1
    streams = {name: replace(spec, consistency=Late()) for name, spec in specs().items()}
    student = ToyWam.create(seed=1)
    as_linear = dict.fromkeys(streams, "linear")
    output = ConsistencyDistillation(streams, student, teacher=GaussianTeacher(), weight_as=as_linear).loss(
        batch, draws
    )
    for term in output.terms.values():
        gradient = torch.autograd.grad(term.loss.sum(), term.velocity, retain_graph=True)[0]
        below = term.sigma <= 0.5
        assert bool(torch.isfinite(term.loss).all())
        assert not bool(gradient.transpose(1, 2)[below].any())
        torch.testing.assert_close(term.gradient_scale, term.sigma.masked_fill(below, 0.0))


def test_gradient_weight_of_no_jump_is_refused(wam, teacher, specs):
    with pytest.raises(ValueError, match="weight_as names \\['sound'\\]"):
        ConsistencyDistillation(specs(), wam, teacher=teacher, weight_as={"sound": "lcm"})
    with pytest.raises(ValueError, match="weight 0 and so no consistency loss"):
        ConsistencyDistillation(specs(action={"weight": 0}), wam, teacher=teacher, weight_as={"action": "lcm"})
    with pytest.raises(ValueError, match="consistency function"):
        ConsistencyDistillation(specs(), wam, teacher=teacher, weight_as={"action": "cubic"})
