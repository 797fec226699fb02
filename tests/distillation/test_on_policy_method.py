# SPDX-License-Identifier: Apache-2.0
"""The on-policy stage: who sees what, and where the teacher's path ends."""

from dataclasses import replace

import pytest
import torch
from distill_toys import CHUNK, SPREAD, GaussianTeacher, ToySource, ToyWam, gaussian_flow
from tiny_models import tiny_joint_wam
from tiny_windows import Windows

from flashwam.core.noise import NoiseSchedule, append_dims
from flashwam.distillation.draws import Draws
from flashwam.distillation.methods import OnPolicy
from flashwam.distillation.methods.on_policy import path_levels
from flashwam.recipe.load import load_recipe
from flashwam.sampling import draw, samplers_for


class FollowsVideo(ToyWam):
    """An exact flow whose action mean is the mean of the current chunk's clean video: who sees whose video shows."""

    def velocity(self, noisy, sigma, clean, context):
        from distill_toys import gaussian_velocity

        out = {}
        for name, x in noisy.items():
            mean = clean["video"].unflatten(2, (-1, CHUNK)).mean((1, 3, 4, 5))
            mean = mean.repeat_interleave(CHUNK, 1)[:, None, -x.shape[2] :, None, None]
            mean = mean if name == "action" else torch.full_like(mean, 0.7)
            out[name] = gaussian_velocity(x, append_dims(sigma[name], x), mean, SPREAD[name])
        return out


@pytest.fixture
def method(specs):
    def make(student=None, teacher=None, streams=None, **options):
        return OnPolicy(
            specs(**(streams or {})), student or ToyWam.create(seed=1), teacher=teacher or FollowsVideo(), **options
        )

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


def test_own_draws_see_the_true_past(method):
    m = method()
    k = last_chunk(m)
    batch, draws = step(k)
    batch, begin = m._window(batch, draws)
    drawn = m._own_draws(batch, begin, draws)
    assert set(drawn) == {"video"}

    def velocity(x, sigma):
        noisy = torch.cat([torch.randn_like(batch.history["video"][:, :, :begin]), x["video"]], 2)
        level = torch.cat([torch.rand(4, begin), sigma["video"]], 1)
        velocity = m.roles.model.velocity({"video": noisy}, {"video": level}, batch.history, {"text": batch.text})
        return {"video": velocity["video"][:, :, begin:]}

    noise = draws.normal("draw/video", batch.clean["video"][:, :, begin:].shape[1:])
    samplers = samplers_for(m.streams, steps={"video": 1, "action": 1}, teacher=False)
    with torch.no_grad():
        torch.testing.assert_close(drawn, draw(velocity, {"video": noise}, samplers))


def test_given_frame_of_the_first_chunk_is_kept(method):
    m = method()
    k = next(k for k in range(50) if m._window(*step(k))[1] == 0)
    batch, draws = step(k)
    batch, begin = m._window(batch, draws)
    drawn = m._own_draws(batch, begin, draws)["video"]
    assert torch.equal(drawn[:, :, 0], batch.clean["video"][:, :, 0])
    assert not torch.equal(drawn[:, :, 1], batch.clean["video"][:, :, 1])


