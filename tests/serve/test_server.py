# SPDX-License-Identifier: Apache-2.0
import json
import logging
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import msgpack
import pytest
from numpy.testing import assert_array_equal
from websockets.sync.client import connect
from wire import SPANS, closing, from_nd, get, nd, three_chunks, wait_for

from flashwam.data.episodes import CAMERA
from flashwam.serve.client import PolicyClient
from flashwam.serve.codec import FrameCodec
from flashwam.serve.protocol import Dialect, pack, read
from flashwam.serve.server import serving
from flashwam.serve.session import PolicySession


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
