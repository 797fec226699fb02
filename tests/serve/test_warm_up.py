# SPDX-License-Identifier: Apache-2.0
"""Nothing is recorded for the first robot: a trial episode has met every kind of pass before."""

import logging
from dataclasses import replace

import pytest
import torch

from flashwam.serve.codec import FrameCodec
from flashwam.serve.model import load_served
from flashwam.serve.options import ServerOptions
from flashwam.serve.server import serving
from flashwam.serve.session import PolicySession
from flashwam.serve.warm_up import warm_up
from flashwam.system.errors import InputError, MissingFileError
from flashwam.wam.lingbot_va.graphed import Lanes
from flashwam.wam.recording import CallRecorder


@pytest.fixture
def graphed(checkpoint):
    """A student of two steps each whose passes are recorded call by call."""
    model = load_served(checkpoint, rollout="graphed", nfe="2v/3a")
    model.wam.lanes = Lanes(CallRecorder(), compiled=False)
    return model


def drive(model, episode, *, chunks, under_way=0):
    """A robot that holds, or that goes on after its first chunk of a single frame."""
    prompt, observations = episode(0)
    session = PolicySession(model)
    session.reset(prompt, seed=1)
    drawn = []
    for chunk in range(chunks):
        drawn.append(session.infer(observations[0]))
        seen = observations[2 : 4 - under_way * int(chunk == 1)]
        late = under_way * int(chunk > 0)
        session.refresh(observations[1:2] if chunk == 0 else seen, drawn[-1], under_way=late)
    return drawn


def test_an_episode_after_the_trial_records_nothing_and_is_drawn_as_ever(graphed, checkpoint, episode, caplog):
    with caplog.at_level(logging.INFO, logger="flashwam.serve.warm_up"), serving(graphed, ServerOptions(port=0)):
        assert "drawing 4 chunks of a trial episode for each of 2 sessions" in caplog.text
        recorded = graphed.wam.lanes.recorded
        drawn = drive(graphed, episode, chunks=8) + drive(graphed, episode, chunks=8, under_way=1)
        assert graphed.wam.lanes.recorded == recorded > 0
    plain = load_served(checkpoint, nfe="2v/3a")
    expected = drive(plain, episode, chunks=8) + drive(plain, episode, chunks=8, under_way=1)
    for one, other in zip(drawn, expected, strict=True):
        assert abs(one - other).max() < 1e-5


def test_as_many_sessions_are_made_ready_as_there_is_memory_for(graphed, monkeypatch, caplog):
    opened, kept = [], graphed.wam.lanes.open

    def little_memory(*given, **how):
        opened.append(kept)
        if len(opened) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return kept(*given, **how)

    monkeypatch.setattr(graphed.wam.lanes, "open", little_memory)
    assert warm_up(graphed, sessions=3) == 4
    assert "memory to make 1 session(s) at a time ready, not 2" in caplog.text
    assert warm_up(graphed, sessions=1) == 4
    assert len(opened) == 3


def test_a_model_that_has_nothing_to_make_ready_draws_nothing(model):
    assert warm_up(model) == 0


def test_a_trial_needs_no_embedded_prompt_where_every_prompt_is_as_long(graphed):
    """A server without a text encoder may have the prompts of its tasks alone."""

    class Codec(FrameCodec):
        text_rows = 8

        def text(self, prompt):
            raise MissingFileError(f"prompt {prompt!r} is not among those there")

    codec = graphed.codec()
    assert codec.text("a prompt").shape[1] == Codec.text_rows
    bare = replace(graphed, codec=lambda: Codec(codec._codec, size=codec._size))
    assert warm_up(bare) == 4
    guided = {name: replace(sampler, guidance_scale=2.0) for name, sampler in bare.samplers.items()}
    with pytest.raises(MissingFileError, match="prompt '' is not among"):
        warm_up(replace(bare, samplers=guided))


def test_a_trial_ends_when_the_server_is_told_to_stop(graphed):
    asked = iter([False, False, True])
    assert warm_up(graphed, stopped=lambda: next(asked)) == 2


def test_a_rollout_that_a_family_does_not_know_is_refused(checkpoint):
    with pytest.raises(InputError, match="rollout must be one of dynamic, static, compiled, graphed; got 'fast'"):
        load_served(checkpoint, rollout="fast")
