# SPDX-License-Identifier: Apache-2.0
"""LingBot-VA's wire format: msgpack, with arrays and numpy scalars as maps whose keys are bytes.

    array   {b"__ndarray__": True, b"data": C-order bytes, b"dtype": "<f4", b"shape": [2, 3]}
    scalar  {b"__npgeneric__": True, b"data": 1.5, b"dtype": "<f4"}

What comes from the network is only ever turned into plain values and arrays. A small message cannot become a large
object: depth, list lengths and the number of items are bounded, and an array's bytes must be exactly its own.
"""

import math
import re
from typing import Any

import numpy as np

__all__ = ["pack", "unpack"]

_DTYPE = re.compile(r"[<>|=][biufSU][0-9]{1,6}")
_MAX_DEPTH = 16
_MAX_LENGTH = 4096
_MAX_ITEMS = 65_536
_MAX_DIMENSIONS = 32
_PLAIN = (type(None), bool, int, float, str, bytes, np.ndarray, np.generic)


def pack(message: Any) -> bytes:
    """Packs plain values, arrays and numpy scalars.

    Raises:
        ValueError: an array is of objects, records or complex numbers.
        TypeError: something else that the format does not have.
    """
    return _msgpack().packb(message, default=_encode)


def unpack(data: bytes) -> Any:
    """Unpacks one message; arrays are read-only views of `data`.

    Raises:
        ValueError: `data` is no complete message of this format, or exceeds its bounds.
    """
    items = 0

    def count(container: Any) -> Any:
        nonlocal items
        items += len(container)
        if items > _MAX_ITEMS:
            raise ValueError(f"a message holds at most {_MAX_ITEMS} items besides the contents of arrays")
        return container

    msgpack = _msgpack()
    try:
        message = msgpack.unpackb(
            data,
            object_hook=lambda values: _decode(count(values)),
            list_hook=count,
            ext_hook=_refuse_extension,
            max_array_len=_MAX_LENGTH,
            max_map_len=_MAX_LENGTH,
        )
    except Exception as error:
        if type(error) is ValueError:
            raise
        # The library has exceptions of its own for some broken input, not all with a text; a caller has one to catch.
        raise ValueError(f"this is no msgpack message: {type(error).__name__} {error}".rstrip()) from error
    _check(message)
    return message


def _msgpack() -> Any:
    try:
        import msgpack
    except ImportError as error:
        raise ImportError("the server and its client need msgpack: pip install 'flashwam[serve]'") from error
    return msgpack


def _encode(value: Any) -> Any:
    if not isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(f"a message holds plain values and numpy arrays; got {type(value).__name__}")
    if value.dtype.kind in "OVc":
        raise ValueError(f"arrays of dtype {value.dtype} cannot be sent; expected numbers, booleans or text")
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}


def _decode(values: dict[Any, Any]) -> Any:
    if b"__ndarray__" in values:
        return _array(values)
    if b"__npgeneric__" in values:
        return _scalar(values)
    return values


def _array(values: dict[Any, Any]) -> np.ndarray:
    dtype, data, shape = _dtype(values), values.get(b"data"), values.get(b"shape")
    if not isinstance(data, bytes):
        raise ValueError(f"an array's data must be bytes; got {type(data).__name__}")
    sides = isinstance(shape, list) and len(shape) <= _MAX_DIMENSIONS and all(type(n) is int and n >= 0 for n in shape)
    if not sides:
        raise ValueError(f"an array's shape must be a list of at most {_MAX_DIMENSIONS} sizes of at least 0")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"an array of shape {_shown(shape)} and dtype {dtype.str} cannot have {len(data)} bytes")
    try:
        return np.ndarray(shape, dtype, buffer=data)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"no array of shape {_shown(shape)} and dtype {dtype.str} can be: {error}") from error


def _scalar(values: dict[Any, Any]) -> np.generic:
    dtype, data = _dtype(values), values.get(b"data")
    expected = {"b": (bool,), "i": (int,), "u": (int,), "f": (int, float), "S": (bytes,), "U": (str,)}[dtype.kind]
    if type(data) not in expected:
        raise ValueError(f"a scalar of dtype {dtype.str} cannot be a {type(data).__name__}")
    try:
        return dtype.type(data)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"no scalar of dtype {dtype.str} can be {_shown(data)}: {error}") from error


def _dtype(values: dict[Any, Any]) -> np.dtype:
    name = values.get(b"dtype")
    if not isinstance(name, str) or not _DTYPE.fullmatch(name):
        raise ValueError(f"dtype must read like '<f4' and be numbers, booleans or text; got {_shown(name)}")
    try:
        return np.dtype(name)
    except TypeError as error:
        raise ValueError(f"there is no dtype {name!r}") from error


def _refuse_extension(code: int, data: bytes) -> Any:
    raise ValueError(f"msgpack extension type {code} is not part of the protocol")


def _check(message: Any) -> None:
    level = [message]
    for _ in range(_MAX_DEPTH):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner.extend(value.values())
            elif isinstance(value, list):
                inner.extend(value)
            elif not isinstance(value, _PLAIN):
                raise ValueError(f"{type(value).__name__} is not part of the protocol")
        if not inner:
            return
        level = inner
    raise ValueError(f"a message may be nested {_MAX_DEPTH} deep")


def _shown(value: Any) -> str:
    # Only as much of a long one is looked at as is shown.
    text = repr(value[:61] if isinstance(value, (str, bytes, list)) else value)
    return text if len(text) <= 60 else f"{text[:60]}..."
