# SPDX-License-Identifier: Apache-2.0
"""Chunks that are asked for before the last one has ended."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from tiny_models import tiny_joint_wam, tiny_wam

from flashwam.core.checks import UnsoundError
from flashwam.data.episodes import CAMERA
from flashwam.evaluation.policy import load_policy
from flashwam.serve.ahead import ChunkStream
from flashwam.serve.client import PolicyClient
from flashwam.serve.remote_policy import RemotePolicy
from flashwam.serve.server import serving
from flashwam.serve.session import PolicySession
from flashwam.sim.local_policy import LocalPolicy

FRAMES = 9
"""Latent frames of an episode here."""


@pytest.fixture(scope="module", params=["history", "present"])
def served(request, model):
    """One that remembers chunks of three frames, and one that begins every chunk at the picture and executes two."""
    wam = tiny_wam(chunk_frames=3) if request.param == "history" else tiny_joint_wam()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in wam.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    told = {"chunk_frames": wam.chunk_frames, "actions_per_frame": 4}
    return replace(model, wam=wam.eval(), metadata={**model.metadata, **told})


def alone(model, prompt, observations, *, seed, under_way):
    """The frames that a session gives when nobody else asks anything, written out from the protocol: [FRAMES, U, N]."""
    session = PolicySession(model)
    session.reset(prompt, seed=seed)
    chunk, frames, told, at = session.infer(observations[0]), [], 1, 1
    padding = 1
    while len(frames) < FRAMES:
        executed = chunk.shape[1] - padding
        left = min(under_way, executed - 1)
        frames += [chunk[:, padding + k] for k in range(executed)]
        until = at + executed - left
        session.refresh(observations[told:until], chunk, under_way=left)
        told, at, padding = until, at + executed, 0
        chunk = session.infer(None)
    return np.stack(frames[:FRAMES])


def streamed(url, prompt, observations, *, seed, under_way, wait):
    """The same through a stream, by a robot that waits or that holds and asks again."""
    with PolicyClient(url) as client:
        stream = ChunkStream(client, under_way=under_way)
        stream.begin(prompt, observations[0], seed=seed)
        frames = []
        for number in range(FRAMES):
            while (controls := stream.next(wait=wait)) is None:
                time.sleep(0.001)
            frames.append(controls)
            stream.saw([observations[number + 1]])
        return np.stack(frames), stream.waited_ms


@pytest.mark.parametrize("under_way", [0, 5])
def test_a_stream_gives_what_the_protocol_does(served, episode, under_way):
    prompt, observations = episode(3, frames=FRAMES + 5)
    expected = alone(served, prompt, observations, seed=4, under_way=under_way)
    with serving(served) as server:
        frames, waited = streamed(server.url, prompt, observations, seed=4, under_way=under_way, wait=True)
    assert_allclose(frames, expected, atol=1e-5)
    assert len(waited) >= 3


def test_two_clients_at_their_own_pace_get_what_they_would_get_alone(served, episode):
    """One holds and the other goes on, one waits and the other asks again and again."""
    scripts = [(*episode(seed, frames=FRAMES + 5), seed, under_way) for seed, under_way in ((5, 0), (6, 1))]
    expected = [alone(served, p, seen, seed=seed, under_way=under_way) for p, seen, seed, under_way in scripts]
    with serving(served) as server, ThreadPoolExecutor(2) as both:
        futures = [
            both.submit(streamed, server.url, p, seen, seed=seed, under_way=under_way, wait=under_way == 0)
            for p, seen, seed, under_way in scripts
        ]
        found = [future.result() for future in futures]
    for (frames, _), frames_alone in zip(found, expected, strict=True):
        assert_allclose(frames, frames_alone, atol=1e-5)


def test_what_is_seen_before_the_look_decides_the_next_chunk_and_not_the_frames_under_way(served, episode):
    prompt, observations = episode(3, frames=FRAMES + 5)
    first = alone(served, prompt, observations, seed=4, under_way=1)
    changed = list(observations)
    changed[1] = {CAMERA: 255 - changed[1][CAMERA]}
    second = alone(served, prompt, changed, seed=4, under_way=1)
    assert_array_equal(first[:2], second[:2])
    assert np.abs(first[2:4] - second[2:4]).max() > 1e-5


def test_a_simulated_robot_goes_on_through_a_server_as_it_does_without(served, checkpoint, episode):
    """Controls and pictures of one episode, with one frame under way at every look."""
    policy = load_policy(checkpoint)
    prompt, observations = episode(2, frames=14)
    pictures = np.stack([observation[CAMERA] for observation in observations])[None]

    def chunks(driven):
        driven.reset(prompt, pictures[:, 0], seed=9, state=np.zeros((1, 4)))
        found, told, at = [driven.controls()], 1, 1
        for _ in range(3):
            frames = found[-1].shape[1] // 4
            left = min(1, frames - 1)
            seen = pictures[:, told : at + frames - left]
            driven.observe(seen, found[-1], state=np.zeros((1, seen.shape[1], 4)), under_way=left)
            told, at = at + frames - left, at + frames
            found.append(driven.controls())
        return found

    local = chunks(LocalPolicy(served.wam, served.samplers, policy.codec))
    with serving(served) as server, PolicyClient(server.url) as client:
        for ours, theirs in zip(chunks(RemotePolicy(client)), local, strict=True):
            assert_array_equal(ours, theirs)


def test_a_robot_whose_chunk_is_late_holds_and_then_executes_it_whole(slow, episode):
    """The server cannot answer until it is let go on."""
    served, entered, go_on = slow
    prompt, observations = episode(1)
    go_on.set()
    with serving(served) as server, PolicyClient(server.url) as client:
        stream = ChunkStream(client)
        stream.begin(prompt, observations[0], seed=1)
        stream.next()
        entered.clear()
        go_on.clear()
        stream.saw([observations[1]])
        assert entered.wait(30)
        assert stream.next(wait=False) is None
        assert stream.waited_ms == []
        go_on.set()
        frames = [stream.next()]
        stream.saw([observations[2]])
        frames.append(stream.next())
        assert len(stream.waited_ms) == 1
    session = PolicySession(served)
    session.reset(prompt, seed=1)
    session.refresh([observations[1]], session.infer(observations[0]))
    assert_array_equal(np.stack(frames, 1), session.infer(None))


def test_a_stream_is_told_of_every_frame_it_gave(server, episode):
    prompt, observations = episode(1)
    with PolicyClient(server.url) as client:
        stream = ChunkStream(client)
        with pytest.raises(RuntimeError, match="call begin"):
            stream.next()
        stream.begin(prompt, observations[0])
        with pytest.raises(RuntimeError, match="call next before"):
            stream.saw([observations[1]])
        stream.next()
        with pytest.raises(RuntimeError, match="call saw"):
            stream.next()
        stream.saw([observations[1]])
        with pytest.raises(RuntimeError, match="take its answer before"):
            client.infer()
        # Another episode may begin; what was asked for is not mistaken for its answer.
        stream.begin(prompt, observations[0], seed=1)
        first = stream.next()
        stream.saw([observations[1]])
        stream.begin(prompt, observations[0], seed=1)
        assert_array_equal(stream.next(), first)


def test_an_episode_begins_anew_after_a_chunk_that_no_robot_may_execute(server, episode, monkeypatch):
    """Its refusal is the answer to what was asked ahead, whether the robot has heard it or not."""
    prompt, observations = episode(1)
    infer, drawn = PolicySession.infer, []

    def second_is_unsound(self, observation=None):
        drawn.append(infer(self, observation))
        if len(drawn) in (2, 4):
            raise UnsoundError("nonsense")
        return drawn[-1]

    monkeypatch.setattr(PolicySession, "infer", second_is_unsound)
    with PolicyClient(server.url) as client:
        stream = ChunkStream(client)
        for heard in (True, False, None):
            stream.begin(prompt, observations[0], seed=1)
            first = stream.next()
            stream.saw([observations[1]])
            if heard:
                with pytest.raises(RuntimeError, match="nonsense"):
                    stream.next()
        assert_array_equal(first, drawn[0][:, 1])
        assert stream.next().shape == first.shape


@pytest.mark.parametrize("fails", ["prompt", "chunk"])
def test_after_an_episode_that_did_not_begin_nothing_of_the_one_before_is_executed(server, episode, monkeypatch, fails):
    prompt, observations = episode(1)
    infer, drawn = PolicySession.infer, []

    def third_is_unsound(self, observation=None):
        drawn.append(infer(self, observation))
        if len(drawn) == 3 and fails == "chunk":
            raise UnsoundError("nonsense")
        return drawn[-1]

    monkeypatch.setattr(PolicySession, "infer", third_is_unsound)
    with PolicyClient(server.url) as client:
        stream = ChunkStream(client)
        stream.begin(prompt, observations[0], seed=1)
        first = stream.next()
        stream.saw([observations[1]])
        stream.next()
        with pytest.raises(RuntimeError, match=r"nonsense|a prompt may have 8192 characters"):
            stream.begin(prompt if fails == "chunk" else "x" * 9000, observations[0], seed=2)
        for goes_on in (stream.next, lambda: stream.saw([observations[2]])):
            with pytest.raises(RuntimeError, match="no episode has begun: call begin"):
                goes_on()
        stream.begin(prompt, observations[0], seed=1)
        assert_array_equal(stream.next(), first)


@pytest.mark.parametrize("directly", [False, True])
def test_what_was_seen_behind_a_chunk_that_no_robot_may_execute_ends_nothing(slow, episode, monkeypatch, directly):
    """The robot executes the frame under way, and tells what it sees, before it hears of the refusal."""
    served, entered, go_on = slow
    prompt, observations = episode(1)
    infer, drawn = PolicySession.infer, []

    def second_is_unsound(self, observation=None):
        drawn.append(infer(self, observation))
        if len(drawn) == 2:
            raise_unsound(self)
        return drawn[-1]

    def raise_unsound(session):
        session._forget()
        raise UnsoundError("nonsense")

    monkeypatch.setattr(PolicySession, "infer", second_is_unsound)
    go_on.set()
    with serving(served) as server, PolicyClient(server.url) as client:
        client.reset(prompt, seed=1)
        chunk = client.infer(observations[0])
        entered.clear()
        go_on.clear()
        client.infer_ahead([observations[1]], chunk)
        client.look([observations[2]])
        assert entered.wait(30)
        go_on.set()
        with pytest.raises(RuntimeError, match="nonsense"):
            client.answer()
        if directly:
            client.reset(prompt, seed=1)
            assert_array_equal(client.infer(observations[0]), chunk)
        else:
            stream = ChunkStream(client)
            stream.begin(prompt, observations[0], seed=1)
            assert_array_equal(stream.next(), chunk[:, 1])
        assert server.metrics()["sessions"] == {"open": 1, "served": 1, "failed": 1}


def test_a_session_that_the_server_ends_is_over(server, episode):
    prompt, observations = episode(1)
    with PolicyClient(server.url) as client:
        stream = ChunkStream(client)
        stream.begin(prompt, observations[0])
        stream.next()
        stream.saw([{}])
        with pytest.raises(RuntimeError, match="must be a picture"):
            stream.next()
        with pytest.raises(RuntimeError, match="ended the session"):
            stream.begin(prompt, observations[0])


def test_what_was_really_executed_is_told(server, model, episode):
    prompt, observations = episode(1)
    with PolicyClient(server.url) as client:
        stream = ChunkStream(client)
        stream.begin(prompt, observations[0], seed=1)
        done = stream.next() / 2
        stream.saw([observations[1]], done)
        frame = stream.next()
    session = PolicySession(model)
    session.reset(prompt, seed=1)
    chunk = session.infer(observations[0])
    chunk[:, 1] = done
    session.refresh([observations[1]], chunk)
    assert_array_equal(frame, session.infer(None)[:, 0])


def test_a_frame_is_told_anew_after_what_was_seen_or_executed_is_refused(server, episode):
    prompt, observations = episode(1)
    found = []
    for wrongly in (False, True):
        with PolicyClient(server.url) as client:
            stream = ChunkStream(client)
            stream.begin(prompt, observations[0], seed=1)
            done = stream.next() / 2
            if wrongly:
                spoilt = done.copy()
                spoilt[0, 0] = np.nan
                # Numpy would spread the first three over the frame.
                for executed in (done[:, 0], 0.0, done[:1], done[None], done.T[:2], done.astype(str), spoilt):
                    with pytest.raises(ValueError, match="executed must be"):
                        stream.saw([observations[1]], executed)
                for seen in (observations[1], ["picture"]):
                    with pytest.raises(ValueError, match="must be maps from camera to picture, in a list"):
                        stream.saw(seen, done)
                with pytest.raises(RuntimeError, match="call saw"):
                    stream.next()
            stream.saw([observations[1]], done)
            found.append(stream.next())
    assert_array_equal(*found)


def test_controls_that_are_no_frames_of_the_chunk_are_not_spread_over_it(server, episode):
    prompt, observations = episode(1)
    pictures = np.stack([observation[CAMERA] for observation in observations[:2]])
    with PolicyClient(server.url) as client:
        policy = RemotePolicy(client)
        policy.reset(prompt, pictures[:1], seed=9)
        controls = policy.controls()
        for wrong in (controls[:, :, :1], controls[:, :3], controls[:, :0], controls.repeat(3, 1)):
            with pytest.raises(ValueError, match="of up to 2 latent frames, 4 steps each"):
                policy.observe(pictures[None, 1:], wrong)
        policy.observe(pictures[None, 1:], controls)
        assert policy.controls().shape == (1, 8, 4)


@pytest.mark.parametrize(
    ("under_way", "told"),
    [
        (-1, "0 or more"),
        (True, "number of latent frames"),
        ("one", "number of latent frames"),
        (2, "must be seen between two chunks; 2 of 2"),
    ],
)
def test_frames_under_way_that_cannot_be_are_refused(served, episode, under_way, told):
    prompt, observations = episode(1)
    session = PolicySession(served)
    session.reset(prompt, seed=1)
    chunk = session.infer(observations[0])
    request = {"obs": observations[1:2], "compute_kv_cache": True, "state": chunk, "under_way": under_way}
    with pytest.raises(ValueError, match=told):
        session.handle(request)


def test_observations_that_do_not_fit_what_is_under_way_are_refused(served, episode):
    prompt, observations = episode(1)
    session = PolicySession(served)
    session.reset(prompt, seed=1)
    with pytest.raises(ValueError, match="1 of them under way, and 0 were before: 2 are to be seen"):
        session.refresh(observations[1:3], session.infer(observations[0]), under_way=1)


def test_a_server_of_another_kind_is_asked_for_chunks_at_their_end_alone(model, episode):
    other = {name: told for name, told in model.metadata.items() if name != "takes_under_way"}
    prompt, observations = episode(1)
    with serving(replace(model, metadata=other)) as server, PolicyClient(server.url) as client:
        with pytest.raises(ValueError, match="takes no frames that are under way"):
            ChunkStream(client)
        with pytest.raises(ValueError, match="takes no frames that are under way"):
            client.refresh(observations[:1], np.zeros((4, 2, 4), np.float32), under_way=1)
        stream = ChunkStream(client, under_way=0)
        stream.begin(prompt, observations[0])
        for seen, _ in pairwise(observations):
            stream.next()
            stream.saw([seen])
