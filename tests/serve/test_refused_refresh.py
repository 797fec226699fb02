# SPDX-License-Identifier: Apache-2.0
"""A refresh or a look that is refused leaves the episode as it was, and a chunk is refreshed once."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from tiny_released import save_released

from flashwam.serve.client import PolicyClient
from flashwam.serve.direct import WamPipeline
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


@pytest.fixture(scope="module")
def four_pictures(tmp_path_factory):
    """Of the released layout, whose latent frame is four pictures of every camera and whose codec keeps their past."""
    folder = save_released(tmp_path_factory.mktemp("released") / "base", ("fold", ""))
    return WamPipeline.from_pretrained(folder, torch_dtype=torch.float32, preset="libero", nfe="1v/1a")


@pytest.fixture
def first_chunk(four_pictures):
    """A session, what follows on its first observation, and its first chunk."""
    rng = np.random.default_rng(0)
    cameras, sessions = four_pictures.model.metadata["cameras"], []

    def begin():
        sessions.append(four_pictures.session())
        sessions[-1].reset("fold", seed=1)
        return sessions[-1], seen[1:], sessions[-1].infer(seen[0])

    seen = [{key: rng.integers(0, 255, (64, 64, 3), np.uint8) for key in cameras} for _ in range(13)]
    return begin


def test_a_look_refuses_pictures_that_wait_for_the_rest_of_their_frame(first_chunk):
    session, observations, chunk = first_chunk()
    session.look(observations[:2])
    session.refresh(observations[2:], chunk)
    expected = session.infer()
    session, observations, chunk = first_chunk()
    key, picture = next(iter(observations[1].items()))
    wrongly = [{}, {key: picture}, *(observations[1] | {key: x} for x in (picture / 255, picture[0]))]
    session.look(observations[:1])
    with pytest.raises(ValueError, match="differ in size"):
        session.look([observations[1] | {key: picture[:9]}])
    for wrong in wrongly:
        # Once with a frame that is whole before it.
        for seen in ([wrong], [*observations[1:4], wrong]):
            with pytest.raises(ValueError, match=r"has no camera|expected uint8"):
                session.look(seen)
    session.look(observations[1:2])
    session.refresh(observations[2:], chunk)
    assert_allclose(session.infer(), expected, atol=1e-5)


def test_a_camera_may_take_its_next_picture_into_the_same_memory(first_chunk):
    """Those that wait for the rest of their frame are as they were seen."""
    found = []
    for shared in (False, True):
        session, good, chunk = first_chunk()
        memory = {key: np.empty_like(x) for key, x in good[0].items()}
        for observation in good:
            for key, x in observation.items():
                memory[key][...] = x
            session.look([memory if shared else observation])
        session.refresh([], chunk)
        found.append(session.infer(None))
    assert_array_equal(*found)


def test_an_episode_begins_after_a_first_observation_that_was_refused(first_chunk, four_pictures, monkeypatch):
    """As where the robot's state is missing."""

    def stateless(observations, frames):
        raise ValueError("every observation needs 'observation.state'")

    _, observations, _ = first_chunk()
    chunks = []
    for refusals in (0, 1):
        session = four_pictures.session()
        session.reset("fold", seed=1)
        for _ in range(refusals):
            with monkeypatch.context() as patch:
                patch.setattr(session, "_senses", stateless)
                with pytest.raises(ValueError, match="every observation needs"):
                    session.infer(observations[0])
        chunks.append(session.infer(observations[0]))
    assert_array_equal(*chunks)


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
