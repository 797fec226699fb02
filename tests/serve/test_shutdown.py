# SPDX-License-Identifier: Apache-2.0
"""The end of a server: who is answered, who is not waited for, and that a second signal does not ask."""

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from numpy.testing import assert_array_equal
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from wire import wait_for

from flashwam.serve import server as server_module
from flashwam.serve.client import PolicyClient
from flashwam.serve.codec import FrameCodec
from flashwam.serve.options import ServerOptions
from flashwam.serve.protocol import pack
from flashwam.serve.server import PolicyServer, serve, serving
from flashwam.serve.session import PolicySession


def test_who_has_asked_is_answered_and_everyone_else_is_told(slow, model, episode):
    slow_model, entered, go_on = slow
    prompt, observations = episode(2)
    alone = PolicySession(model)
    alone.reset(prompt, seed=2)
    with ThreadPoolExecutor(2) as pool, serving(slow_model) as server:
        # The second waits for the first in the worker's queue; the third has asked for nothing.
        clients = [PolicyClient(server.url) for _ in range(3)]
        for client in clients[:2]:
            client.reset(prompt, seed=2)
        answers = [pool.submit(clients[0].infer, observations[0])]
        assert entered.wait(10)
        answers.append(pool.submit(clients[1].infer, observations[0]))
        while server._worker._work_queue.empty():
            time.sleep(0.005)
        server.stop()
        with pytest.raises(RuntimeError, match="1001"):
            clients[2]._receive()
        with pytest.raises(OSError):
            PolicyClient(server.url)
        assert not any(answer.done() for answer in answers)
        go_on.set()
        expected = alone.infer(observations[0])
        for client, answer in zip(clients, answers, strict=False):
            assert_array_equal(answer.result(10), expected)
            with pytest.raises(RuntimeError, match="1001"):
                client.infer()
    assert server.metrics()["sessions"] == {"open": 0, "served": 3, "failed": 0}


@pytest.mark.parametrize("behind", [1, 6])
def test_requests_that_have_arrived_one_behind_another_are_answered(slow, model, episode, behind):
    """A robot's pictures and its question for the next chunk; what it asks after it has heard the answers is not."""
    slow_model, entered, go_on = slow
    prompt, observations = episode(2)
    alone = PolicySession(model)
    alone.reset(prompt, seed=2)
    chunk = alone.infer(observations[0])
    alone.refresh(observations[1:2], chunk)
    expected = alone.infer()
    go_on.set()
    with serving(slow_model) as server, PolicyClient(server.url) as client:
        client.reset(prompt, seed=2)
        client.infer(observations[0])
        entered.clear()
        go_on.clear()
        client.infer_ahead(observations[1:2], chunk)
        for _ in range(behind - 1):
            client.infer_ahead([observations[2], observations[3]], chunk)
        assert entered.wait(10)
        wait_for(lambda: not client._sender.seconds and client._sender._waiting.empty())
        server.stop()
        wait_for(server._stopping.is_set)
        go_on.set()
        assert_array_equal(client.answer(), expected)
        for _ in range(behind - 1):
            assert client.answer().shape == expected.shape
        with pytest.raises(RuntimeError, match="1001"):
            client.reset(prompt)
    assert server.metrics()["sessions"] == {"open": 0, "served": 1, "failed": 0}


def test_a_client_that_sends_and_sends_does_not_keep_a_server_from_stopping(model):
    done = threading.Event()

    def talk(url):
        with connect(url) as connection, contextlib.suppress(ConnectionClosed):
            # There is one behind every one that is answered.
            for _ in range(3):
                connection.send(pack({"reset": True, "prompt": ""}))
            while not done.is_set():
                connection.recv(10)
                connection.send(pack({"reset": True, "prompt": ""}))

    with serving(model) as server, ThreadPoolExecutor(1) as pool:
        pool.submit(talk, server.url)
        wait_for(lambda: server.metrics()["latency"])
        server.stop()
        try:
            wait_for(lambda: not server.metrics()["sessions"]["open"])
        finally:
            done.set()


