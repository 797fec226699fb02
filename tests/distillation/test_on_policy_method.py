# SPDX-License-Identifier: Apache-2.0
"""The on-policy stage: who sees what, and where the teacher's path ends."""

from dataclasses import replace

import pytest
import torch
from distill_toys import CHUNK, SPREAD, GaussianTeacher, ToySource, ToyWam, gaussian_flow

from flashwam.core.noise import append_dims
from flashwam.distillation.draws import Draws
from flashwam.distillation.methods import OnPolicy
from flashwam.sampling import draw, samplers_for


class FollowsVideo(ToyWam):
    """An exact flow whose action mean is the mean of the current chunk's clean video: who sees whose video shows."""

    def velocity(self, noisy, sigma, clean, context):
        from distill_toys import gaussian_velocity

        out = {}
        for name, x in noisy.items():
            mean = clean["video"].unflatten(2, (-1, CHUNK)).mean((1, 3, 4, 5))
            mean = mean.repeat_interleave(CHUNK, 1)[:, None, :, None, None]
            mean = mean if name == "action" else torch.full_like(mean, 0.7)
            out[name] = gaussian_velocity(x, append_dims(sigma[name], x), mean, SPREAD[name])
        return out


@pytest.fixture
def method(specs):
    def make(student=None, teacher=None, **options):
        return OnPolicy(specs(), student or ToyWam.create(seed=1), teacher=teacher or FollowsVideo(), **options)

    return make


def step(k, size=4):
    return ToySource().batch(range(size)), Draws(seed=1, step=k, positions=range(size))


def last_chunk(method):
    """A step whose current chunk is the second."""
    return next(k for k in range(50) if method._window(*step(k))[1] == CHUNK)


def test_every_chunk_becomes_the_current_one_and_ends_the_window(method):
    begins = set()
    for k in range(20):
        batch, begin = method()._window(*step(k))
        begins.add(begin)
        assert batch.frames == begin + CHUNK
        assert batch.clean["action"].shape[2] == batch.given.shape[1] == batch.mask["action"].shape[2] == batch.frames
    assert begins == {0, CHUNK}


def test_own_draws_fill_the_current_chunk_alone(method):
    m = method()
    k = last_chunk(m)
    batch, draws = step(k)
    batch, begin = m._window(batch, draws)
    history = m._own_draws(batch, begin, draws)
    assert torch.equal(history["video"][:, :, :begin], batch.history["video"][:, :, :begin])
    assert torch.equal(history["action"], batch.history["action"])

    def velocity(x, sigma):
        noisy = torch.cat([torch.randn_like(batch.history["video"][:, :, :begin]), x], 2)
        level = torch.cat([torch.rand(4, begin), sigma], 1)
        return m.roles.model.velocity({"video": noisy}, {"video": level}, batch.history, {"text": batch.text})["video"][
            :, :, begin:
        ]

    noise = draws.normal("draw/video", batch.clean["video"][:, :, begin:].shape[1:])
    sampler = samplers_for(m.streams, steps={"video": 1, "action": 1}, teacher=False)["video"]
    with torch.no_grad():
        torch.testing.assert_close(history["video"][:, :, begin:], draw(velocity, noise, sampler))


def test_given_frame_of_the_first_chunk_is_kept(method):
    m = method()
    k = next(k for k in range(50) if m._window(*step(k))[1] == 0)
    batch, draws = step(k)
    batch, begin = m._window(batch, draws)
    history = m._own_draws(batch, begin, draws)
    assert torch.equal(history["video"][:, :, 0], batch.clean["video"][:, :, 0])
    assert not torch.equal(history["video"][:, :, 1], batch.clean["video"][:, :, 1])


