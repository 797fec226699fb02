# SPDX-License-Identifier: Apache-2.0
"""A client's long messages go in many frames, and are one message to any server."""

from contextlib import contextmanager, suppress

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from websockets.exceptions import ConnectionClosed
from wire import foreign

from flashwam.data.episodes import CAMERA
from flashwam.serve.client import PolicyClient
from flashwam.serve.options import ServerOptions
from flashwam.serve.protocol import pack, unpack
from flashwam.serve.sending import PIECE, in_pieces
from flashwam.serve.server import serving


@contextmanager
def frames_of_messages():
    """A server that takes everything in, and the frames of every message that came to it."""
    taken = []

    def converse(connection):
        connection.send(pack({}))
        with suppress(ConnectionClosed):
            while True:
                taken.append(list(connection.recv_streaming()))
                connection.send(pack({}))

    with foreign(converse) as url:
        yield url, taken


@pytest.mark.parametrize("length", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE])
def test_pieces_are_the_message(length):
    message = np.random.default_rng(length).bytes(length)
    pieces = list(in_pieces(message))
    assert b"".join(pieces) == message
    assert [len(piece) for piece in pieces] == [PIECE] * (length // PIECE) + [length % PIECE] * (length % PIECE > 0)


def test_a_long_message_goes_in_frames_of_a_piece_and_a_short_one_in_one():
    picture = np.random.default_rng(0).integers(0, 256, (PIECE, 3), np.uint8)
    with frames_of_messages() as (url, taken), PolicyClient(url) as client:
        client.reset("short")
        client.refresh([{CAMERA: picture}], np.zeros((1, 1, 1), np.float32))
    short, long = taken
    lengths = [len(frame) for frame in long]
    assert lengths[:3] == [PIECE] * 3
    # The last one says that there is no more, and is empty.
    assert 0 < lengths[3] < PIECE
    assert lengths[4:] == [0]
    assert_array_equal(unpack(b"".join(long))["obs"][0][CAMERA], picture)
    assert len(short) == 1


def test_a_server_answers_a_long_message_and_refuses_one_beyond_its_bound(model, episode):
    prompt, observations = episode(0)
    # What no model looks at is sent all the same.
    long = {**observations[0], "more": np.zeros(2 * PIECE, np.uint8)}
    with serving(model, ServerOptions(port=0, max_message_bytes=5 * PIECE)) as server:
        with PolicyClient(server.url) as client:
            client.reset(prompt, seed=1)
            plain = client.infer(observations[0])
            client.reset(prompt, seed=1)
            assert_array_equal(client.infer(long), plain)
        with PolicyClient(server.url) as client:
            client.reset(prompt, seed=1)
            with pytest.raises(RuntimeError, match="ended the session"):
                client.infer({**observations[0], "more": np.zeros(6 * PIECE, np.uint8)})
