# SPDX-License-Identifier: Apache-2.0
"""Consistency distillation against a teacher whose flow is known in closed form."""

from dataclasses import replace

import pytest
import torch
from distill_toys import SPREAD, GaussianTeacher, Point, ToyWam, gaussian_flow, gaussian_velocity, teacher_jump

from flashwam.core.noise import NoiseSchedule, append_dims
from flashwam.distillation.draws import Draws
from flashwam.distillation.methods import ConsistencyDistillation, FlowMatching
from flashwam.distillation.methods.consistency import jump_levels
from flashwam.distillation.methods.states import start_states, training_levels
from flashwam.wam.guidance import guided_velocity


def test_path_runs_from_start_to_end_on_the_training_grid():
    schedule = NoiseSchedule(5.0)
    start = torch.tensor([[0, 300, 900]])
    end = schedule.jump(start, 2)
    path = jump_levels(schedule, start, end, 4)
    grid = schedule.training_grid().float()
    assert torch.equal(path[0], grid[start])
    assert torch.equal(path[-1], grid[end])
    assert torch.equal(path[2, 0, :2], grid[torch.tensor([250, 550])])
    assert bool((path[1:] <= path[:-1]).all())


def test_one_substep_is_one_euler_step(wam, teacher, specs, batch, draws):
    method = ConsistencyDistillation(specs(), wam, teacher=teacher)
    noisy, sigma, end, end_sigma = teacher_jump(method, batch, draws)
    shift = batch.text.mean((1, 2))
    for name in method.streams:
        x, level = noisy[name], append_dims(sigma[name], noisy[name])
        velocity = gaussian_velocity(x, level, GaussianTeacher.mean(name, shift, x), SPREAD[name])
        expected = x + (append_dims(end_sigma[name], x) - level) * velocity
        torch.testing.assert_close(end[name], expected)


def test_many_substeps_reach_the_exact_flow(wam, teacher, specs, batch, draws):
    shift = batch.text.mean((1, 2))
    errors = []
    for substeps in (50, 100):
        method = ConsistencyDistillation(specs(teacher_substeps=substeps), wam, teacher=teacher)
        noisy, sigma, end, end_sigma = teacher_jump(method, batch, draws)
        worst = 0.0
        for name in method.streams:
            x = noisy[name]
            levels = append_dims(sigma[name], x), append_dims(end_sigma[name], x)
            exact = gaussian_flow(x, *levels, GaussianTeacher.mean(name, shift, x), SPREAD[name])
            worst = max(worst, float((end[name] - exact).abs().max()))
        errors.append(worst)
    assert errors[1] < 0.05
    # Euler's error is of first order in the step.
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.15)


def test_streams_may_take_different_numbers_of_substeps(teacher, specs, batch, draws):
    mixed = ConsistencyDistillation(specs(video={"teacher_substeps": 3}), ToyWam.create(seed=1), teacher=teacher)
    teacher.calls = 0
    _, _, end, _ = teacher_jump(mixed, batch, draws)
    assert teacher.calls == 3
    for name, substeps in (("video", 3), ("action", 1)):
        alone = ConsistencyDistillation(specs(teacher_substeps=substeps), ToyWam.create(seed=1), teacher=teacher)
        assert torch.equal(end[name], teacher_jump(alone, batch, draws)[2][name])


def test_guidance_formula_for_guided_streams_only(teacher, batch):
    sigma = {n: torch.full((4, batch.frames), 0.6) for n in batch.clean}
    arguments = (batch.clean, sigma, batch.history)
    conditional = teacher.velocity(*arguments, {"text": batch.text})
    unconditional = teacher.velocity(*arguments, {"text": batch.null_text.expand_as(batch.text)})
    teacher.calls = 0
    guided = guided_velocity(
        teacher, *arguments, text=batch.text, null_text=batch.null_text, scales={"video": 3.0, "action": 1.0}
    )
    assert teacher.calls == 2
    expected = unconditional["video"] + 3 * (conditional["video"] - unconditional["video"])
    torch.testing.assert_close(guided["video"], expected)
    assert not torch.allclose(guided["video"], conditional["video"])
    torch.testing.assert_close(guided["action"], conditional["action"])


