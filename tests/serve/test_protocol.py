# SPDX-License-Identifier: Apache-2.0
import pickle

import msgpack
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from flashwam.serve.protocol import Dialect, pack, read, unpack


def array(data=b"\x00\x01\x02\x03", dtype="|u1", shape=(2, 2), **more):
    return {b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape, **more}


def scalar(data, dtype):
    return {b"__npgeneric__": True, b"data": data, b"dtype": dtype}


def test_bytes_are_the_originals(golden_message):
    message, wire = golden_message
    assert pack(message) == wire


def test_the_originals_bytes_are_read(golden_message):
    message, wire = golden_message
    read = unpack(wire)
    assert list(read) == list(message)
    for got, sent in ((read["obs"]["k"], message["obs"]["k"]), (read["state"], message["state"])):
        assert got.dtype == sent.dtype
        assert_array_equal(got, sent, strict=True)
    assert (read["prompt"], read["reset"]) == ("p", True)
    assert isinstance(read["s"], np.float32)
    assert read["s"] == np.float32(1.5)


@pytest.mark.parametrize(
    "value",
    [
        np.arange(24, dtype="<i8").reshape(2, 3, 4)[:, ::2].transpose(2, 0, 1),
        np.zeros((0, 3), dtype="f2"),
        np.array(3.5),
        np.array([True, False]),
        np.arange(5, dtype=">f4"),
        np.array(["left", "up"]),
        np.uint8(255),
        np.bool_(True),
        np.int64(-(2**63)),
    ],
    ids=lambda value: f"{value.dtype.str}{list(value.shape)}",
)
def test_arrays_and_scalars_come_back_as_they_were(value):
    back = unpack(pack(value))
    assert type(back) is type(value)
    assert_array_equal(back, value, strict=True)


@pytest.mark.parametrize(
    "value", [np.array([None]), np.array([1j]), np.zeros(2, dtype="i4,f4"), np.complex64(1), np.array([{}])]
)
def test_what_cannot_be_sent_is_refused(value):
    with pytest.raises(ValueError, match="cannot be sent"):
        pack({"x": value})
    with pytest.raises(TypeError, match="plain values"):
        pack({"x": object()})


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


@pytest.mark.parametrize(
    "message",
    [
        array(dtype="|O", data=pickle.dumps(Bomb()), shape=(1,)),
        array(dtype="O"),
        *(
            array(dtype=kind, data=b"", shape=shape)
            for kind in ("|S0", "<U0", "<U00")
            for shape in ((2**31,), (), (0,))
        ),
        array(dtype="|V4", shape=(1,)),
        array(dtype="<c8", data=bytes(8), shape=(1,)),
        array(dtype="i4,f4", data=bytes(8), shape=(1,)),
        array(dtype="<M8[ns]", data=bytes(8), shape=(1,)),
        array(dtype="<f3", data=bytes(3), shape=(1,)),
        array(dtype="f4," * 10_000),
        array(dtype=None),
        array(dtype=b"|u1"),
        array(shape=(2, 3)),
        array(shape=(2,)),
        array(shape=(-2, -2)),
        array(shape=(4.0,)),
        array(shape=(True, 4)),
        array(shape=None),
        array(shape=b"\x02\x02"),
        array(shape=(2**40, 2**40), data=b""),
        array(shape=(2**62, 2**62, 0), data=b""),
        array(shape=[1] * 33 + [4]),
        array(data=[0, 1, 2, 3]),
        array(data="abcd"),
        {b"__ndarray__": True},
        scalar("1.5", "<f4"),
        scalar(b"x", "|u1"),
        scalar(256, "|u1"),
        scalar(float("nan"), "<i4"),
        scalar(1.5, "<i4"),
        scalar({}, "|O"),
        scalar(None, "<f8"),
        {b"__npgeneric__": True},
        msgpack.ExtType(5, b"x"),
        msgpack.Timestamp(1),
        [0] * 4097,
        [[0] * 4000 for _ in range(20)],
        [[[]] * 4000 for _ in range(20)],
        {str(i): i for i in range(4097)},
    ],
    ids=lambda message: str(message)[:50],
)
def test_foreign_content_is_refused(message):
    with pytest.raises(ValueError):
        unpack(msgpack.packb({"x": message}))


@pytest.mark.parametrize("depth", [17, 900, 100_000])
def test_absurd_nesting_is_refused(depth):
    for opening in (b"\x91", b"\x81\xa1x"):
        with pytest.raises(ValueError):
            unpack(opening * depth + b"\xc0")
    # Lists that say they are long and never come would be made room for, level by level.
    with pytest.raises(ValueError):
        unpack(b"\xdd\x7f\xff\xff\xff" * depth)


