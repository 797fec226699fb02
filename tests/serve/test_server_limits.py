# SPDX-License-Identifier: Apache-2.0
"""Clients that the server admits, requests that it refuses, and the way it stops."""

import logging
import os
import re
import signal
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import msgpack
import pytest
from numpy.testing import assert_array_equal
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from wire import closing, get, three_chunks, wait_for

from flashwam.cli import main
from flashwam.serve.client import PolicyClient
from flashwam.serve.codec import FrameCodec
from flashwam.serve.options import ServerOptions
from flashwam.serve.server import PolicyServer, serving
from flashwam.serve.session import PolicySession
from flashwam.system.errors import FailedError, InputError, MissingFileError, MissingPackageError


def test_only_the_token_opens(model):
    with serving(model, ServerOptions(port=0, token="s3cret")) as server:
        for token in (None, "s3cre", "s3cret2", "S3CRET"):
            with pytest.raises(RuntimeError, match="401"):
                PolicyClient(server.url, token)
        for headers in (
            {"Authorization": "s3cret"},
            {"Authorization": "Bearer "},
            {"Authorization": "Bearer s3cret s3cret"},
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
        assert server.metrics()["sessions"] == {"open": 2, "served": 2, "failed": 1}
        assert server.metrics()["failed_requests"] == 3
        with pytest.raises(RuntimeError, match="40 characters"):
            client.reset("x" * 41)
        # The episode before is over: what comes next must not act out another instruction.
        with pytest.raises(RuntimeError, match="send reset with a prompt first"):
            client.infer(observations[0])
    assert max(map(len, encoded)) == 40


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            MissingFileError("'x' is not among those in /srv/text_cache: embed it"),
            "FileNotFoundError: .* in <path>: embed",
        ),
        (MissingPackageError("prompts are cleaned with ftfy: pip install ftfy"), "ImportError: .*pip install ftfy"),
        (FailedError("transformers differs"), "RuntimeError: transformers differs"),
        (InputError("/srv/text_cache/a is damaged"), "ValueError: <path> is damaged"),
    ],
)
def test_a_prompt_that_cannot_be_embedded_is_told_and_its_session_goes_on(model, episode, error, told, caplog):
    class Few(FrameCodec):
        def text(self, prompt):
            if prompt == "new":
                raise error
            return super().text(prompt)

    codec = model.codec()._codec
    prompt, observations = episode(5)
    with serving(replace(model, codec=lambda: Few(codec, size=(64, 64)))) as server, PolicyClient(server.url) as client:
        client.reset(prompt, seed=5)
        expected = client.infer(observations[0])
        for _ in range(2):
            with pytest.raises(RuntimeError, match=told) as refused:
                client.reset("new")
            assert "srv" not in str(refused.value)
            # The episode before is over: what comes next must not act out another instruction.
            with pytest.raises(RuntimeError, match="send reset with a prompt first"):
                client.infer(observations[0])
        client.reset(prompt, seed=5)
        assert_array_equal(client.infer(observations[0]), expected)
    assert "Traceback" not in caplog.text


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
