# SPDX-License-Identifier: Apache-2.0
"""Parts that tests of the server share: three chunks of a client, and the wire as a foreign client writes it."""

import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve as listen

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
