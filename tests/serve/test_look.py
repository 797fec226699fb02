# SPDX-License-Identifier: Apache-2.0
"""Pictures may be sent before the chunk has ended in which a robot sees them."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from flashwam.serve.client import PolicyClient
from flashwam.serve.codec import FrameCodec
from flashwam.serve.server import serving
from flashwam.serve.session import PolicySession


def driven(client, prompt, observations, *, early):
    """Three chunks through a client that looks at so many observations before each refresh."""
    client.reset(prompt, seed=2)
    chunks = [client.infer(observations[0])]
    for seen in (observations[1:2], observations[2:4]):
        for one in seen[:early]:
            client.look([one])
        client.refresh(seen[early:], chunks[-1])
        chunks.append(client.infer())
    return chunks


@pytest.mark.parametrize("early", [1, 2])
def test_chunks_are_those_of_pictures_that_come_all_at_once(model, episode, early):
    prompt, observations = episode(0)
    with serving(model) as server, PolicyClient(server.url) as client:
        assert client.metadata["takes_looks"]
        expected = driven(client, prompt, observations, early=0)
        for chunk, one in zip(driven(client, prompt, observations, early=early), expected, strict=True):
            assert_allclose(chunk, one, atol=1e-5)
        summary = server.metrics()["latency"]
        assert {"look", "refresh", "infer"} <= set(summary)


def test_a_reset_forgets_what_was_looked_at(model, episode):
    prompt, observations = episode(1)
    session = PolicySession(model)
    session.reset(prompt, seed=2)
    session.infer(observations[0])
    session.look(observations[1:2])
    session.reset(prompt, seed=2)
    chunk = session.infer(observations[0])
    with pytest.raises(ValueError, match="observations must be maps"):
        session.refresh([], chunk)


def test_more_than_the_chunk_has_is_refused_and_the_chunk_goes_on(model, episode):
    prompt, observations = episode(1)
    session = PolicySession(model)
    session.reset(prompt, seed=2)
    with pytest.raises(ValueError, match="look needs a chunk that was drawn"):
        session.look(observations[1:2])
    chunk = session.infer(observations[0])
    session.look(observations[1:2])
    with pytest.raises(ValueError, match="0 observations of the chunk are still to be seen, and 1 came"):
        session.look(observations[2:3])
    session.refresh([], chunk)
    chunk = session.infer()
    session.look(observations[2:3])
    with pytest.raises(ValueError, match="2 latent frames; 1 observations make 1"):
        session.refresh([], chunk)


def test_what_a_model_is_not_shown_is_let_go_whatever_it_is(model, episode):
    """A frame of two pictures, of which the model encodes the first; a picture that waits is kept with more beside it."""

    class Pairs(FrameCodec):
        def encode(self, observations):
            return super().encode(observations[::2])

    codec = model.codec()._codec
    pairs = replace(model, metadata={**model.metadata, "keyframes_per_frame": 2})
    session = PolicySession(replace(pairs, codec=lambda: Pairs(codec, size=(64, 64))))
    prompt, observations = episode(1)
    found = []
    for more in ({}, {"note": [[1], [1, 2]], "also": np.zeros(2**20), "cup": {"at": 1}}):
        session.reset(prompt, seed=2)
        first = session.infer(observations[0])
        session.refresh(observations[1:3], first)
        session.infer()
        session.look([observations[1], observations[2], {**observations[3], **more}])
        (waiting,) = session._early.waiting
        assert set(waiting) == set(observations[3])
        session.refresh([observations[4]], first)
        found.append(session.infer())
    assert_array_equal(*found)


def test_a_look_that_fails_is_told_by_the_next_answer(model, episode):
    prompt, observations = episode(0)
    with serving(model) as server, PolicyClient(server.url) as client:
        client.reset(prompt, seed=2)
        chunk = client.infer(observations[0])
        client.look([{key: np.zeros((3, 3), np.uint8) for key in observations[0]}])
        with pytest.raises(RuntimeError, match="must be a picture"):
            client.refresh([], chunk)
        with pytest.raises(RuntimeError, match="ended the session"):
            client.reset(prompt)
    with serving(model) as server, PolicyClient(server.url) as client:
        client.reset(prompt, seed=2)
        client.infer(observations[0])
        client.look([{key: np.zeros((3, 3), np.uint8) for key in observations[0]}])
        with pytest.raises(RuntimeError, match="must be a picture"):
            client.reset(prompt)


@pytest.mark.parametrize("ahead", [False, True])
def test_after_a_look_that_failed_the_session_is_over_whatever_was_asked_behind_it(model, episode, ahead):
    prompt, observations = episode(0)
    with serving(model) as server, PolicyClient(server.url) as client:
        client.reset(prompt, seed=2)
        chunk = client.infer(observations[0])
        client.look(observations[1:] * 5)
        if ahead:
            client.infer_ahead([], chunk)
        with pytest.raises(RuntimeError, match="1 observations of the chunk are still to be seen"):
            (client.answer if ahead else client.infer)()
        for ask in (client.infer, lambda: client.refresh([], chunk), lambda: client.reset(prompt)):
            with pytest.raises(RuntimeError, match="ended the session"):
                ask()


def test_waiting_for_a_look_does_not_lose_the_chunk_that_was_asked_for_ahead(model, episode):
    prompt, observations = episode(0)
    with serving(model) as server, PolicyClient(server.url) as client:
        client.reset(prompt, seed=2)
        chunk = client.infer(observations[0])
        client.infer_ahead(observations[1:2], chunk)
        with pytest.raises(RuntimeError, match="take its answer before waiting for what is seen"):
            client.look(observations[3:4], wait=True)
        assert client.answer().shape == chunk.shape


def test_after_an_answer_that_came_too_late_the_session_is_over(slow, episode):
    served, _, go_on = slow
    prompt, observations = episode(0)
    with serving(served) as server, PolicyClient(server.url, timeout=1) as client:
        client.reset(prompt)
        with pytest.raises(TimeoutError, match="has not answered within 1 s"):
            client.infer(observations[0])
        go_on.set()
        with pytest.raises(RuntimeError, match="ended the session"):
            client.reset(prompt)


def test_a_server_that_takes_no_looks_is_told_apart(model, episode):
    prompt, observations = episode(0)
    with serving(model) as server, PolicyClient(server.url) as client:
        del client.metadata["takes_looks"]
        client.reset(prompt, seed=2)
        client.infer(observations[0])
        with pytest.raises(ValueError, match="takes pictures with refresh alone"):
            client.look(observations[1:2])
