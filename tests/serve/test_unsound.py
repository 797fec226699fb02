# SPDX-License-Identifier: Apache-2.0
"""An action that no robot may do is never sent, and the session goes on from its next reset."""

import copy
import json
import math
import shutil
from dataclasses import replace

import msgpack
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from websockets.sync.client import connect
from wire import closing, foreign

from flashwam.core.checks import UnsoundError
from flashwam.data.actions import ActionNorm
from flashwam.data.autoencoder import FrameAutoencoder
from flashwam.data.codec import CODEC_FILE, Codec
from flashwam.run.folder import INFO_FILE
from flashwam.sampling import Rollout
from flashwam.serve.client import PolicyClient
from flashwam.serve.codec import FrameCodec
from flashwam.serve.model import load_served
from flashwam.serve.protocol import pack
from flashwam.serve.server import serving
from flashwam.serve.session import PolicySession
from flashwam.sim.local_policy import LocalPolicy


@pytest.fixture
def breakable(model):
    """The model with weights of its own, and what breaks one output channel of a stream and mends it again."""
    wam = copy.deepcopy(model.wam)

    def spoil(stream, channel, value):
        bias = (wam.transformer.action_proj_out if stream == "action" else wam.transformer.proj_out).bias
        with torch.no_grad():
            if value is None:
                bias.copy_(getattr(model.wam.transformer, "action_proj_out" if stream == "action" else "proj_out").bias)
            else:
                bias[channel] = value

    # In one step a channel's fault stays its own.
    samplers = {name: replace(sampler, steps=1) for name, sampler in model.samplers.items()}
    return replace(model, wam=wam, samplers=samplers), spoil


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, -300.0])
def test_actions_that_nobody_can_mean_are_not_sent_and_a_reset_begins_anew(breakable, episode, value):
    broken, spoil = breakable
    prompt, observations = episode(3)
    alone = PolicySession(broken)
    alone.reset(prompt, seed=3)
    expected = [alone.infer(observations[0])]
    alone.refresh(observations[1:2], expected[0])
    expected.append(alone.infer())
    with serving(broken) as server, PolicyClient(server.url) as client, PolicyClient(server.url) as bystander:
        bystander.reset(prompt, seed=3)
        client.reset(prompt, seed=3)
        assert_array_equal(client.infer(observations[0]), expected[0])
        client.refresh(observations[1:2], expected[0])
        spoil("action", 2, value)
        with pytest.raises(RuntimeError, match=r"UnsoundError: chunk 2: stream 'action', channel 2 must be"):
            client.infer()
        spoil("action", 2, None)
        assert server.metrics()["sessions"] == {"open": 2, "served": 2, "failed": 1}
        assert server.metrics()["failed_requests"] == 1
        assert server.metrics()["unsound_chunks"] == 1
        client.reset(prompt, seed=3)
        for session in (client, bystander):
            assert_array_equal(session.infer(observations[0]), expected[0])
            session.refresh(observations[1:2], expected[0])
            assert_array_equal(session.infer(), expected[1])


def test_after_an_unsound_chunk_nothing_but_a_reset_is_answered(breakable, episode):
    broken, spoil = breakable
    prompt, observations = episode(0)
    spoil("action", 0, math.nan)
    session = PolicySession(broken)
    session.reset(prompt, seed=1)
    with pytest.raises(UnsoundError):
        session.infer(observations[0])
    spoil("action", 0, None)
    for ask in (lambda: session.infer(observations[0]), lambda: session.refresh(observations[1:2], None)):
        with pytest.raises(ValueError, match="send reset with a prompt first"):
            ask()


def test_what_was_sent_behind_an_unsound_chunk_is_refused_and_the_session_stands(breakable, episode):
    """As a foreign client sees it: a text for each request until the reset, whatever it was."""
    broken, spoil = breakable
    prompt, observations = episode(0)
    picture = observations[0]
    asks = [{"look": True, "obs": [picture]}, {"obs": [], "compute_kv_cache": True, "state": None}, {"obs": picture}]
    with serving(broken) as server, connect(server.url, compression=None) as connection:
        connection.recv()
        for turn in range(2):
            spoil("action", 0, math.nan)
            for request in ({"reset": True, "prompt": prompt, "seed": 3}, {"obs": picture}, *asks):
                connection.send(pack(request))
            assert isinstance(connection.recv(10), bytes)
            assert "UnsoundError: chunk 1" in connection.recv(10)
            for _ in asks:
                assert "send reset with a prompt first" in connection.recv(10)
            assert server.metrics()["sessions"] == {"open": 1, "served": 1, "failed": 1}
            assert server.metrics()["failed_requests"] == 4 * (turn + 1)
        spoil("action", 0, None)
        for request in ({"reset": True, "prompt": prompt}, {"obs": picture}, {"reset": True}, {"obs": picture}):
            connection.send(pack(request))
        assert [type(connection.recv(10)) for _ in range(4)] == [bytes, bytes, bytes, str]
        # Nobody's prompt was refused here: a chunk before there is one ends the session as ever.
        assert closing(connection)[1] == 1011