def test_guidance_scale_is_drawn_once_a_step_from_its_range(wam, teacher, specs, batch):
    """The closed form: the teacher's mean depends linearly on the text, so guidance moves the target linearly."""
    method = ConsistencyDistillation(specs(video={"guidance": [2.0, 10.0]}), wam, teacher=teacher)
    plain = ConsistencyDistillation(specs(), ToyWam.create(seed=1), teacher=teacher)
    scales = []
    for step in range(12):
        draws = Draws(seed=0, step=step, positions=range(4))
        noisy, _, end, _ = teacher_jump(method, batch, draws)
        conditional = teacher_jump(plain, batch, draws)[2]["video"] - noisy["video"]
        unconditional = teacher_jump(plain, replace(batch, text=batch.null_text.expand_as(batch.text)), draws)[2][
            "video"
        ]
        unconditional = unconditional - noisy["video"]
        free = (~batch.given)[:, None, :, None, None].expand_as(conditional)
        ratio = (end["video"] - noisy["video"] - unconditional)[free] / (conditional - unconditional)[free]
        scale = float(ratio.median())
        torch.testing.assert_close(ratio, torch.full_like(ratio, scale), rtol=2e-2, atol=2e-2)
        scales.append(scale)
    assert min(scales) >= 1.99
    assert max(scales) <= 10.01
    assert max(scales) - min(scales) > 4


def test_perfect_student_and_target_on_a_point_mass_have_zero_loss(specs, batch, draws):
    """With data at one point the flow is straight: f = x0 everywhere for `linear`, whatever the jump."""

    method = ConsistencyDistillation(specs(), Point(), teacher=Point())
    output = method.loss(batch, draws)
    for term in output.terms.values():
        assert float(term.loss.max()) < 1e-4
    wrong = ConsistencyDistillation(specs(), ToyWam.create(seed=1), teacher=Point())
    assert float(wrong.loss(batch, draws).loss.detach()) > 0.1


def test_output_gradient_of_lcm_to_linear_is_the_ratio_of_b(specs, batch, draws):
    """Far from the target pseudo-Huber has unit slope, so dL/dv is |b| / count exactly, element by element."""
    gradients = {}
    for function in ("linear", "lcm"):
        streams = specs(consistency=function, huber_c=1e-6)
        method = ConsistencyDistillation(streams, ToyWam.create(seed=1), teacher=GaussianTeacher())
        output = method.loss(batch, draws)
        for name, term in output.terms.items():
            gradients[function, name] = torch.autograd.grad(term.loss.sum(), term.velocity, retain_graph=True)[0].abs()
            sigma, spec = term.sigma, streams[name]
            count = term.mask.expand_as(term.velocity).sum((1, 2, 3, 4), keepdim=True)
            expected = append_dims(spec.consistency.gradient_scale(sigma), term.velocity) / count * term.mask
            expected = expected.expand_as(term.velocity)
            torch.testing.assert_close(gradients[function, name], expected, rtol=1e-3, atol=1e-7)
    free = gradients["linear", "action"] > 0
    ratio = gradients["lcm", "action"][free] / gradients["linear", "action"][free]
    level = output.terms["action"].sigma[:, None, :, None, None].expand_as(free)[free]
    # |b_lcm| / |b_linear| = sigma d / sqrt(sigma^2 + d^2) with d = 1/2.
    torch.testing.assert_close(ratio, level / torch.sqrt(4 * level**2 + 1), rtol=2e-3, atol=0)


