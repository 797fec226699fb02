# SPDX-License-Identifier: Apache-2.0
"""A session that is over, however it ended: every call says so, however often it is made, and none waits."""

import contextlib

import numpy as np
import pytest
from wire import foreign, frozen, within

from flashwam.data.episodes import CAMERA
from flashwam.serve.ahead import ChunkStream
from flashwam.serve.client import PolicyClient
from flashwam.serve.protocol import pack

GREETING = {"takes_looks": True, "takes_under_way": True}
STATE = np.ones((4, 2, 4), np.float32)
CHUNK = {"action": STATE}
SEEN = {CAMERA: np.zeros((8, 8, 3), np.uint8)}
SOON = 8
"""Seconds in which a call must end that is to end at once or after a part of a second."""

CALLS = {
    "reset": lambda client, stream: client.reset("p"),
    "infer": lambda client, stream: client.infer(SEEN),
    "infer_ahead": lambda client, stream: client.infer_ahead([SEEN], STATE),
    "answer": lambda client, stream: client.answer(),
    "answer at once": lambda client, stream: client.answer(wait=False),
    "look": lambda client, stream: client.look([SEEN]),
    "look and wait": lambda client, stream: client.look([SEEN], wait=True),
    "refresh": lambda client, stream: client.refresh([SEEN], STATE),
    "begin": lambda client, stream: stream.begin("p", SEEN),
    "next": lambda client, stream: stream.next(),
    "next at once": lambda client, stream: stream.next(wait=False),
    "saw": lambda client, stream: stream.saw([SEEN]),
}


@contextlib.contextmanager
def late():
    """A server that never answers what is asked for ahead."""
    with frozen(GREETING, {}, CHUNK) as url, PolicyClient(url, timeout=0.3) as client:
        stream = begun(client)
        stream.saw([SEEN])
        with pytest.raises(TimeoutError, match=r"has not answered within 0.3 s"):
            within(SOON, stream.next)
        yield client, stream


@contextlib.contextmanager
def left(*, owed):
    """A server that ends the session when the next chunk is asked for."""

    def converse(connection):
        connection.send(pack(GREETING))
        for reply in ({}, CHUNK):
            connection.recv()
            connection.send(pack(reply))
        connection.recv()
        connection.close(1001, "going away")

    with foreign(converse) as url, PolicyClient(url, timeout=5) as client:
        stream = begun(client)
        if owed:
            client.infer_ahead([SEEN], STATE)
        else:
            stream.saw([SEEN])
        with pytest.raises(RuntimeError, match=r"ended the session.*going away"):
            within(SOON, client.answer)
        yield client, stream


@contextlib.contextmanager
def closed(*, asked):
    """A client that has closed, with an answer that is still to come or with none."""
    with frozen(GREETING, {}, CHUNK) as url, PolicyClient(url, timeout=1) as client:
        stream = begun(client)
        if asked:
            stream.saw([SEEN])
        within(SOON, client.close)
        yield client, stream


def begun(client):
    stream = ChunkStream(client)
    stream.begin("p", SEEN)
    stream.next()
    return stream


ENDS = {
    "late": (late, "this client has ended the session.*had not answered within 0.3 s"),
    "left": (lambda: left(owed=False), "ended the session.*going away"),
    "left, with a frame to tell of": (lambda: left(owed=True), "ended the session.*going away"),
    "closed": (lambda: closed(asked=False), "this client has ended the session.*was closed"),
    "closed, with an answer to come": (lambda: closed(asked=True), "this client has ended the session.*was closed"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(("end", "told"), ENDS.values(), ids=ENDS)
def test_every_call_says_each_time_that_the_session_is_over(end, told, call):
    with end() as (client, stream):
        for _ in range(3):
            with pytest.raises(RuntimeError, match=told):
                within(SOON, lambda: call(client, stream))


@pytest.mark.parametrize(("end", "told"), ENDS.values(), ids=ENDS)
def test_whatever_order_the_calls_come_in(end, told):
    with end() as (client, stream):
        for call in (*CALLS.values(), *reversed(CALLS.values())):
            with pytest.raises(RuntimeError, match=told):
                within(SOON, lambda call=call: call(client, stream))
            within(SOON, client.drop_answer)
        for _ in range(2):
            within(SOON, client.close)
