# SPDX-License-Identifier: Apache-2.0
"""Mutated messages: each is answered or refused, none crashes anything, and no other session notices."""

import logging
import random
import socket
import time
from collections import Counter

import msgpack
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from flashwam.data.episodes import CAMERA
from flashwam.serve.answers import answer
from flashwam.serve.client import PolicyClient
from flashwam.serve.model import load_served
from flashwam.serve.protocol import pack, unpack
from flashwam.serve.session import PolicySession

COUNT = 6_000
OVER_A_SOCKET = 250

ODD = [
    None,
    True,
    -1,
    0,
    2**63,
    -(2**63),
    1e308,
    float("nan"),
    "",
    "|O",
    "<f4",
    "x" * 3000,
    b"",
    b"\x80\x04.",
    [],
    {},
    [[[[[[]]]]]],
    {"__ndarray__": True},
    {b"__ndarray__": True},
    {b"__ndarray__": True, b"data": b"", b"dtype": "<f4", b"shape": [0, 2**40]},
    {b"__ndarray__": True, b"data": bytes(128), b"dtype": "<f4", b"shape": [4, 2, 4]},
    {b"__ndarray__": True, b"data": b"\xff" * 128, b"dtype": "<f4", b"shape": [4, 2, 4]},
    {b"__ndarray__": True, b"data": bytes(8), b"dtype": "|O", b"shape": [1]},
    {b"__npgeneric__": True, b"data": 2**40, b"dtype": "|u1"},
    {b"__npgeneric__": True, b"data": True, b"dtype": "|b1"},
    {b"nd": True, b"type": "<f4", b"kind": b"", b"data": bytes(128), b"shape": [4, 2, 4]},
    {b"nd": True, b"type": "<f4", b"kind": b"", b"data": b"", b"shape": [0, 2**40]},
    {"nd": True, "type": "|O", "kind": b"O", "data": b"\x80\x04.", "shape": [1]},
    {b"nd": False, b"type": "|b1", b"data": b"\x01"},
    {"__ndarray__": True, "data": bytes(128), "dtype": "<f4", "shape": [4, 2, 4]},
    msgpack.ExtType(3, b"abc"),
    msgpack.Timestamp(0),
    ["nested"] * 5000,
]


def corpus(episode):
    """Requests as a client sends them."""
    prompt, observations = episode(0)
    state = np.zeros((4, 2, 4), np.float32)
    return [
        pack({"reset": True, "prompt": prompt, "seed": 4}),
        pack({"obs": observations[0], "prompt": prompt, "save_visualization": False}),
        pack({"obs": observations[1:2], "compute_kv_cache": True, "imagine": False, "state": state}),
        pack({"obs": observations[1:3], "compute_kv_cache": True, "imagine": False, "state": state}),
    ]


def mutated(draw: random.Random, messages: list[bytes]) -> bytes:
    """One message with a few of its bytes, or one of its values, changed."""
    wire = draw.choice(messages)
    if draw.random() < 0.4:
        return restructured(draw, wire)
    data = bytearray(wire)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        if not data:
            break
        # Most bytes are pixels, whose change is none; the ends hold keys, types and shapes.
        at = draw.choice((draw.randrange(min(len(data), 90)), -draw.randrange(1, min(len(data), 250) + 1)))
        at = draw.randrange(len(data)) if draw.random() < 0.1 else at % len(data)
        kind = draw.randrange(6)
        if kind == 0:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[at] = draw.randrange(256)
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            data[at:at] = draw.randbytes(draw.randrange(1, 9))
        elif kind == 4:
            del data[at : at + draw.randrange(1, 9)]
        else:
            other = draw.choice(messages)
            data[at:] = other[draw.randrange(len(other)) :]
    return bytes(data)


def restructured(draw: random.Random, wire: bytes) -> bytes:
    message = msgpack.unpackb(wire)
    node = message
    while True:
        key = draw.choice(list(node) if isinstance(node, dict) else range(len(node)))
        if isinstance(node[key], (dict, list)) and node[key] and draw.random() < 0.7:
            node = node[key]
            continue
        break
    if draw.random() < 0.25 and isinstance(node, dict):
        del node[key]
    else:
        node[key] = draw.choice(ODD)
    return msgpack.packb(message)


