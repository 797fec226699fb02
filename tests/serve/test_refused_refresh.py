# SPDX-License-Identifier: Apache-2.0
"""A refresh or a look that is refused leaves the episode as it was, and a chunk is refreshed once."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from flashwam.serve.client import PolicyClient
from flashwam.serve.server import serving
from flashwam.serve.session import PolicySession


def refreshed(session, observations, chunk, *, wrongly=()):
    """The chunk after one whose first frame was looked at, and whose refresh was refused so many times before."""
    session.look(observations[:1])
    for seen, state, under_way in wrongly:
        with pytest.raises(ValueError):
            session.refresh(seen, state, under_way=under_way)
    session.refresh(observations[1:], chunk)
    return session.infer()


@pytest.fixture
def begun(model, episode):
    def begin():
        prompt, observations = episode(0)
        session = PolicySession(model)
        session.reset(prompt, seed=2)
        session.refresh(observations[1:2], session.infer(observations[0]))
        return session, observations[2:4], session.infer()

    return begin


def test_what_was_looked_at_is_kept_where_a_refresh_is_refused(begun):
    session, observations, chunk = begun()
    expected = refreshed(session, observations, chunk)
    session, observations, chunk = begun()
    dark = {key: np.zeros((3, 3), np.uint8) for key in observations[0]}
    wrongly = [
        (observations[1:], chunk, 2),
        (observations, chunk, 0),
        ([], chunk, 0),
        ([dark], chunk, 0),
        (observations[1:], chunk[:, :1], 0),
        (observations[1:], chunk * np.nan, 0),
        (observations[1:], chunk[:1], 0),
    ]
    assert_array_equal(refreshed(session, observations, chunk, wrongly=wrongly), expected)


def test_a_chunk_is_refreshed_once(begun):
    session, observations, chunk = begun()
    session.refresh(observations, chunk)
    with pytest.raises(ValueError, match="refreshed before: draw the next one with infer"):
        session.refresh(observations, chunk)
    again = session.infer()
    other, observations, chunk = begun()
    other.refresh(observations, chunk)
    assert_array_equal(again, other.infer())


def test_a_look_that_is_refused_leaves_neither_picture_nor_sense(begun, monkeypatch):
    """As where the robot's state is missing."""

    def stateless(observations, frames):
        raise ValueError("every observation needs 'observation.state'")

    session, observations, chunk = begun()
    expected = refreshed(session, observations, chunk)
    session, observations, chunk = begun()
    with monkeypatch.context() as patch:
        patch.setattr(session, "_senses", stateless)
        with pytest.raises(ValueError, match="every observation needs"):
            session.look(observations[:1])
    assert_array_equal(refreshed(session, observations, chunk), expected)


def test_over_the_wire_it_is_told_and_the_server_goes_on(model, episode):
    prompt, observations = episode(0)
    with serving(model) as server:
        with PolicyClient(server.url) as client:
            client.reset(prompt, seed=2)
            chunk = client.infer(observations[0])
            client.refresh(observations[1:2], chunk)
            with pytest.raises(RuntimeError, match="refreshed before: draw the next one with infer"):
                client.refresh(observations[1:2], chunk)
        with PolicyClient(server.url) as client:
            client.reset(prompt, seed=2)
            assert_array_equal(client.infer(observations[0]), chunk)
