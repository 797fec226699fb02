# SPDX-License-Identifier: Apache-2.0
"""A proxy of the environment: it stands before no server that is near, and is named where it stands in the way."""

import socket
import threading
from contextlib import contextmanager

import pytest
from websockets.uri import parse_uri

from flashwam.serve import reaching
from flashwam.serve.client import PolicyClient
from flashwam.serve.reaching import is_near

NAMES = ("ws_proxy", "wss_proxy", "http_proxy", "https_proxy", "all_proxy", "socks_proxy", "no_proxy")
FAR = "ws://far.example:29536"


@pytest.fixture(autouse=True)
def _no_proxy_of_this_machine(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextmanager
def refusing():
    """A proxy that lets nothing pass: its address, and what it was asked."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def speak():
            peer, _ = listening.accept()
            with peer:
                asked.append(peer.recv(4096).decode())
                peer.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=speak, daemon=True).start()
        yield f"http://me:secret@127.0.0.1:{listening.getsockname()[1]}", asked


@pytest.mark.parametrize("name", ["http_proxy", "https_proxy", "HTTPS_PROXY", "ws_proxy"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_of_this_machine_is_reached_past_a_proxy(name, host, server, monkeypatch):
    monkeypatch.setenv(name, "http://127.0.0.1:1")
    with PolicyClient(server.url.replace("127.0.0.1", host)) as client:
        assert client.metadata["takes_looks"]


@pytest.mark.parametrize(
    ("host", "near"),
    [
        *((host, True) for host in ("127.0.0.1", "::1", "10.1.2.3", "172.16.0.9", "192.168.1.7", "169.254.3.4")),
        *((host, True) for host in ("fe80::1", "fd00::7", "100.64.1.2", "localhost", "robot", "robot.local", "robot.")),
        *((host, False) for host in ("8.8.8.8", "2600::1", "robot.example", "local.example", "10.example.com")),
    ],
)
def test_near_is_this_machine_and_its_own_network(host, near):
    assert is_near(host) is near


def test_a_proxy_that_refuses_is_named_without_its_password(monkeypatch):
    with refusing() as (proxy, asked):
        monkeypatch.setenv("https_proxy", proxy)
        port = proxy.rpartition(":")[2]
        with pytest.raises(
            RuntimeError, match=rf"refused the connection through the proxy 127.0.0.1:{port}"
        ) as refused:
            PolicyClient(FAR)
    assert asked[0].startswith("CONNECT far.example:29536 ")
    assert "no_proxy" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_proxy_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with pytest.raises(ConnectionError, match=r"through the proxy http://127.0.0.1:1 .*lets it pass, and start one"):
        PolicyClient(FAR)


@pytest.mark.parametrize("proxy", ["ftp://me:secret@127.0.0.1:1", "http://me@127.0.0.1:1"])
def test_what_is_no_proxy_is_named_as_that(proxy, monkeypatch):
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(ValueError, match=r"through the proxy 127.0.0.1:1 .*no address of a proxy") as refused:
        PolicyClient(FAR)
    assert "me" not in str(refused.value).split()
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(("scheme", "missing"), [("wss", "https_proxy"), ("ws", "http_proxy")])
def test_a_host_that_needs_none_meets_no_proxy(scheme, missing, monkeypatch):
    """The proxy that is named is the one that websockets takes."""
    get_proxy = pytest.importorskip("websockets.proxy").get_proxy
    url = f"{scheme}://far.example:29536"
    for environment in ({}, {missing: "http://p:1"}, {missing: "http://p:1", "no_proxy": "far.example"}):
        for name in (missing, "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert reaching._proxy(url) == get_proxy(parse_uri(url))
