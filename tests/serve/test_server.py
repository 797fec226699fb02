# SPDX-License-Identifier: Apache-2.0
import json
import logging
import os
import re
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import msgpack
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from flashwam.cli import main
from flashwam.data.episodes import CAMERA
from flashwam.serve.client import PolicyClient
from flashwam.serve.policy import FrameCodec, PolicySession
from flashwam.serve.protocol import Dialect, pack, read
from flashwam.serve.server import PolicyServer, ServerOptions, serving

SPANS = ((1, 2), (2, 4), (0, 0))


def three_chunks(policy, prompt, observations, *, seed):
    """Three chunks of a session or a client, which have the same three methods."""
    policy.reset(prompt, seed=seed)
    chunks = []
    for begin, end in SPANS:
        chunks.append(policy.infer(observations[0]))
        if end:
            policy.refresh(observations[begin:end], chunks[-1])
    return chunks


def get(server, path, **headers):
    request = urllib.request.Request(server.url.replace("ws", "http", 1) + path, headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.status, answer.headers["Content-Type"], answer.read()


def wait_for(condition):
    """A server notices shortly after its client that a session has ended."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def closing(connection):
    """Text frames until the server closes, and how it closes."""
    texts = []
    try:
        while True:
            texts.append(connection.recv(10))
    except ConnectionClosed as closed:
        return texts, closed.rcvd.code, closed.rcvd.reason


# The next three lines and the client below are all that a foreign client knows: the protocol's text.
def nd(x):
    return {b"__ndarray__": True, b"data": x.tobytes(), b"dtype": x.dtype.str, b"shape": x.shape}


def from_nd(x):
    return np.frombuffer(x[b"data"], np.dtype(x[b"dtype"])).reshape(x[b"shape"]) if b"data" in x else x


def test_a_client_written_from_the_protocol_alone_completes_a_closed_loop(server, model, episode):
    prompt, observations = episode(7, frames=8)
    keys = [{key: nd(picture) for key, picture in one.items()} for one in observations]
    session = PolicySession(model)
    with connect(server.url, compression=None, max_size=None, ping_interval=None) as connection:
        metadata = msgpack.unpackb(connection.recv())
        frames, per_frame = metadata["chunk_frames"], metadata["actions_per_frame"]

        def ask(**request):
            connection.send(msgpack.packb(request))
            return msgpack.unpackb(connection.recv(), object_hook=from_nd)

        reply = ask(reset=True, prompt=prompt, seed=3, save_visualization=False)
        assert set(reply) == {"server_timing"}
        assert set(reply["server_timing"]) == {"infer_ms"}
        session.reset(prompt, seed=3)
        seen, executed = 1, 0
        for chunk in range(3):
            first = 1 if chunk == 0 else 0
            reply = ask(obs=keys[0], prompt=prompt, video_guidance_scale=5, action_guidance_scale=1)
            assert set(reply) == {"action", "server_timing"}
            assert set(reply["server_timing"]) == {"infer_ms", "prev_total_ms"}
            action = reply["action"]
            assert (action.dtype.str, action.shape) == ("<f4", (metadata["controls"], frames, per_frame))
            assert_array_equal(action, session.infer(observations[0]))
            executed += action[:, first:].shape[1] * per_frame
            until = seen + frames - first
            reply = ask(obs=keys[seen:until], compute_kv_cache=True, imagine=False, state=nd(action))
            assert set(reply) == {"server_timing"}
            session.refresh(observations[seen:until], action)
            seen = until
    assert executed == 4 + 8 + 8


@pytest.mark.parametrize("dialect", [Dialect(text=t, foreign=f) for t in (False, True) for f in (False, True)])
def test_a_client_is_answered_in_the_dialect_it_writes(server, model, episode, dialect):
    prompt, observations = episode(4)
    expected = three_chunks(PolicySession(model), prompt, observations, seed=4)
    with connect(server.url, compression=None) as connection:
        connection.recv()

        def ask(**request):
            connection.send(pack(request, dialect=dialect))
            reply, found = read(connection.recv())
            return reply.get("action"), found

        assert ask(reset=True, prompt=prompt, seed=4) == (None, None)
        for (begin, end), chunk in zip(SPANS, expected, strict=True):
            action, found = ask(obs=observations[0])
            assert_array_equal(action, chunk, strict=True)
            assert found == dialect
            if end:
                assert ask(obs=observations[begin:end], compute_kv_cache=True, state=action) == (None, None)


def test_several_clients_at_once_get_what_each_gets_alone(server, model, episode):
    alone = [three_chunks(PolicySession(model), *episode(i), seed=i) for i in range(4)]
    barrier = threading.Barrier(4)

    def drive(i):
        with PolicyClient(server.url) as client:
            barrier.wait(10)
            return [three_chunks(client, *episode(i), seed=i) for _ in range(3)]

    with ThreadPoolExecutor(4) as pool:
        for i, rounds in enumerate(pool.map(drive, range(4))):
            for chunks in rounds:
                assert_array_equal(chunks, alone[i])


def test_an_error_is_a_text_frame_and_1011_and_another_session_goes_on(server, model, episode):
    prompt, observations = episode(1)
    alone = three_chunks(PolicySession(model), prompt, observations, seed=1)
    with PolicyClient(server.url) as healthy:
        healthy.reset(prompt, seed=1)
        assert_array_equal(healthy.infer(observations[0]), alone[0])
        for bad in (b"", b"\xc1", b"\x91" * 5000, msgpack.packb({"obs": 1}), msgpack.packb([1]), "text"):
            with connect(server.url) as connection:
                connection.recv()
                connection.send(bad)
                (text,), code, _ = closing(connection)
                assert isinstance(text, str)
                assert re.match(r"(Value|Type)Error: \w+", text)
                assert code == 1011
        healthy.refresh(observations[1:2], alone[0])
        assert_array_equal(healthy.infer(None), alone[1])
    wait_for(lambda: not server.metrics()["sessions"]["open"])
    assert server.metrics()["sessions"] == {"open": 0, "served": 7, "failed": 6}


def test_the_client_says_what_the_server_said(server):
    with PolicyClient(server.url) as client, pytest.raises(RuntimeError, match="send reset with a prompt first"):
        client.infer()


class Failing(FrameCodec):
    error: Exception

    def encode(self, observations):
        raise self.error


@pytest.mark.parametrize(
    ("error", "told", "hidden"),
    [
        (ValueError("no file /srv/models/vae.bin, see 'C:\\keys\\a.txt'"), "ValueError: no file <path>", "srv|keys"),
        (RuntimeError("/srv/models/vae.bin is broken"), "RuntimeError: the server failed", "srv|vae"),
        (FileNotFoundError(2, "No such file", "/srv/x"), "FileNotFoundError: the server failed", "srv"),
        (MemoryError(), "MemoryError: the server failed", "Traceback"),
    ],
)
def test_errors_show_no_paths_and_no_traceback(model, episode, error, told, hidden, caplog):
    class Broken(Failing):
        pass

    Broken.error = error
    broken = replace(model, codec=lambda: Broken(model.codec()._codec, size=(64, 64)))
    with serving(broken) as server:
        with connect(server.url) as connection:
            connection.recv()
            for request in ({"reset": True, "prompt": ""}, {"obs": {CAMERA: nd(episode(0)[1][0][CAMERA])}}):
                connection.send(msgpack.packb(request))
            connection.recv()
            (text,), code, reason = closing(connection)
        assert text.startswith(told)
        assert not re.search(hidden, text + reason)
        assert "Traceback" not in text
        assert code == 1011
        with PolicyClient(server.url) as client:
            client.reset("")
    records = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.exc_info[1] for record in records] == ([] if isinstance(error, ValueError) else [error])


def test_health_and_metrics(server, model, episode):
    with PolicyClient(server.url) as client:
        three_chunks(client, *episode(0), seed=0)
        assert set(client.timing) == {"infer_ms", "prev_total_ms"}
        status, _, body = get(server, "/healthz")
        assert (status, body) == (200, b"OK\n")
        status, kind, body = get(server, "/metrics")
    assert (status, kind) == (200, "application/json")
    told = json.loads(body)
    assert told["sessions"]["open"] == 1
    assert told["model"] == model.metadata
    latency = told["latency"]
    assert {kind: numbers["count"] for kind, numbers in latency.items()} == {"reset": 1, "infer": 3, "refresh": 2}
    assert set(latency["infer"]["ms"]) == {"decode", "wait", "vae", "video", "action", "total"}
    assert set(latency["refresh"]["ms"]) == {"decode", "wait", "vae", "cache", "total"}
    for stage in latency["infer"]["ms"].values():
        assert 0 <= stage["p50"] <= stage["p95"] <= stage["p99"]
    assert latency["infer"]["ms"]["total"]["p99"] > latency["infer"]["ms"]["video"]["p50"]


def test_health_answers_while_a_chunk_is_drawn(slow, model, episode):
    slow_model, entered, go_on = slow
    prompt, observations = episode(2)
    with serving(slow_model) as server, PolicyClient(server.url) as client, ThreadPoolExecutor(1) as pool:
        client.reset(prompt, seed=2)
        answer = pool.submit(client.infer, observations[0])
        assert entered.wait(10)
        assert get(server, "/healthz")[0] == 200
        assert not answer.done()
        go_on.set()
        assert_array_equal(answer.result(10), three_chunks(PolicySession(model), prompt, observations, seed=2)[0])


def test_chunks_are_drawn_while_another_sessions_prompt_is_embedded(model, episode):
    entered, go_on = threading.Event(), threading.Event()

    class Reads(FrameCodec):
        def text(self, prompt):
            if prompt == "take your time":
                entered.set()
                assert go_on.wait(20)
            return super().text(prompt)

    codec = model.codec()._codec
    reads = replace(model, codec=lambda: Reads(codec, size=(64, 64)))
    prompt, observations = episode(2)
    with (
        serving(reads) as server,
        PolicyClient(server.url) as patient,
        PolicyClient(server.url) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        client.reset(prompt, seed=2)
        answer = pool.submit(patient.reset, "take your time", seed=3)
        assert entered.wait(10)
        drawn = client.infer(observations[0])
        assert not answer.done()
        go_on.set()
        answer.result(10)
        assert_array_equal(drawn, three_chunks(PolicySession(model), prompt, observations, seed=2)[0])
        alone = PolicySession(model)
        alone.reset("take your time", seed=3)
        assert_array_equal(patient.infer(observations[0]), alone.infer(observations[0]))


def test_a_client_that_leaves_in_the_middle_harms_nobody(slow, model, episode):
    slow_model, entered, go_on = slow
    prompt, observations = episode(2)
    with serving(slow_model) as server:
        gone = connect(server.url)
        gone.recv()
        gone.send(msgpack.packb({"reset": True, "prompt": prompt}))
        gone.recv()
        gone.send(msgpack.packb({"obs": {CAMERA: nd(observations[0][CAMERA])}}))
        assert entered.wait(10)
        gone.socket.shutdown(socket.SHUT_RDWR)
        go_on.set()
        with PolicyClient(server.url) as client:
            chunks = three_chunks(client, prompt, observations, seed=2)
        assert_array_equal(chunks, three_chunks(PolicySession(model), prompt, observations, seed=2))
        wait_for(lambda: server.metrics()["sessions"] == {"open": 0, "served": 2, "failed": 0})


def test_stopping_waits_for_the_chunk_that_is_drawn(slow, episode):
    slow_model, entered, go_on = slow
    prompt, observations = episode(2)
    with ThreadPoolExecutor(1) as pool:
        with serving(slow_model) as server:
            client = PolicyClient(server.url)
            client.reset(prompt)
            answer = pool.submit(client.infer, observations[0])
            assert entered.wait(10)
            server.stop()
            assert server.metrics()["sessions"]["open"] == 1
            go_on.set()
            assert answer.result(10).shape == (4, 2, 4)
        assert server.metrics()["sessions"]["open"] == 0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("inference", "prompts"))]


def test_only_the_token_opens(model):
    with serving(model, ServerOptions(port=0, token="s3cret")) as server:
        for token in (None, "", "s3cre", "s3cret2", "S3CRET", "s3cret s3cret"):
            with pytest.raises(RuntimeError, match="401"):
                PolicyClient(server.url, token)
        for headers in (
            {"Authorization": "s3cret"},
            {"Authorization": "Basic s3cret"},
            {"Authorization": "Api-Key s3cre"},
            {"Authorization": "Api-Key  s3cret"},
            {"Authorization": "Api-Key Bearer s3cret"},
            {"Authorization": "api-key s3cret"},
            {"Authorization": "bearer s3cret"},
            [("Authorization", "Bearer s3cret"), ("Authorization", "Api-Key s3cret")],
            {"Authorization": "Bearer s3cr\u00e9t"},
            [("Authorization", "Bearer s3cret")] * 2,
        ):
            with pytest.raises(InvalidStatus) as refused:
                connect(server.url, additional_headers=headers)
            assert refused.value.response.status_code == 401
        assert get(server, "/healthz")[0] == 200
        with pytest.raises(urllib.error.HTTPError, match="401"):
            get(server, "/metrics")
        assert get(server, "/metrics", Authorization="Bearer s3cret")[0] == 200
        with PolicyClient(server.url, "s3cret") as client:
            client.reset("")
        # As LingBot-VA's and openpi's clients say it.
        with connect(server.url, additional_headers={"Authorization": "Api-Key s3cret"}) as connection:
            assert msgpack.unpackb(connection.recv())["controls"] == 4
        assert server.metrics()["sessions"]["served"] == 2


def test_pages_in_a_browser_are_turned_away(server):
    with pytest.raises(InvalidStatus) as refused:
        connect(server.url, origin="http://evil.example")
    assert refused.value.response.status_code == 403


def test_an_oversize_message_ends_its_session_alone(server):
    with PolicyClient(server.url) as other:
        with connect(server.url) as connection:
            connection.recv()
            connection.send(msgpack.packb({"reset": True, "prompt": "x" * 2**20}))
            texts, code, _ = closing(connection)
        assert (texts, code) == ([], 1009)
        other.reset("")


def test_a_prompt_that_is_too_long_is_refused_and_its_session_goes_on(model, episode, monkeypatch):
    encoded = []
    monkeypatch.setattr(
        FrameCodec, "text", lambda self, prompt: encoded.append(prompt) or self._codec.text(prompt)[None]
    )
    prompt, observations = episode(5)
    options = ServerOptions(port=0, max_prompt_characters=40)
    with serving(model, options) as server, PolicyClient(server.url) as client, PolicyClient(server.url) as other:
        other.reset(prompt, seed=5)
        client.reset(prompt, seed=5)
        expected = client.infer(observations[0])
        for long in ("x" * 41, "\u00e9" * 10**6, "word " * 10**6):
            with pytest.raises(RuntimeError, match=f"a prompt may have 40 characters, this one has {len(long)}"):
                client.reset(long)
        client.reset(prompt.ljust(40), seed=5)
        for session in (client, other):
            assert_array_equal(session.infer(observations[0]), expected)
        assert server.metrics()["sessions"] == {"open": 2, "served": 2, "failed": 3}
        with pytest.raises(RuntimeError, match="40 characters"):
            client.reset("x" * 41)
        # The episode before is over: what comes next must not act out another instruction.
        with pytest.raises(RuntimeError, match="send reset with a prompt first"):
            client.infer(observations[0])
    assert max(map(len, encoded)) == 40


def test_errors_are_told_in_brief(server):
    for request in (
        {"reset": True, "prompt": {b"__ndarray__": True, b"dtype": "<" * 10**5}},
        {"reset": True, "prompt": "", "seed": {"x" * 10**5: 1}},
        {"reset": [1] * 4000},
        {"obs": "y" * 10**5},
    ):
        with connect(server.url) as connection:
            connection.recv()
            connection.send(msgpack.packb(request))
            (text,), code, _ = closing(connection)
        assert len(text) < 1100
        assert code == 1011


def test_a_silent_session_is_ended(model):
    with serving(model, ServerOptions(port=0, idle_seconds=0.3)) as server:
        with connect(server.url) as connection:
            connection.recv()
            texts, code, reason = closing(connection)
        assert (texts, code) == ([], 1008)
        assert "idle" in reason
        wait_for(lambda: not server.metrics()["sessions"]["open"])
        assert server.metrics()["sessions"]["open"] == 0


def test_no_more_than_so_many_sessions(model):
    with serving(model, ServerOptions(port=0, max_sessions=2)) as server:
        with PolicyClient(server.url) as first, PolicyClient(server.url) as second:
            with pytest.raises(RuntimeError, match="all 2 sessions are taken"):
                PolicyClient(server.url)
            first.reset("")
            second.reset("")
        wait_for(lambda: not server.metrics()["sessions"]["open"])
        with PolicyClient(server.url) as third:
            third.reset("")


def test_stopping_closes_sessions_and_frees_the_port(model):
    with serving(model) as server:
        connection = connect(server.url)
        connection.recv()
        server.stop()
        assert closing(connection)[1] == 1001
        port = server.port
    with serving(model, ServerOptions(port=port)) as again, PolicyClient(again.url) as client:
        assert again.port == port
        client.reset("")


def test_a_port_that_is_taken_is_an_error(server, model):
    with pytest.raises(OSError), serving(model, ServerOptions(port=server.port)):
        pass


@pytest.mark.parametrize("options", [{"port": -1}, {"idle_seconds": 0}, {"token": ""}, {"max_sessions": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ServerOptions(**options)


def test_a_server_open_to_others_without_token_warns(model, caplog):
    options = ServerOptions(port=0, host="0.0.0.0")
    assert ServerOptions().host == "127.0.0.1"
    server = PolicyServer(model, options)
    with caplog.at_level(logging.WARNING):
        with serving(model, options):
            pass
        with serving(model, replace(options, token="x")):
            pass
    assert server.port is None
    assert len([r for r in caplog.records if "set a token" in r.getMessage()]) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_signalled(checkpoint, model, episode, number, caplog):
    caplog.set_level(logging.INFO)
    expected = three_chunks(PolicySession(model), *episode(0), seed=0)

    def address():
        found = [re.search(r"serving tiny at (ws://127\.0\.0\.1:\d+)", r.getMessage()) for r in caplog.records]
        return next((match[1] for match in found if match), None)

    def use():
        try:
            wait_for(address)
            with PolicyClient(address()) as client:
                return three_chunks(client, *episode(0), seed=0), client.metadata["nfe"]
        finally:
            os.kill(os.getpid(), number)

    with ThreadPoolExecutor(1) as pool:
        used = pool.submit(use)
        assert main(["serve", str(checkpoint), "--port", "0", "--nfe", "1v/2a", "--device", "cpu"]) == 0
        chunks, nfe = used.result(10)
    assert_array_equal(chunks, expected)
    assert nfe == {"video": 1, "action": 2}
    assert any(re.search(r"session 1 +infer +video +p50", record.getMessage()) for record in caplog.records)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
