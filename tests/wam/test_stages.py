# SPDX-License-Identifier: Apache-2.0
"""Chunks that begin with the observation, streams that are drawn together, and parts that are never put out."""

from dataclasses import replace
from itertools import count

import pytest
import torch
from toy_families import BATCH, FRAMES, SHAPES, Joint, Minimal, Partial, Seer, batch, frame, sampler, specs

from flashwam.distillation.draws import Draws
from flashwam.distillation.methods.consistency import ConsistencyDistillation
from flashwam.distillation.methods.flow_matching import FlowMatching
from flashwam.distillation.methods.on_policy import OnPolicy
from flashwam.evaluation.open_loop import chunk_draws
from flashwam.sampling import Rollout


def test_the_first_frame_is_given_and_every_other_one_of_a_chunk_is_executed():
    model = Minimal()
    first = {name: frame(1, name) for name in SHAPES}
    rollout = Rollout(model, {n: sampler(1) for n in SHAPES}, text=torch.zeros(BATCH, 1, 3), first=first)
    assert rollout.executed == slice(1, FRAMES)
    drawn = rollout.predict()
    assert torch.equal(drawn["video"][:, :, :1], first["video"])
    rollout.observe(drawn)
    assert rollout.executed == slice(0, FRAMES)
    assert set(rollout.seconds) == {"video", "action"}


def test_a_chunk_begins_with_the_latest_observation():
    model = Joint()
    rollout = Rollout(
        model,
        {name: sampler(2) for name in SHAPES},
        text=torch.zeros(BATCH, 1, 3),
        first={name: frame(7, name) for name in SHAPES},
    )
    for value in (7, 9):
        assert rollout.executed == slice(1, 2)
        drawn = rollout.predict()
        torch.testing.assert_close(drawn["video"], frame(value, "video").expand(-1, -1, FRAMES, -1, -1))
        torch.testing.assert_close(drawn["action"], torch.zeros_like(drawn["action"]))
        rollout.observe({name: frame(9, name) for name in SHAPES})
    assert len(model.calls) == 4  # one pass per level for both streams
    assert set(rollout.seconds) == {"video+action"}
    assert all(torch.equal(call["video"][0], call["action"][0]) for call in model.calls)


@pytest.mark.parametrize("kind", [Minimal, Joint, Seer])
def test_a_stage_is_timed_from_its_beginning_to_its_end(kind):
    """By a clock that is looked at nowhere else."""
    model, ticks = kind(), count()
    first = {name: frame(1, name) for name in SHAPES}
    samplers = {name: sampler(1) for name in SHAPES}
    rollout = Rollout(model, samplers, text=torch.zeros(BATCH, 1, 3), first=first, clock=lambda: next(ticks))
    for chunks in (1, 2):
        rollout.predict()
        assert rollout.seconds == dict.fromkeys(map("+".join, model.stages), chunks)
        assert next(ticks) == (2 * len(model.stages) + 1) * chunks - 1
        rollout.observe({name: frame(1, name).expand(-1, -1, FRAMES, -1, -1) for name in SHAPES})


def test_streams_drawn_together_are_replaced_together():
    model = Joint()
    rollout = Rollout(
        model,
        {name: sampler(1) for name in SHAPES},
        text=torch.zeros(BATCH, 1, 3),
        first={name: frame(0, name) for name in SHAPES},
    )
    with pytest.raises(ValueError, match="replace all of them or none"):
        rollout.predict(replace={"video": frame(0, "video")})


@pytest.mark.parametrize("synchronous", [True, False])
@pytest.mark.parametrize("kind", [FlowMatching, ConsistencyDistillation])
def test_levels_of_streams_that_are_drawn_together(kind, synchronous):
    student = Joint()
    method = kind(specs(), student, teacher=Joint(), synchronous=synchronous)
    method.loss(batch(), Draws(seed=0, step=0, positions=range(BATCH)))
    level = {name: seen[0] for name, seen in student.calls[-1].items()}
    for one in level.values():
        assert (one == one[:, :1]).all()
        assert (one > 0).all()  # the first frame is noised as the others
    assert torch.equal(level["video"], level["action"]) is synchronous


