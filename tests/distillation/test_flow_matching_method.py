# SPDX-License-Identifier: Apache-2.0
"""Teacher training: its minimiser, its noise in the history, its empty prompts."""

from dataclasses import replace

import pytest
import torch
from distill_toys import GaussianTeacher, ToySource, ToyWam
from tiny_models import tiny_joint_wam

from flashwam.core.noise import append_dims, vp_from_flow_sigma, vp_state_from_flow
from flashwam.core.vp import VPSchedule
from flashwam.distillation.draws import Draws
from flashwam.distillation.methods import FlowMatching
from flashwam.distillation.methods.states import start_states, training_levels


class Spy(ToyWam):
    """Keeps what it was called with."""

    def velocity(self, noisy, sigma, clean, context):
        self.seen = {"noisy": noisy, "sigma": sigma, "clean": clean, **context}
        return super().velocity(noisy, sigma, clean, context)


def many(steps=40, size=8):
    source = ToySource()
    for step in range(steps):
        yield source.batch(range(step * size, (step + 1) * size)), Draws(seed=0, step=step, positions=range(size))


def test_loss_is_the_weighted_squared_error(specs, batch):
    draws = Draws(seed=0, step=0, positions=range(4))
    method = FlowMatching(specs(), ToyWam.create(seed=1), noisy_history={}, text_dropout=0.0)
    output = method.loss(batch, draws)
    index = training_levels(method.roles.model, batch, draws, method.streams)
    sigma = {n: s.schedule.training_grid().float()[index[n]] for n, s in method.streams.items()}
    noisy, sigma, noise = start_states(batch, sigma, draws)
    velocity = method.roles.model.velocity(noisy, sigma, batch.history, {"text": batch.text})
    total = 0.0
    for name, spec in method.streams.items():
        weight = spec.schedule.training_weights().float()[index[name]][:, None, :, None, None]
        mask = (batch.mask[name] & ~batch.given[:, None, :, None, None]).expand_as(noise[name])
        error = (velocity[name] - noise[name] + batch.clean[name]) ** 2 * weight
        total = total + torch.stack([error[i][mask[i]].mean() for i in range(4)]).mean()
    torch.testing.assert_close(output.loss, total)


def test_exact_velocity_beats_shifted_ones(specs):
    """E[eps - x0 | x] minimises the loss: any constant added to it must raise it."""

    class Shifted(GaussianTeacher):
        offset = 0.0

        def velocity(self, noisy, sigma, clean, context):
            out = super().velocity(noisy, sigma, clean, {"text": torch.zeros_like(context["text"])})
            return {n: v + self.offset for n, v in out.items()}

    method = FlowMatching(specs(), Shifted(), noisy_history={}, text_dropout=0.0)
    losses = {}
    for offset in (-0.15, 0.0, 0.15):
        Shifted.offset = offset
        losses[offset] = sum(float(method.loss(b, d).loss) for b, d in many())
    assert losses[0.0] < losses[-0.15]
    assert losses[0.0] < losses[0.15]


def test_history_noise_is_what_its_level_says(specs):
    student = Spy.create(seed=1)
    method = FlowMatching(specs(), student, noisy_history={"video": 0.5}, text_dropout=0.0)
    noisy_samples, residuals, levels = 0, [], []
    for batch, draws in many():
        method.loss(batch, draws)
        level = student.seen["clean_sigma"]["video"]
        assert set(student.seen["clean_sigma"]) == {"video"}
        assert torch.equal(student.seen["clean"]["action"], batch.history["action"])
        touched = level[:, 0] > 0
        noisy_samples += int(touched.sum())
        assert torch.equal(student.seen["clean"]["video"][~touched], batch.history["video"][~touched])
        s = level[touched][:, None, :, None, None]
        residuals.append(
            ((student.seen["clean"]["video"][touched] - (1 - s) * batch.history["video"][touched]) / s).flatten()
        )
        levels.append(level[touched].flatten())
    assert noisy_samples == pytest.approx(160, abs=40)
    assert float(torch.cat(residuals).std()) == pytest.approx(1, abs=0.04)
    # u in (0, 0.5] at shift 5: no level above 5/6.
    assert float(torch.cat(levels).max()) <= 5 / 6 + 1e-6
    assert float(torch.cat(levels).max()) > 0.8


def test_a_streams_history_is_dropped_whole_sample_by_sample(specs):
    student = Spy.create(seed=1)
    options = {"noisy_history": {"video": 0.5}, "history_dropout": {"video": 0.25}, "text_dropout": 0.0}
    method = FlowMatching(specs(), student, **options)
    undisturbed = FlowMatching(specs(), other := Spy.create(seed=1), **options | {"history_dropout": {}})
    dropped = 0
    for batch, draws in many():
        method.loss(batch, draws)
        undisturbed.loss(batch, draws)
        seen, without = student.seen, other.seen
        empty = (seen["clean"]["video"] == 0).flatten(1).all(1)
        assert torch.equal(seen["clean"]["video"][~empty], without["clean"]["video"][~empty])
        assert torch.equal(seen["clean"]["action"], batch.history["action"])
        assert torch.equal(seen["noisy"]["video"], without["noisy"]["video"])
        level = seen["clean_sigma"]["video"]
        assert torch.equal(level, without["clean_sigma"]["video"] * ~empty[:, None])
        dropped += int(empty.sum())
    assert dropped == pytest.approx(80, abs=25)