def test_paths_cover_every_level_and_end_at_the_data():
    schedule = NoiseSchedule(shift=5.0)
    levels = path_levels(schedule, torch.tensor([0.0, 0.5, 0.999]), 5)
    assert levels.shape == (6, 3)
    assert torch.equal(levels[0], torch.ones(3))
    assert torch.equal(levels[-1], torch.zeros(3))
    u = schedule.u(levels.double())
    torch.testing.assert_close(u[1:, 0], torch.tensor([0.75, 0.5, 0.25, 0, 0]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(u[1:-1, 1], torch.tensor([0.875, 0.625, 0.375, 0.125]).double(), atol=1e-6, rtol=0)
    assert float(u[1, 2]) > 0.999
    assert bool((levels.diff(dim=0) <= 0).all())
    assert torch.equal(path_levels(schedule, torch.tensor([0.3]), 1).flatten(), torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize(("first_chunk", "share"), [(True, 1.0), (False, 1.0), (True, 0.0), (False, 0.5)])
def test_teacher_ends_where_the_exact_flow_does_under_the_students_video(method, first_chunk, share):
    """From `share` of the noise; a student that begins with all of it stands where the rest of it is there too."""
    cooler = {name: {"teacher_temperature": share} for name in SPREAD}
    m = method(teacher_steps=300, streams=cooler)
    k = next(k for k in range(50) if (m._window(*step(k))[1] == 0) == first_chunk)
    batch, draws = step(k)
    batch, begin = m._window(batch, draws)
    drawn = m._own_draws(batch, begin, draws)
    states, levels, ends = m._teacher_paths(batch, begin, drawn, draws)
    means = {
        "video": torch.full((4, 1, 1, 1, 1), 0.7),
        "action": drawn["video"].mean((1, 2, 3, 4)).reshape(-1, 1, 1, 1, 1),
    }
    given = batch.given[:, begin:][:, None, :, None, None]
    for name, mean in means.items():
        state, end, spread = states[name], ends[name], SPREAD[name]
        noise = draws.normal(f"noise/{name}", end.shape[1:])
        one, zero = torch.tensor(1.0), torch.tensor(0.0)
        free = ~given.expand_as(end)
        exact = gaussian_flow(share * noise, one, zero, mean, spread)
        assert float((end - exact)[free].abs().max()) < 0.03
        level = append_dims(levels[name], state)
        on_the_way = gaussian_flow(share * noise, one, level, mean, spread) + (1 - share) * level * noise
        assert float((state - on_the_way)[free].abs().max()) < 0.03
        if first_chunk:
            assert torch.equal(end[:, :, 0], batch.clean[name][:, :, 0])
            assert float(levels[name][:, 0].max()) == 0


def test_guided_stream_takes_the_guided_path(method, specs):
    """The toy's video mean is the text's shift: guidance w carries it to w times the shift."""
    m = OnPolicy(
        specs(video={"guidance": [3.0, 3.0]}), ToyWam.create(seed=1), teacher=GaussianTeacher(), teacher_steps=300
    )
    batch, draws = step(last_chunk(m))
    batch, begin = m._window(batch, draws)
    _, _, ends = m._teacher_paths(batch, begin, m._own_draws(batch, begin, draws), draws)
    mean = (0.7 + 3 * batch.text.mean((1, 2))).reshape(-1, 1, 1, 1, 1)
    noise = draws.normal("noise/video", ends["video"].shape[1:])
    exact = gaussian_flow(noise, torch.tensor(1.0), torch.tensor(0.0), mean, SPREAD["video"])
    assert float((ends["video"] - exact).abs().max()) < 0.03


def test_share_of_samples_at_the_start_of_sampling(method):
    for share in (0.0, 0.5, 1.0):
        m = method(start_share=share)
        hits = []
        for k in range(30):
            batch, draws = step(k)
            batch, begin = m._window(batch, draws)
            states, levels, _ = m._teacher_paths(batch, begin, m._own_draws(batch, begin, draws), draws)
            start = levels["action"][:, -1] == 1
            assert torch.equal(start, levels["video"][:, -1] == 1)
            hits.append(start)
            for name, state in states.items():
                noise = draws.normal(f"noise/{name}", state.shape[1:])
                assert torch.equal(state[start][:, :, -1], noise[start][:, :, -1])
        assert float(torch.cat(hits).float().mean()) == pytest.approx(share, abs=0.12 if share == 0.5 else 0.01)


def test_a_student_that_equals_the_exact_solution_has_zero_loss(specs):
    class Straight(ToyWam):
        """The mean of the current chunk's clean video is where every action path ends, in a straight line."""

        def velocity(self, noisy, sigma, clean, context):
            out = {}
            for name, x in noisy.items():
                mean = clean["video"].unflatten(2, (-1, CHUNK)).mean((1, 3, 4, 5)).repeat_interleave(CHUNK, 1)
                mean = mean[:, None, -x.shape[2] :, None, None] if name == "action" else 0.0
                out[name] = (x - mean) / append_dims(sigma[name], x).clamp(min=1e-6)
            return out

    m = OnPolicy(specs(), Straight(), teacher=Straight())
    for k in range(6):
        batch, draws = step(k)
        output = m.loss(batch, draws)
        for term in output.terms.values():
            assert float(term.loss.abs().max()) < 1e-4


def test_a_stream_with_weight_0_is_pulled_back_to_the_first_stage(specs):
    def method(**options):
        return OnPolicy(specs(video={"weight": 0}), ToyWam.create(seed=1), teacher=FollowsVideo(), **options)

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


def test_teacher_and_reference_take_no_gradient(specs):
    m = OnPolicy(specs(video={"weight": 0}), ToyWam.create(seed=1), teacher=FollowsVideo())
    output = m.loss(*step(0))
    output.loss.backward()
    assert all(p.grad is None for role in (m.roles.teacher, m.roles.reference) for p in role.parameters())
    assert any(p.grad is not None for p in m.roles.model.parameters())


def test_uneven_given_frames_are_refused(method):
    m = method()
    batch, draws = step(last_chunk(m))
    given = batch.given.clone()
    given[1, CHUNK + 1] = True
    with pytest.raises(ValueError, match="given frames"):
        m.loss(replace(batch, given=given), draws)


def test_wrong_options_are_refused(method, specs):
    with pytest.raises(ValueError, match="teacher_steps"):
        method(teacher_steps=0)
    with pytest.raises(ValueError, match="start_share"):
        method(start_share=2)
    with pytest.raises(ValueError, match="nothing to train"):
        OnPolicy(specs(weight=0), ToyWam.create(seed=1), teacher=GaussianTeacher())


@pytest.mark.parametrize("still", ["video", "action"])
def test_streams_that_are_drawn_together_are_carried_together(still):
    streams = load_recipe("videovla/metaworld/on_policy", [f"streams.{still}.weight=0"]).streams
    student, teacher = tiny_joint_wam(), tiny_joint_wam(seed=1)
    with pytest.raises(ValueError, match=rf"\['video', 'action'\] are drawn together, so \['{still}'\]"):
        OnPolicy(streams, student, teacher=teacher)
    along = OnPolicy(streams, student, teacher=teacher, hold_weight=0, teacher_steps=2)
    batch = replace(Windows(student, 1).batch([0, 1]), text=torch.ones(2, 226, 32), null_text=torch.zeros(226, 32))
    output = along.loss(batch, Draws(seed=0, step=0, positions=[0, 1]))
    assert set(output.terms) == {"video", "action"} - {still}
    assert float(output.loss.detach()) > 0


def test_a_held_stream_has_one_level_where_its_frames_have_no_levels_of_their_own(specs):
    told = []

    class Even(ToyWam):
        layout = replace(ToyWam.layout, frame_levels=False)

        def velocity(self, noisy, sigma, clean, context):
            told.append(sigma)
            return super().velocity(noisy, sigma, clean, context)

    held = OnPolicy(specs(video={"weight": 0.0}), Even(), teacher=Even(), start_share=0.0)
    told.clear()
    held.loss(*step(0))
    for sigma in (each["video"] for each in told[-2:]):
        level = sigma.amax(1, keepdim=True)
        assert len(set(level.flatten().tolist())) > 1
        assert bool(((sigma == level) | (sigma == 0)).all())


class Told(ToyWam):
    """Is told the robot's state with the observation, and draws both streams together."""

    layout = replace(
        ToyWam.layout,
        stages=(("video", "action"),),
        senses={"state": 2},
        conditions_on_first=True,
        execute_frames=1,
        frame_levels=False,
    )

    def velocity(self, noisy, sigma, clean, context):
        told = clean["state"].mean() + self.shared.weight.mean()
        return {name: x * told for name, x in noisy.items()}


def test_a_model_that_is_told_the_state_learns_under_it(specs):
    batch, draws = ToySource().batch([0, 1]).frames_of(slice(CHUNK)), Draws(seed=1, step=0, positions=[0, 1])
    method, losses = OnPolicy(specs(), Told.create(seed=1), teacher=Told.create(seed=1)), []
    for state in (0.0, 0.5):
        told = {**batch.history, "state": torch.full((2, 2, batch.frames, 1, 1), state)}
        losses.append(float(method.loss(replace(batch, history=told), draws).loss.detach()))
    assert losses[0] != losses[1]