@pytest.mark.parametrize("first_chunk", [True, False])
def test_teacher_ends_where_the_exact_flow_does_under_the_students_video(method, first_chunk):
    m = method(teacher_pre_steps=150, teacher_post_steps=150)
    k = next(k for k in range(50) if (m._window(*step(k))[1] == 0) == first_chunk)
    batch, draws = step(k)
    batch, begin = m._window(batch, draws)
    history = m._own_draws(batch, begin, draws)
    state, end, level = m._teacher_path(batch, history, begin, draws)
    mean = history["video"][:, :, begin:].mean((1, 2, 3, 4)).reshape(-1, 1, 1, 1, 1)
    noise = draws.normal("noise/action", batch.clean["action"].shape[1:])
    one, zero = torch.tensor(1.0), torch.tensor(0.0)
    free = ~batch.given[:, begin:][:, None, :, None, None].expand_as(end)
    exact = gaussian_flow(noise[:, :, begin:], one, zero, mean, SPREAD["action"])
    assert float((end - exact)[free].abs().max()) < 0.03
    there = append_dims(level, state)[:, :, begin:]
    on_the_way = gaussian_flow(noise[:, :, begin:], one, there, mean, SPREAD["action"])
    assert float((state[:, :, begin:] - on_the_way)[free].abs().max()) < 0.03
    if first_chunk:
        assert torch.equal(end[:, :, 0], batch.clean["action"][:, :, 0])
        assert float(level[:, 0].max()) == 0


def test_share_of_samples_at_the_start_of_sampling(method):
    for share in (0.0, 0.5, 1.0):
        m = method(start_share=share)
        hits = []
        for k in range(30):
            batch, draws = step(k)
            batch, begin = m._window(batch, draws)
            state, _, level = m._teacher_path(batch, dict(batch.history), begin, draws)
            start = level[:, -1] == 1
            hits.append(start)
            noise = draws.normal("noise/action", state.shape[1:])
            assert torch.equal(state[start][:, :, -1], noise[start][:, :, -1])
        assert float(torch.cat(hits).float().mean()) == pytest.approx(share, abs=0.12 if share == 0.5 else 0.01)


def test_a_student_that_equals_the_exact_solution_has_zero_loss(specs):
    class Straight(ToyWam):
        """The mean of the current chunk's clean video is where every action path ends, in a straight line."""

        def velocity(self, noisy, sigma, clean, context):
            out = {}
            for name, x in noisy.items():
                mean = clean["video"].unflatten(2, (-1, CHUNK)).mean((1, 3, 4, 5)).repeat_interleave(CHUNK, 1)
                mean = mean[:, None, :, None, None] if name == "action" else 0.0
                out[name] = (x - mean) / append_dims(sigma[name], x).clamp(min=1e-6)
            return out

    m = OnPolicy(specs(), Straight(), teacher=Straight())
    for k in range(6):
        batch, draws = step(k)
        output = m.loss(batch, draws)
        assert float(output.terms["action"].loss.abs().max()) < 1e-4
        assert float(output.terms["video"].loss.abs().max()) == 0


def test_holding_pulls_back_to_the_first_stage(method):
    m = method()
    batch, draws = step(0)
    assert float(m.loss(batch, draws).terms["video"].loss.detach().max()) == 0
    with torch.no_grad():
        m.roles.model.outside["video"].bias.add_(0.1)
    output = m.loss(batch, draws)
    torch.testing.assert_close(output.terms["video"].loss.detach(), torch.full((4,), 0.01), rtol=1e-3, atol=0)
    expected = output.terms["action"].loss.mean() + output.terms["video"].loss.mean()
    torch.testing.assert_close(output.loss, expected)
    without = method(hold_weight=0.0).loss(batch, draws)
    assert set(without.terms) == {"action"}


def test_teacher_and_reference_take_no_gradient(method):
    m = method()
    output = m.loss(*step(0))
    output.loss.backward()
    assert all(p.grad is None for role in (m.roles.teacher, m.roles.reference) for p in role.parameters())
    assert any(p.grad is not None for p in m.trainable.parameters())


def test_uneven_given_frames_are_refused(method):
    m = method()
    batch, draws = step(last_chunk(m))
    given = batch.given.clone()
    given[1, CHUNK + 1] = True
    with pytest.raises(ValueError, match="given frames"):
        m.loss(replace(batch, given=given), draws)


def test_wrong_options_are_refused(method, specs):
    with pytest.raises(ValueError, match="teacher steps"):
        method(teacher_post_steps=0)
    with pytest.raises(ValueError, match="start_share"):
        method(start_share=2)
    with pytest.raises(ValueError, match="nothing to train"):
        OnPolicy(specs(action={"weight": 0}), ToyWam.create(seed=1), teacher=GaussianTeacher())