def test_an_imagined_video_that_is_not_finite_stops_the_chunk_too(breakable, episode):
    broken, spoil = breakable
    spoil("video", 0, math.nan)
    session = PolicySession(broken)
    session.reset(episode(0)[0], seed=1)
    with pytest.raises(UnsoundError, match="chunk 1: stream 'video', channel 0"):
        session.infer(episode(0)[1][0])


def test_no_simulator_is_driven_by_what_is_not_finite(breakable, checkpoint):
    broken, spoil = breakable
    codec = Codec.load(checkpoint)
    frames = np.zeros((2, 64, 64, 3), np.uint8)
    policy = LocalPolicy(broken.wam, broken.samplers, codec)
    policy.reset("", frames, seed=0)
    assert np.isfinite(policy.controls()).all()
    for value in (math.nan, math.inf):
        spoil("action", 1, value)
        policy.reset("", frames, seed=0)
        with pytest.raises(UnsoundError, match="chunk 1: stream 'action', channel 1"):
            policy.controls()


def test_a_codec_that_makes_nonsense_of_sound_actions_is_found_out(model, episode):
    class Broken(FrameCodec):
        def actions(self, actions):
            return super().actions(actions) * np.array([1, 1, np.nan, 1], np.float32)[:, None, None]

    codec = model.codec()._codec
    session = PolicySession(replace(model, codec=lambda: Broken(codec, size=(64, 64))))
    session.reset("", seed=0)
    with pytest.raises(UnsoundError, match="channel 2 must be a finite number; got nan"):
        session.infer(episode(0)[1][0])


def test_the_limit_lies_beyond_everything_that_is_measured_or_clipped():
    narrow = {"q01": (-0.12,), "q99": (0.17,), "used": (0,)}
    turn = ActionNorm(**narrow, clip=None)
    assert turn.normalise(torch.tensor([[[1.0]], [[-1.0]]]).view(2, 1, 1, 1)).abs().max() < turn.limit == 10
    assert ActionNorm(**narrow, clip=1.5).limit == 10
    assert ActionNorm(**narrow, clip=50).limit == 50


def saying(*answers):
    """A server that greets as ours does, then says what it is told, whatever it is asked."""

    def converse(connection):
        connection.send(pack({"controls": 4, "chunk_frames": 2, "actions_per_frame": 4}))
        for what in answers:
            connection.recv()
            connection.send(pack(what))

    return foreign(converse)


@pytest.mark.parametrize(
    ("action", "told"),
    [
        (np.full((4, 2, 4), np.nan, np.float32), r"not finite: control 0, frame 0, step 0 is nan"),
        (
            np.where(np.arange(32).reshape(4, 2, 4) == 21, -np.inf, 0).astype(np.float32),
            "control 2, frame 1, step 1 is -inf",
        ),
        (np.zeros((4, 2, 4)), r"float32 \[4, 2, 4\]; got float64"),
        (np.zeros((4, 2, 4), np.int32), "got int32"),
        (np.zeros((4, 2, 3), np.float32), r"got float32 \[4, 2, 3\]"),
        (np.zeros((3, 2, 4), np.float32), r"got float32 \[3, 2, 4\]"),
        (np.zeros((4, 3, 4), np.float32), r"got float32 \[4, 3, 4\]"),
        (np.zeros((4, 0, 4), np.float32), r"got float32 \[4, 0, 4\]"),
        (np.zeros((4, 8), np.float32), r"got float32 \[4, 8\]"),
        ([[0.0]], "got list"),
        (None, "got NoneType"),
    ],
)
def test_the_client_hands_on_nothing_but_controls(action, told):
    sound = np.ones((4, 1, 4), np.float32)
    with saying({"action": action}, {"action": sound}) as url, PolicyClient(url) as client:
        with pytest.raises(RuntimeError, match=told):
            client.infer()
        assert_array_equal(client.infer(), sound)


