# SPDX-License-Identifier: Apache-2.0
"""A robot before a server that reads or answers no more: it is told so in time, and never waits for a message to go."""

import time

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from wire import foreign, frozen, within

from flashwam.data.episodes import CAMERA
from flashwam.serve.ahead import ChunkStream
from flashwam.serve.client import PolicyClient
from flashwam.serve.protocol import pack, unpack

GREETING = {"takes_looks": True, "takes_under_way": True}
CHUNK = {"action": np.ones((4, 2, 4), np.float32)}
SMALL = {CAMERA: np.zeros((8, 8, 3), np.uint8)}
LARGE = {CAMERA: np.zeros((4096, 2048, 3), np.uint8)}
"""More than a socket takes from who sends it to who does not read."""
SOON = 8
"""Seconds in which a call must end that is to end at once or after a part of a second."""


def test_a_robot_that_asks_again_and_again_is_told_that_no_chunk_comes():
    with frozen(GREETING, {}, CHUNK) as url, PolicyClient(url, timeout=0.5) as client:
        stream = ChunkStream(client)
        stream.begin("p", SMALL)
        stream.next()
        stream.saw([SMALL])

        def drive():
            while stream.next(wait=False) is None:
                time.sleep(0.005)

        with pytest.raises(TimeoutError, match=r"has not answered within 0.5 s"):
            within(SOON, drive)
        with pytest.raises(RuntimeError, match="ended the session"):
            stream.begin("p", SMALL)


@pytest.mark.parametrize("wait", [False, True])
def test_a_chunk_that_has_come_is_taken_however_late_the_robot_asks_for_it(wait):
    with frozen(GREETING, {}, CHUNK, {}, CHUNK) as url, PolicyClient(url, timeout=0.1) as client:
        stream = ChunkStream(client, under_way=0)
        stream.begin("p", SMALL)
        stream.next()
        stream.saw([SMALL])
        time.sleep(0.5)
        assert stream.next(wait=wait).shape == (4, 4)


@pytest.mark.parametrize("observation", [SMALL, LARGE], ids=["small", "large"])
def test_who_waits_is_told_in_time_whether_the_message_has_gone_or_not(observation):
    with frozen(GREETING, {}) as url, PolicyClient(url, timeout=0.3) as client:
        client.reset("p")
        with pytest.raises(TimeoutError, match=r"has not answered within 0.3 s"):
            within(SOON, lambda: client.infer(observation))
        with pytest.raises(RuntimeError, match="ended the session"):
            within(SOON, client.infer)


def test_nobody_waits_for_pictures_to_go_and_what_is_stuck_is_given_up():
    with frozen(GREETING, {}, CHUNK) as url, PolicyClient(url, timeout=1) as client:
        client.reset("p")
        chunk = client.infer(SMALL)
        within(SOON, lambda: client.look([LARGE]))
        within(SOON, lambda: client.infer_ahead([LARGE], chunk))
        assert client.answer(wait=False) is None

        def go_on():
            while True:
                client.look([SMALL])
                time.sleep(0.01)

        with pytest.raises(TimeoutError, match="has not answered within 1 s"):
            within(SOON, go_on)


@pytest.mark.parametrize("observation", [SMALL, LARGE], ids=["small", "large"])
def test_a_session_ends_although_the_server_takes_nothing(observation):
    with frozen(GREETING) as url:
        client = PolicyClient(url)
        client.look([observation])
        within(SOON, client.close)
        with pytest.raises(RuntimeError, match="ended the session"):
            within(SOON, client.infer)


def test_everything_that_was_asked_for_goes_in_order_before_the_session_ends():
    taken = []

    def converse(connection):
        connection.send(pack(GREETING))
        try:
            while True:
                taken.append(unpack(connection.recv())["obs"][0][CAMERA])
        except ConnectionClosed:
            taken.append(None)

    with foreign(converse) as url:
        with PolicyClient(url) as client:
            # In memory that the robot goes on to use.
            picture = np.zeros((1024, 1024, 3), np.uint8)
            for number in range(6):
                picture[:] = number
                client.look([{CAMERA: picture}])
        deadline = time.monotonic() + 10
        while (not taken or taken[-1] is not None) and time.monotonic() < deadline:
            time.sleep(0.005)
    assert [picture if picture is None else (picture.min(), picture.max()) for picture in taken] == [
        *((number, number) for number in range(6)),
        None,
    ]


def test_what_keeps_a_message_from_going_is_told_at_the_next_call(monkeypatch):
    def send(message):
        raise MemoryError("no room")

    with frozen(GREETING) as url, PolicyClient(url) as client:
        monkeypatch.setattr(client._connection, "send", send)
        client.look([SMALL])
        for _ in range(2):
            with pytest.raises(RuntimeError, match="ended the session: no room"):
                within(SOON, client.infer)
