# SPDX-License-Identifier: Apache-2.0
"""Parts that tests of the server share: three chunks of a client, and the wire as a foreign client writes it."""

import queue
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve as listen
from websockets.utils import accept_key

from flashwam.serve.protocol import pack

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


@contextmanager
def foreign(converse):
    """The address of a server that is not ours: it calls `converse` with every connection."""
    with listen(converse, "127.0.0.1", 0, compression=None, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def frozen(*replies):
    """The address of a server that gives its replies before it is asked, and never reads what a client sends."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        # So that a long message does not fit into what the machine keeps of it.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        held = []

        def speak():
            peer, _ = listening.accept()
            held.append(peer)
            asked = b""
            while not asked.endswith(b"\r\n\r\n"):
                asked += peer.recv(4096)
            key = accept_key(re.search(r"Sec-WebSocket-Key: (\S+)", asked.decode())[1])
            upgrade = "Upgrade: websocket\r\nConnection: Upgrade"
            peer.sendall(f"HTTP/1.1 101 OK\r\n{upgrade}\r\nSec-WebSocket-Accept: {key}\r\n\r\n".encode())
            for message in map(pack, replies):
                peer.sendall(b"\x82\x7e" + len(message).to_bytes(2, "big") + message)

        thread = threading.Thread(target=speak, daemon=True)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            thread.join(10)
            for peer in held:
                peer.close()


def within(seconds, call):
    """Gives what a call returns or raises, and fails where it takes longer."""
    ended = queue.SimpleQueue()

    def run():
        try:
            ended.put((call(), None))
        except Exception as error:
            ended.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    value, error = ended.get(timeout=seconds)
    if error is not None:
        raise error
    return value


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


# These lines, and the client in test_server.py, are all that a foreign client knows: the protocol's text.
def nd(x):
    return {b"__ndarray__": True, b"data": x.tobytes(), b"dtype": x.dtype.str, b"shape": x.shape}


def from_nd(x):
    return np.frombuffer(x[b"data"], np.dtype(x[b"dtype"])).reshape(x[b"shape"]) if b"data" in x else x