@pytest.fixture(scope="module")
def quick(checkpoint):
    """One step per stream."""
    return load_served(checkpoint, nfe="1v/1a")


def test_thousands_of_mutated_messages_are_answered_or_refused(quick, episode):
    draw, messages = random.Random(0), corpus(episode)
    prompt, observations = episode(9)
    alone = PolicySession(quick)
    alone.reset(prompt, seed=9)
    bystander, expected = PolicySession(quick), [alone.infer(observations[0])]
    alone.refresh(observations[1:2], expected[0])
    expected.append(alone.infer())
    bystander.reset(prompt, seed=9)
    assert_array_equal(bystander.infer(observations[0]), expected[0])

    session, outcomes, longest = PolicySession(quick), Counter(), 0
    for number in range(COUNT):
        # A server drops a session after an error; here it must stand even what follows.
        if number % 20 == 0:
            answer(session, messages[0], 0.0, None)
            answer(session, messages[1], 0.0, None)
        wire = mutated(draw, messages)
        try:
            kind, reply, _ = answer(session, wire, time.perf_counter(), None)
        except (ValueError, TypeError) as error:
            longest = max(longest, len(str(error)))
            outcomes["refused"] += 1
        else:
            assert "server_timing" in unpack(reply)
            outcomes[kind] += 1
    assert outcomes.total() == COUNT
    assert longest < 1000
    assert outcomes["refused"] > COUNT / 2
    assert min(outcomes[kind] for kind in ("reset", "infer", "refresh")) > COUNT / 200
    bystander.refresh(observations[1:2], expected[0])
    assert_array_equal(bystander.infer(), expected[1])


def test_mutated_messages_over_a_socket(server, model, episode, caplog):
    draw, messages = random.Random(1), corpus(episode)
    prompt, observations = episode(9)
    alone = PolicySession(model)
    alone.reset(prompt, seed=9)
    expected = alone.infer(observations[0])
    outcomes = Counter()
    with PolicyClient(server.url) as bystander:
        bystander.reset(prompt, seed=9)
        sent = 0
        while sent < OVER_A_SOCKET:
            with connect(server.url, compression=None, max_size=None) as attacker:
                attacker.recv(10)
                for wire in messages[:2]:
                    attacker.send(wire)
                    attacker.recv(10)
                while sent < OVER_A_SOCKET:
                    sent += 1
                    attacker.send(mutated(draw, messages))
                    answer = attacker.recv(10)
                    outcomes["text" if isinstance(answer, str) else "reply"] += 1
                    if isinstance(answer, str):
                        with pytest.raises(ConnectionClosed) as closed:
                            attacker.recv(10)
                        assert closed.value.rcvd.code == 1011
                        break
        assert_array_equal(bystander.infer(observations[0]), expected)
    assert outcomes["text"] > OVER_A_SOCKET / 2
    assert outcomes["reply"] > 10
    assert not [r for r in caplog.records if r.name.startswith("flashwam") and r.levelno >= logging.ERROR]


def test_what_is_no_websocket_at_all_harms_nobody(server, episode, caplog):
    caplog.set_level(logging.CRITICAL, logger="websockets")
    draw = random.Random(2)
    prompt, observations = episode(3)
    upgrade = (
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    for number in range(60):
        with socket.create_connection(("127.0.0.1", server.port), 10) as raw:
            if number % 3 == 0:
                raw.sendall(draw.randbytes(200))
            elif number % 3 == 1:
                raw.sendall(upgrade[: draw.randrange(len(upgrade))])
            else:
                # A session whose frames are noise, cut off without a closing handshake.
                raw.sendall(upgrade + draw.randbytes(300))
    with PolicyClient(server.url) as client:
        client.reset(prompt)
        assert client.infer({CAMERA: observations[0][CAMERA]}).shape == (4, 2, 4)