@pytest.mark.parametrize("kind", [FlowMatching, ConsistencyDistillation, OnPolicy])
def test_no_loss_is_taken_where_a_model_puts_nothing_out(kind):
    student = Partial(gain=0.5)
    method = kind(specs(), student, teacher=Partial(gain=0.9))
    output = method.loss(batch(), Draws(seed=0, step=0, positions=range(BATCH)))
    # Nobody executed the first frame's actions either.
    expected = torch.tensor([[False, False], [True, False], [False, False]])
    assert torch.equal(output.terms["action"].mask.expand(BATCH, 3, -1, 2, 1)[0, 0, :, :, 0], expected)
    assert output.terms["video"].mask.all()


def test_what_is_put_out_is_said_of_every_chunk_of_a_window():
    data = batch(2 * FRAMES + 1)
    mask = data.restricted(Partial().predicted).mask["action"][0, 0, :, :, 0]
    chunk = [[True, False], [True, False], [False, False]]
    assert mask.tolist() == [[False, False], *chunk[1:], *chunk, chunk[0]]


def test_the_first_frame_is_a_condition_and_has_a_loss():
    data = batch()
    student = Joint(gain=0.5)
    method = FlowMatching(specs(), student, noisy_history={}, text_dropout=0.0)
    output = method.loss(data, Draws(seed=0, step=0, positions=range(BATCH)))
    assert torch.equal(student.calls[0]["video"][1], data.clean["video"][:, :, 0])
    assert output.terms["video"].frame_mask.all()
    assert output.terms["action"].frame_mask[:, 1:].all()
    assert not output.terms["action"].frame_mask[:, 0].any()


@pytest.mark.parametrize("frames", [FRAMES, 2 * FRAMES])
def test_on_policy_carries_a_stage_together(frames):
    """The teacher's path is straight here, so every node's end is the observation."""
    teacher = Joint()
    method = OnPolicy(specs(), Joint(gain=0.9), teacher=teacher, teacher_steps=3, start_share=0.5)
    data = batch(frames)
    for step in range(4):
        output = method.loss(data, Draws(seed=0, step=step, positions=range(BATCH)))
        assert torch.isfinite(output.loss)
        term = output.terms
        assert torch.equal(term["video"].sigma, term["action"].sigma)
        assert (term["video"].sigma > 0).all()
    seen = {float(call["video"][1].flatten()[0]) for call in teacher.calls}
    begins = {float(data.clean["video"][0, 0, k, 0, 0]) for k in range(0, frames, FRAMES)}
    assert seen == begins


def test_open_loop_draws_begin_at_each_chunks_first_frame():
    data = batch(2 * FRAMES)
    drawn = chunk_draws(Joint(), {name: sampler(1) for name in SHAPES}, data, draws=1)
    for k, chunk in enumerate(drawn):
        expected = data.clean["video"][:, :, k * FRAMES : k * FRAMES + 1].expand(-1, -1, FRAMES, -1, -1)
        torch.testing.assert_close(chunk["video"], expected)


def test_given_frames_are_left_alone_by_other_families():
    data = batch()
    method = FlowMatching(specs(), Minimal(), noisy_history={}, text_dropout=0.0)
    output = method.loss(data, Draws(seed=0, step=0, positions=range(BATCH)))
    assert not output.terms["video"].frame_mask[:, 0].any()
    assert (output.terms["video"].sigma[:, 0] == 0).all()
    assert replace(data, given=torch.zeros_like(data.given)).loss_mask("video").all()


@pytest.mark.parametrize("substeps", [1, 3])
def test_a_stream_without_loss_goes_along_with_its_stage(substeps):
    """A stage is asked for whole, also where one stream is not distilled, takes fewer steps, or is guided alone."""
    streams = specs()
    streams["video"] = replace(streams["video"], teacher_substeps=substeps, guidance=(2.0, 2.0))
    streams["action"] = replace(streams["action"], weight=0.0)
    student, teacher = Joint(gain=0.9), Joint()
    method = ConsistencyDistillation(streams, student, teacher=teacher)
    output = method.loss(batch(), Draws(seed=0, step=0, positions=range(BATCH)))
    assert set(output.terms) == {"video"}
    assert torch.isfinite(output.loss)
    assert len(teacher.calls) == 2 * substeps  # with and without text
    for call in teacher.calls + student.calls:
        assert set(call) == {"video", "action"}


def test_further_tensors_of_a_batch_move_with_it():
    data = replace(batch(), extra={"target/depth": torch.zeros(BATCH, 1)})
    assert set(data.to("cpu").extra) == {"target/depth"}
    assert data.to("meta").extra["target/depth"].device.type == "meta"
    assert batch().extra == {}