def edited(checkpoint, folder, file, edit):
    """A copy of a model folder with one of its JSON files changed."""
    shutil.copytree(checkpoint, folder)
    values = json.loads((folder / file).read_text())
    edit(values)
    (folder / file).write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30, "x", None])
@pytest.mark.parametrize("key", ["q01", "q99"])
def test_a_model_with_quantiles_that_make_no_sense_is_not_loaded(checkpoint, tmp_path, key, value):
    def edit(values):
        values["actions"][key][2] = value

    with pytest.raises(
        ValueError,
        match=rf"{CODEC_FILE}: (.*{key} of channel 2 must|expected q01|could not)|no finite number, at actions.{key}.2.",
    ):
        load_served(edited(checkpoint, tmp_path / "m", CODEC_FILE, edit))


@pytest.mark.parametrize("ends", [(0.5, 0.5), (0.5, -0.5), (1e6, 1e6 + 1e-3)])
def test_a_control_without_a_range_is_refused_by_its_channel_and_one_that_is_not_used_is_not(ends):
    low, high = ((0.0, end) for end in ends)
    with pytest.raises(ValueError, match="q99 of channel 1 must lie above its q01"):
        ActionNorm(q01=low, q99=(1.0, high[1]), used=(0, 1))
    ActionNorm(q01=low, q99=(1.0, high[1]), used=(0,))


@pytest.mark.parametrize("clip", [math.nan, math.inf, 0, -1, 1e30])
def test_a_clip_that_makes_no_sense_is_refused(clip):
    with pytest.raises(ValueError, match="clip must be positive"):
        ActionNorm(q01=(0.0,), q99=(1.0,), used=(0,), clip=clip)


@pytest.mark.parametrize(
    ("key", "value"), [("mean", math.nan), ("mean", 1e30), ("std", 0.0), ("std", -1.0), ("std", math.inf)]
)
def test_latent_statistics_that_make_no_sense_are_refused_by_file_and_channel(checkpoint, tmp_path, key, value):
    def edit(values):
        values[key][1] = value

    folder = edited(checkpoint, tmp_path / "m", "vae/latent_stats.json", edit)
    for load in (load_served, lambda folder: FrameAutoencoder.from_pretrained(folder / "vae")):
        with pytest.raises(
            ValueError, match=rf"latent_stats.json.*({key} of channel 1 must be|no finite number, at {key}.1.)"
        ):
            load(folder)


@pytest.mark.parametrize(
    ("key", "value"), [("shift", 1e-300), ("shift", math.nan), ("guidance_scale", 1e30), ("steps", 1.5)]
)
def test_noise_that_makes_no_sense_is_refused_by_file_stream_and_field(checkpoint, tmp_path, key, value):
    def edit(values):
        values["streams"]["action"][key] = value

    with pytest.raises(
        ValueError, match=rf"{INFO_FILE}.*(stream 'action'.*{key} must be|no finite number, at streams.action.{key})"
    ):
        load_served(edited(checkpoint, tmp_path / "m", INFO_FILE, edit))


def test_a_rollout_says_which_chunk_it_is(breakable):
    broken, spoil = breakable
    streams = {"video": torch.zeros(1, 3, 1, 8, 8), "action": torch.zeros(1, 4, 1, 4, 1)}
    rollout = Rollout(broken.wam, broken.samplers, text=torch.zeros(1, 8, 32), first=streams)
    rollout.predict()
    spoil("action", 3, math.nan)
    with pytest.raises(UnsoundError, match="chunk 2: stream 'action', channel 3"):
        rollout.predict()


def test_a_text_frame_alone_leaves_the_connection_open(breakable, episode):
    """As a foreign client sees it: a text, no close, and the next request is answered."""
    broken, spoil = breakable
    spoil("action", 0, math.nan)
    with serving(broken) as server, connect(server.url, compression=None) as connection:
        connection.recv()
        for request in ({"reset": True, "prompt": "x"}, {"obs": episode(0)[1][0]}, {"reset": True, "prompt": "x"}):
            connection.send(pack(request))
        replies = [connection.recv(10) for _ in range(3)]
    assert [type(reply) for reply in replies] == [bytes, str, bytes]
    assert set(msgpack.unpackb(replies[2])) == {"server_timing"}