@pytest.mark.parametrize("kind", [ConsistencyDistillation, FlowMatching])
def test_masked_and_given_elements_get_no_gradient(kind, specs, batch, draws):
    method = kind(specs(regulariser=0.2), ToyWam.create(seed=1), teacher=GaussianTeacher())
    output = method.loss(batch, draws)
    velocities = [t.velocity for t in output.terms.values()]
    for name, gradient in zip(output.terms, torch.autograd.grad(output.loss, velocities), strict=True):
        assert float(gradient[:, :, 0].abs().max()) == 0
        hidden = ~batch.mask[name].expand_as(gradient)
        assert not bool(gradient[hidden].any())
        open_ = ~hidden & ~batch.given[:, None, :, None, None]
        assert float(gradient[open_].abs().min()) > 0


def test_given_frames_stay_clean_at_sigma_zero(batch, specs, draws):
    noisy, sigma, _ = start_states(batch, {n: torch.full((4, batch.frames), 0.9) for n in batch.clean}, draws)
    for name, x in noisy.items():
        assert torch.equal(x[:, :, 0], batch.clean[name][:, :, 0])
        assert float(sigma[name][:, 0].max()) == 0
        assert float(sigma[name][:, 1:].min()) == pytest.approx(0.9)


def test_regulariser_is_the_flow_matching_loss_of_the_same_forward(specs, batch, draws):
    student = ToyWam.create(seed=1)
    base = ConsistencyDistillation(specs(), student, teacher=GaussianTeacher()).loss(batch, draws)
    student.calls = 0
    method = ConsistencyDistillation(specs(action={"regulariser": 0.25}), student, teacher=GaussianTeacher())
    output = method.loss(batch, draws)
    assert student.calls == 1
    levels = training_levels(method.roles.model, batch, draws, method.streams)
    sigma = {n: s.schedule.training_grid().float()[levels[n]] for n, s in method.streams.items()}
    _, _, noise = start_states(batch, sigma, draws)
    mask = output.terms["action"].mask.expand_as(noise["action"])
    velocity = output.terms["action"].velocity
    expected = ((velocity - (noise["action"] - batch.clean["action"])) ** 2)[mask].mean()
    torch.testing.assert_close(output.metrics["action/regulariser"], expected.detach())
    torch.testing.assert_close(output.loss, base.loss + 0.25 * expected)


def test_stream_without_loss_gets_no_gradient_of_its_own(specs, batch, draws):
    method = ConsistencyDistillation(specs(action={"weight": 0}), ToyWam.create(seed=1), teacher=GaussianTeacher())
    output = method.loss(batch, draws)
    output.loss.backward()
    assert set(output.terms) == {"video"}
    assert method.roles.model.outside["action"].weight.grad is None
    assert method.roles.model.outside["video"].weight.grad is not None


def test_weight_zero_with_regulariser_is_flow_matching_alone(specs, batch, draws):
    streams = specs(action={"weight": 0, "regulariser": 0.2}, video={"weight": 0, "regulariser": 1.0})
    method = ConsistencyDistillation(streams, ToyWam.create(seed=1), teacher=GaussianTeacher())
    output = method.loss(batch, draws)
    expected = output.terms["video"].loss.mean() + 0.2 * output.terms["action"].loss.mean()
    torch.testing.assert_close(output.loss, expected)
    velocity, mask = output.terms["video"].velocity, output.terms["video"].mask
    gradient = torch.autograd.grad(output.terms["video"].loss.sum(), velocity, retain_graph=True)[0]
    count = mask.expand_as(velocity).sum((1, 2, 3, 4), keepdim=True)
    loss = ((gradient * count / 2) ** 2 * mask).sum((1, 2, 3, 4)) / count.flatten()
    torch.testing.assert_close(loss, output.terms["video"].loss)


def test_nothing_to_train_is_refused(wam, teacher, specs):
    with pytest.raises(ValueError, match="nothing to train"):
        ConsistencyDistillation(specs(weight=0), wam, teacher=teacher)
    with pytest.raises(ValueError, match="needs a teacher"):
        ConsistencyDistillation(specs(), wam)
    with pytest.raises(ValueError, match="order"):
        ConsistencyDistillation(dict(reversed(specs().items())), wam, teacher=teacher)