def test_the_machine_of_a_client_that_says_nothing_is_asked_after(server):
    with socket.create_connection(("127.0.0.1", server.port), 10):
        wait_for(lambda: server._opening)
        (transport,) = server._opening
        peer = transport.get_extra_info("socket")
        assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        for name, most in (("TCP_KEEPIDLE", 30), ("TCP_USER_TIMEOUT", 60_000)):
            if hasattr(socket, name):
                assert 0 < peer.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) <= most


def test_who_has_not_shaken_hands_is_not_waited_for(model):
    begun = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
    with serving(model, ServerOptions(port=0, token="s3cret")) as server:
        halves = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(6)]
        for half in halves[::2]:
            half.sendall(begun)
        with PolicyClient(server.url, "s3cret") as client:
            client.reset("")
            while len(server._opening) < 6:
                time.sleep(0.005)
            server.stop()
            for half in halves:
                # Left alone they would be held for the ten seconds that a handshake may take.
                half.settimeout(8)
                with contextlib.suppress(ConnectionResetError):
                    assert half.recv(1) == b""
                half.close()
    assert not server._opening


def test_a_server_that_is_interrupted_while_it_warms_up_is_not_warmed_to_the_end(model, monkeypatch):
    ended = []

    def endless(model, *, sessions, stopped):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        while not stopped():
            time.sleep(0.005)
        ended.append(sessions)

    monkeypatch.setattr(server_module, "warm_up", endless)
    # A process in the background may have been told to ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), serving(model, ServerOptions(port=0, max_sessions=2)):
            raise AssertionError("it does not serve")
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended == [2]
    assert not [thread for thread in threading.enumerate() if thread.name == "policy server"]


def test_a_server_that_is_stopped_before_it_runs_does_not_serve(model):
    server = PolicyServer(model, ServerOptions(port=0))
    server.stop()
    runner = threading.Thread(target=lambda: asyncio.run(server.run()))
    runner.start()
    runner.join(10)
    assert not runner.is_alive()


class Told(logging.Handler):
    """Sends what a server says of its address through a pipe."""

    def __init__(self, pipe):
        super().__init__()
        self._pipe = pipe

    def emit(self, record):
        if record.msg.startswith("serving"):
            self._pipe.send(record.args[1])


def _served(model, pipe):
    """In a process of its own: what it computes does not end."""

    class Endless(FrameCodec):
        def encode(self, observations):
            pipe.send("computing")
            time.sleep(60)

    codec = model.codec()._codec
    logger = logging.getLogger("flashwam.serve.server")
    logger.addHandler(Told(pipe))
    logger.setLevel(logging.INFO)
    serve(replace(model, codec=lambda: Endless(codec, size=(64, 64))), ServerOptions(port=0))


@pytest.mark.parametrize(("first", "second"), [(signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGINT)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_second_signal_ends_a_long_computation_at_once(model, episode, first, second):
    prompt, observations = episode(2)
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_served, args=(model, there))
    process.start()
    try:
        assert here.poll(20)
        url = here.recv()
        with PolicyClient(url) as idle, PolicyClient(url) as busy, ThreadPoolExecutor(1) as pool:
            busy.reset(prompt)
            answer = pool.submit(busy.infer, observations[0])
            assert here.poll(10)
            assert here.recv() == "computing"
            os.kill(process.pid, first)
            # The first signal has arrived; the computation goes on, and its client is waited for.
            with pytest.raises(RuntimeError, match="1001"):
                idle._receive()
            assert process.is_alive()
            assert not answer.done()
            os.kill(process.pid, second)
            process.join(20)
            assert process.exitcode == -second
            with pytest.raises(RuntimeError, match="ended the session"):
                answer.result(10)
    finally:
        process.kill()
        process.join()
