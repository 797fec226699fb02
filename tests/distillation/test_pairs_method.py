# SPDX-License-Identifier: Apache-2.0
"""Pairs: a student that draws as the stored draws were drawn has nothing to learn from them."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from distill_toys import SHAPES, GaussianTeacher, ToySource, ToyWam
from tiny_models import tiny_joint_wam, tiny_wam
from tiny_windows import Windows
from torch.testing import assert_close

from flashwam.core.streams import StreamSpec
from flashwam.distillation.draws import Draws
from flashwam.distillation.methods import Pairs
from flashwam.distillation.pair_source import NOISE, parts_in_turn
from flashwam.distillation.setup import Setup
from flashwam.sampling import Rollout, samplers_for

FAMILIES = {"lingbot_va": tiny_wam, "cogvideox": tiny_joint_wam}
BATCH, BATCHES = 4, 10


class Episodes(Windows):
    """Windows that know which of them begin an episode: the even draws, after a hundred."""

    def beginnings(self, *, several_ways=1):
        outer = self

        class First:
            def batch(self, indices):
                return outer.batch([100 + 2 * i for i in indices])

        return First()


def specs(teacher_steps, **changes):
    return {
        name: StreamSpec.from_config(
            name, {"shift": shift, "consistency": "linear", "teacher_steps": teacher_steps, **changes}
        )
        for name, shift in (("video", 5.0), ("action", 1.0))
    }


def prepared(tmp_path, wam, streams, *, source=None, **options):
    """A method whose student is its teacher, and its completed pairs."""
    student, teacher = wam(seed=3), wam(seed=3)
    # Heads that begin at zero would draw nothing.
    for model in (student, teacher):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    method = Pairs(streams, student, teacher=teacher.eval(), drawn_at_once=3, **options)
    source = source or Episodes(teacher, 1 if teacher.conditions_on_first else 2)
    setup = Setup(data=tmp_path, streams=streams, seed=5, batch_size=BATCH, batches=BATCHES)
    return method, method.source(source, setup)


def step(method, pairs, k):
    batch = pairs.batch(list(range(k * BATCH, (k + 1) * BATCH)))
    return method.loss(batch, Draws(seed=5, step=k, positions=range(BATCH)))


@pytest.mark.parametrize("wam", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_student_that_draws_as_its_teacher_does_has_no_loss_at_any_level(tmp_path, wam, steps):
    """The levels of a sampler of as many steps as the teacher's are those of the teacher's own path.

    At an earlier level the student's end is another: there is a loss.
    """
    method, pairs = prepared(tmp_path, wam, specs(steps), steps=steps, further_share=0.9, reuse=2)
    last = {float(spec.schedule.sampling_grid(steps)[steps - 1]) for spec in method.streams.values()}
    exact, others, chunks = 0, 0, set()
    for k in range(BATCHES):
        output = step(method, pairs, k)
        chunks.add(pairs.batch([k * BATCH]).frames)
        for term in output.terms.values():
            loss, level = term.loss.detach(), float(term.sigma.max())
            if any(level == pytest.approx(other, abs=1e-6) for other in last):
                exact += 1
                assert float(loss.max()) < 1e-3
            else:
                others += 1
                assert float(loss.min()) > 1e-3
    assert exact > 2
    assert (others > 0) == (steps > 1)
    assert len(chunks) == (1 if wam is tiny_joint_wam else 2)


def test_the_teacher_is_not_kept(tmp_path):
    method, _ = prepared(tmp_path, tiny_wam, specs(1))
    assert method.needs_teacher
    assert not method.keeps_teacher
    assert method.roles.teacher is None


def test_a_pair_holds_the_draw_at_the_guidance_that_the_teacher_is_driven_with(tmp_path):
    streams = specs(2, guidance_scale=3.0)
    method, pairs = prepared(tmp_path, tiny_wam, streams, first_share=1.0)
    batch = pairs.batch(list(range(BATCH)))
    wam = method.roles.model.eval()
    rollout = Rollout(
        wam,
        samplers_for(streams, steps=None, teacher=True),
        text=batch.text,
        null_text=batch.null_text,
        first={name: batch.clean[name][:, :, :1] for name in wam.streams},
    )
    drawn = rollout.predict({name: batch.extra[f"{NOISE}{name}"] for name in wam.streams})
    for name, x in drawn.items():
        assert_close(batch.clean[name], x, atol=2e-3, rtol=2e-3)
    # Later streams see the drawn video, and the true observation.
    assert torch.equal(batch.history["video"], batch.clean["video"])
    plain = prepared(tmp_path, tiny_wam, specs(2), first_share=1.0)[1].batch(list(range(BATCH)))
    assert not torch.allclose(plain.clean["video"], batch.clean["video"], atol=1e-2)
    assert torch.equal(plain.clean["video"][:, :, 0], batch.clean["video"][:, :, 0])


def test_every_pair_is_used_as_often_and_batches_are_of_one_place(tmp_path):
    _, pairs = prepared(tmp_path, tiny_wam, specs(1), first_share=0.4, reuse=2)
    assert pairs.pairs == [8, 12]
    used = [Counter(), Counter()]
    for k in range(BATCHES):
        pool, numbers = pairs._chosen(list(range(k * BATCH, (k + 1) * BATCH)))
        # A process that takes a part of the batch takes the same samples.
        assert pairs._chosen([k * BATCH + 1]) == (pool, numbers[1:2])
        used[pool].update(numbers)
    assert used == [Counter(dict.fromkeys(range(8), 2)), Counter(dict.fromkeys(range(12), 2))]


@pytest.mark.parametrize(("shares", "expected"), [((1,), [5]), ((1, 1), [3, 2]), ((1, 3), [1, 4])])
def test_pools_take_turns_by_their_shares(shares, expected):
    assert np.bincount(parts_in_turn(shares, 5)).tolist() == expected


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.4, 0.6), (0.4, 0.3, 0.3), (0.4, 0.35, 0.25)])
def test_pools_keep_their_shares_in_every_stretch_and_at_every_nth_step(shares):
    """A student that learns at every second step, or a log that tells every tenth, meets all of them."""
    order = parts_in_turn(shares, 4000)
    for begin in range(0, 4000, 20):
        counts = np.bincount(order[begin : begin + 20], minlength=len(shares))
        assert np.abs(counts - 20 * np.array(shares)).max() <= 1
    for every in (2, 3, 4, 5, 10):
        for phase in {0, every - 1}:
            met = np.bincount(order[phase::every], minlength=len(shares)) / len(order[phase::every])
            assert np.abs(met - np.array(shares)).max() < 0.09, (every, phase)


def test_later_chunks_are_of_windows_that_reach_them(tmp_path):
    reached = []

    class Reaching(Episodes):
        def reaching(self, frames):
            reached.append(frames)
            return self

    model = tiny_wam()
    prepared(tmp_path, tiny_wam, specs(1), source=Reaching(model, 3), first_share=0.4)
    assert reached == [model.chunk_frames, 2 * model.chunk_frames]


def test_longer_runs_begin_as_shorter_ones():
    shares = (0.4, 0.35, 0.25)
    assert parts_in_turn(shares, 100)[:40].tolist() == parts_in_turn(shares, 40).tolist()


def test_given_frames_stay_what_was_observed_and_carry_no_noise(tmp_path):
    method, pairs = prepared(tmp_path, tiny_wam, specs(1), first_share=1.0, further_share=0)
    batch = pairs.batch([0, 1])
    noise = {name: batch.extra[f"{NOISE}{name}"] for name in batch.clean}
    noisy, sigma = method._states(batch, batch, noise, Draws(seed=0, step=0, positions=range(2)))
    for name, x in noisy.items():
        assert torch.equal(x[:, :, 0], batch.clean[name][:, :, 0])
        assert torch.equal(x[:, :, 1:], noise[name][:, :, 1:])
        assert sigma[name].tolist() == [[0.0] + [1.0] * (x.shape[2] - 1)] * 2


def test_the_states_of_later_levels_carry_no_gradient_and_the_students_own_end(tmp_path):
    method, pairs = prepared(tmp_path, tiny_wam, specs(1), steps=2, further_share=0.99, first_share=1.0)
    batch = pairs.batch([0, 1])
    noise = {name: batch.extra[f"{NOISE}{name}"] for name in batch.clean}
    noisy, sigma = method._states(batch, batch, noise, Draws(seed=0, step=0, positions=range(2)))
    start = {name: torch.where(batch.given[:, None, :, None, None], batch.clean[name], x) for name, x in noise.items()}
    ones = {name: (~batch.given).float() for name in noise}
    with torch.no_grad():
        velocity = method.roles.model(start, ones, batch.history, {"text": batch.text})
    for name, x in noisy.items():
        level = float(method.streams[name].schedule.sampling_grid(2)[1])
        assert not x.requires_grad
        assert float(sigma[name].max()) == pytest.approx(level)
        own = start[name] - velocity[name]
        assert_close(x[:, :, 1:], ((1 - level) * own + level * noise[name])[:, :, 1:], atol=1e-5, rtol=1e-5)


def test_several_streams_of_toys_are_learnt(tmp_path):
    """Gradients reach every stream of a model that knows nothing yet."""
    streams = {name: StreamSpec.from_config(name, {"shift": 1.0, "teacher_steps": 4}) for name in SHAPES}
    method = Pairs(streams, ToyWam.create(seed=1), teacher=GaussianTeacher(), first_share=None)
    setup = Setup(data=tmp_path, streams=streams, seed=0, batch_size=BATCH, batches=3)
    output = step(method, method.source(ToySource(), setup), 0)
    output.loss.backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in method.roles.model.outside.parameters())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"reuse": 0.5}, "reuse, several_ways, steps and drawn_at_once must be at least 1"),
        ({"further_share": 1.0}, r"further_share must lie in \[0, 1\)"),
        ({"first_share": 1.5}, r"first_share in \[0, 1\] or be null; got 0\.3 and 1\.5"),
    ],
)
def test_options_are_checked(options, told):
    with pytest.raises(ValueError, match=told):
        Pairs(specs(1), tiny_wam(), teacher=tiny_wam(), **options)


def test_a_stream_without_weight_is_refused():
    streams = specs(1)
    streams["video"] = replace(streams["video"], weight=0.0)
    with pytest.raises(ValueError, match=r"weight is 0 for \['video'\]"):
        Pairs(streams, tiny_wam(), teacher=tiny_wam())


def test_data_that_do_not_tell_beginnings_need_no_share(tmp_path):
    with pytest.raises(ValueError, match="set first_share to null"):
        prepared(tmp_path, tiny_wam, specs(1), source=Windows(tiny_wam(), 2))
    _, pairs = prepared(tmp_path, tiny_wam, specs(1), source=Windows(tiny_wam(), 2), first_share=None)
    assert len(pairs.pairs) == 2