def test_ordinary_nesting_is_read():
    message = {"obs": [{"cam": np.zeros((1, 1, 3), np.uint8), "deep": [[[[1]]]]}]}
    assert unpack(pack(message))["obs"][0]["deep"] == [[[[1]]]]


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\xa5abc", b"\xc0\xc0", b"\xa1\xff", b"\x81\x01\x02", b"\x81\x80\x01"])
def test_broken_messages_are_refused(data):
    with pytest.raises(ValueError):
        unpack(data)


def test_every_cut_of_a_message_is_refused(golden_message):
    _, wire = golden_message
    for end in range(len(wire)):
        with pytest.raises(ValueError):
            unpack(wire[:end])


DIALECTS = [Dialect(text=text, foreign=foreign) for text in (False, True) for foreign in (False, True)]


def foreign(data=b"\x00\x01\x02\x03", kind=b"", shape=(2, 2), *, text=False, **more):
    """As the package msgpack-numpy packs an array."""
    fields = {"nd": True, "type": "|u1", "kind": kind, "shape": shape, "data": data, **more}
    return fields if text else {key.encode(): value for key, value in fields.items()}


@pytest.mark.parametrize("text", [False, True])
def test_arrays_of_the_other_dialect_are_read(text):
    message, dialect = read(msgpack.packb({"x": foreign(text=text), "y": [foreign(text=text, kind="", shape=(4,))]}))
    assert_array_equal(message["x"], np.arange(4, dtype=np.uint8).reshape(2, 2), strict=True)
    assert_array_equal(message["y"][0], np.arange(4, dtype=np.uint8), strict=True)
    assert dialect == Dialect(text=text, foreign=True)
    scalar = {"nd": False, "type": "<f4", "data": np.float32(1.5).tobytes()}
    read_back = unpack(msgpack.packb(scalar if text else {key.encode(): x for key, x in scalar.items()}))
    assert (type(read_back), read_back) == (np.float32, 1.5)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "value",
    [
        np.arange(6, dtype=">i2").reshape(2, 3).T,
        np.zeros((0, 3)),
        np.array(2.5),
        np.int8(-3),
        np.bool_(True),
    ],
)
def test_every_dialect_comes_back_and_says_which_it_is(dialect, value):
    message, found = read(pack({"x": value}, dialect=dialect))
    assert type(message["x"]) is type(value)
    assert_array_equal(message["x"], value, strict=True)
    assert found == dialect
    assert read(pack({"x": 1, "nd": True})) == ({"x": 1, "nd": True}, None)


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        {"kind": b"O", "type": "|O", "data": pickle.dumps(Bomb())},
        {"kind": "O", "data": pickle.dumps(Bomb())},
        {"kind": b"V", "type": [["a", "<f4"]]},
        {"kind": 1},
        {"type": "|O"},
        {"type": "|V4", "shape": (1,)},
        {"type": "<c8", "data": bytes(8), "shape": (1,)},
        {"type": b"|u1"},
        {"type": [["a", "<f4"]]},
        {"shape": (2, 3)},
        {"shape": (-2, -2)},
        {"shape": (2**40, 2**40)},
        {"shape": (2**62, 2**62, 0), "data": b""},
        {"type": "|S0", "shape": (2**31,), "data": b""},
        {"nd": False, "type": "<U0", "data": bytes(4)},
        {"shape": [1] * 33 + [4]},
        {"shape": (True, 4)},
        {"shape": 4},
        {"shape": None},
        {"data": "abcd"},
        {"data": [0, 1, 2, 3]},
        {"nd": False},
        {"nd": False, "type": "|O", "data": bytes(8)},
        {"nd": False, "type": "<f8", "data": bytes(4)},
    ],
    ids=lambda change: str(change)[:40],
)
def test_what_the_other_dialect_must_not_bring_is_refused(change, text):
    with pytest.raises(ValueError):
        unpack(msgpack.packb({"x": foreign(text=text, **change)}))


@pytest.mark.parametrize(
    "message",
    [
        array(dtype="|O"),
        array(shape=(2, 3)),
        array(shape=(2**40, 2**40), data=b""),
        scalar(256, "|u1"),
        scalar({}, "|O"),
    ],
)
def test_keys_of_text_are_held_to_the_same(message):
    with pytest.raises(ValueError):
        unpack(msgpack.packb({key.decode(): value for key, value in message.items()}))