def test_weighting_is_the_schedules_or_flat_stream_by_stream(specs, batch):
    draws = Draws(seed=0, step=0, positions=range(4))
    schedule = VPSchedule(snr_shift=3.0)
    streams = {name: replace(spec, schedule=schedule) for name, spec in specs().items()}
    student = ToyWam.create(seed=1)
    quiet = {"noisy_history": {}, "text_dropout": 0.0}
    terms = {}
    for action in ("schedule", "flat"):
        output = FlowMatching(streams, student, weighting={"action": action}, **quiet).loss(batch, draws)
        terms[action] = output.terms
    index = training_levels(student, batch, draws, streams)
    sigma = {name: schedule.training_grid().float()[i] for name, i in index.items()}
    noisy, sigma, noise = start_states(batch, sigma, draws)
    velocity = student.velocity(noisy, sigma, batch.history, {"text": batch.text})
    mask = batch.loss_mask("action").expand_as(noise["action"])
    flow_error = velocity["action"] - (noise["action"] - batch.clean["action"])
    level = append_dims(sigma["action"], flow_error)
    alpha, s = vp_from_flow_sigma(level)
    x = vp_state_from_flow(noisy["action"], alpha, s)
    # The student's own output on a variance-preserving path, and what it should be.
    v = (velocity["action"] - (s - alpha) * x) / (alpha + s)
    v_error = v - (alpha * noise["action"] - s * batch.clean["action"])
    for action, error in (("flat", flow_error), ("schedule", v_error)):
        expected = torch.stack([(error[i] ** 2)[mask[i]].mean() for i in range(4)])
        torch.testing.assert_close(terms[action]["action"].loss, expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(terms["flat"]["video"].loss, terms["schedule"]["video"].loss)


def test_text_is_dropped_at_its_rate_sample_by_sample(specs):
    student = Spy.create(seed=1)
    method = FlowMatching(specs(), student, noisy_history={}, text_dropout=0.25)
    dropped = 0
    for batch, draws in many():
        method.loss(batch, draws)
        empty = (student.seen["text"] == batch.null_text).all((1, 2))
        assert torch.equal(student.seen["text"][~empty], batch.text[~empty])
        dropped += int(empty.sum())
    assert dropped == pytest.approx(80, abs=25)


def test_shared_levels_are_one_per_frame_for_the_step(specs, batch):
    student = Spy.create(seed=1)
    FlowMatching(specs(), student, shared_levels=True).loss(batch, Draws(seed=0, step=0, positions=range(4)))
    for sigma in student.seen["sigma"].values():
        assert torch.equal(sigma, sigma[:1].expand_as(sigma))
        assert len(set(sigma[0, 1:].tolist())) == batch.frames - 1
    FlowMatching(specs(), student).loss(batch, Draws(seed=0, step=0, positions=range(4)))
    assert len(set(student.seen["sigma"]["video"][:, 1].tolist())) == 4


def test_chunk_and_window_are_drawn_within_their_bounds(specs):
    student = Spy.create(seed=1)
    method = FlowMatching(specs(), student, chunk_frames=(1, 4), window_chunks=(3, 5))
    chunks, windows = set(), set()
    for batch, draws in many():
        method.loss(batch, draws)
        chunks.add(student.seen["chunk_frames"])
        windows.add(student.seen["window_chunks"])
    assert chunks == {1, 2, 3, 4}
    assert windows == {3, 4, 5}


def test_wrong_options_are_named(wam, specs):
    with pytest.raises(ValueError, match="text_dropout"):
        FlowMatching(specs(), wam, text_dropout=1.5)
    with pytest.raises(ValueError, match="touch"):
        FlowMatching(specs(), wam, noisy_history={"touch": 0.5})
    with pytest.raises(ValueError, match=r"history_dropout names \['touch'\]"):
        FlowMatching(specs(), wam, history_dropout={"touch": 0.5})
    with pytest.raises(ValueError, match=r"history_dropout\.video is a probability"):
        FlowMatching(specs(), wam, history_dropout={"video": -0.5})
    with pytest.raises(ValueError, match=r'weighting\.video must be "schedule" or "flat"; got \'bell\''):
        FlowMatching(specs(), wam, weighting={"video": "bell"})


def test_the_observed_frame_of_a_model_that_conditions_on_it_stays_clean(specs):
    assert FlowMatching(specs(), ToyWam.create(seed=1)).noisy_history == {"video": 0.5}
    student = tiny_joint_wam()
    assert FlowMatching(specs(), student).noisy_history == {}
    assert FlowMatching(specs(), student, noisy_history={"video": 0.0}).noisy_history == {"video": 0.0}
    with pytest.raises(ValueError, match=r"noisy_history \{'video': 0\.5\}.*the observed frame itself.*leave"):
        FlowMatching(specs(), student, noisy_history={"video": 0.5})
