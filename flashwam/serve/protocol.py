# SPDX-License-Identifier: Apache-2.0
"""LingBot-VA's wire format: msgpack, with arrays and numpy scalars as maps whose keys are bytes.

    array   {b"__ndarray__": True, b"data": C-order bytes, b"dtype": "<f4", b"shape": [2, 3]}
    scalar  {b"__npgeneric__": True, b"data": 1.5, b"dtype": "<f4"}

That is how openpi's `msgpack_numpy` packs. The package msgpack-numpy of the same name packs in another way, which is
read too, as are both with keys of text; a client is answered in the dialect that it writes.

    array   {b"nd": True, b"type": "<f4", b"kind": b"", b"shape": [2, 3], b"data": C-order bytes}
    scalar  {b"nd": False, b"type": "<f4", b"data": its bytes}

What comes from the network is only ever turned into plain values and arrays. A small message cannot become a large
object: depth, list lengths and the number of items are bounded, and an array's bytes must be exactly its own.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashwam.system.errors import MissingPackageError

__all__ = ["Dialect", "pack", "read", "unpack"]

_DTYPE = re.compile(r"[<>|=][biufSU][0-9]{1,6}")
_MAX_DEPTH = 16
_MAX_LENGTH = 4096
_MAX_ITEMS = 65_536
_MAX_DIMENSIONS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """A way to pack arrays.

    Args:
        text: Keys are text, not bytes.
        foreign: As the package msgpack-numpy does, not as openpi.
    """

    text: bool = False
    foreign: bool = False


_OPENPI = Dialect()
_PLAIN = (type(None), bool, int, float, str, bytes, np.ndarray, np.generic)


def pack(message: Any, *, dialect: Dialect = _OPENPI) -> bytes:
    """Packs plain values, arrays and numpy scalars.

    Args:
        message: What is packed.
        dialect: How arrays and numpy scalars are.

    Raises:
        ValueError: an array is of objects, records or complex numbers.
        TypeError: something else that the format does not have.
    """
    packed: bytes = _msgpack().packb(message, default=lambda value: _encode(value, dialect))
    return packed


def unpack(data: bytes) -> Any:
    """Unpacks one message; arrays are read-only views of `data`.

    Raises:
        ValueError: `data` is no complete message of this format, or exceeds its bounds.
    """
    return read(data)[0]


def read(data: bytes) -> tuple[Any, Dialect | None]:
    """`unpack`, and the dialect of the arrays; None where there are none."""
    items = 0
    dialect: Dialect | None = None

    def count(container: Any) -> Any:
        nonlocal items
        items += len(container)
        if items > _MAX_ITEMS:
            raise ValueError(f"a message holds at most {_MAX_ITEMS} items besides the contents of arrays")
        return container

    def decode(values: dict[Any, Any]) -> Any:
        nonlocal dialect
        value, found = _decode(count(values))
        dialect = found or dialect
        return value

    msgpack = _msgpack()
    try:
        message = msgpack.unpackb(
            data,
            object_hook=decode,
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
    return message, dialect


def _msgpack() -> Any:
    try:
        import msgpack
    except ImportError as error:
        raise MissingPackageError("the server and its client need msgpack: pip install 'flashwam[serve]'") from error
    return msgpack


def _encode(value: Any, dialect: Dialect) -> Any:
    if not isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(f"a message holds plain values and numpy arrays; got {type(value).__name__}")
    if value.dtype.kind in "OVc":
        raise ValueError(f"arrays of dtype {value.dtype} cannot be sent; expected numbers, booleans or text")
    fields: dict[str, Any]
    if dialect.foreign:
        fields = {"nd": isinstance(value, np.ndarray), "type": value.dtype.str, "data": value.tobytes()}
        if fields["nd"]:
            fields |= {"kind": b"", "shape": value.shape}
    elif isinstance(value, np.generic):
        fields = {"__npgeneric__": True, "data": value.item(), "dtype": value.dtype.str}
    else:
        fields = {"__ndarray__": True, "data": value.tobytes(), "dtype": value.dtype.str, "shape": value.shape}
    return fields if dialect.text else {key.encode(): held for key, held in fields.items()}


def _decode(values: dict[Any, Any]) -> tuple[Any, Dialect | None]:
    """Decodes a map that stands for an array, and names its dialect; any other map is returned as it is."""
    for text in (False, True):

        def get(key: str, text: bool = text) -> Any:
            return values.get(key if text else key.encode())

        if get("__ndarray__") is not None:
            return _array(get("dtype"), get("data"), get("shape")), Dialect(text=text)
        if get("__npgeneric__") is not None:
            return _scalar(get("dtype"), get("data")), Dialect(text=text)
        if type(get("nd")) is bool and get("type") is not None and get("data") is not None:
            return _foreign(get), Dialect(text=text, foreign=True)
    return values, None


def _foreign(get: Callable[[str], Any]) -> np.ndarray | np.generic:
    """An array or scalar as msgpack-numpy packs it."""
    kind = get("kind")
    if kind not in (None, "", b""):
        raise ValueError(f"arrays are of numbers, booleans or text; got one of msgpack-numpy's kind {_shown(kind)}")
    if get("nd"):
        return _array(get("type"), get("data"), get("shape"))
    scalar: np.generic = _array(get("type"), get("data"), [1])[0]
    return scalar


def _array(dtype: Any, data: Any, shape: Any) -> np.ndarray:
    dtype = _dtype(dtype)
    if not isinstance(data, bytes):
        raise ValueError(f"an array's data must be bytes; got {type(data).__name__}")
    sides = isinstance(shape, list) and len(shape) <= _MAX_DIMENSIONS and all(type(n) is int and n >= 0 for n in shape)
    if not sides:
        raise ValueError(f"an array's shape must be a list of at most {_MAX_DIMENSIONS} sizes of at least 0")
    if not dtype.itemsize:
        raise ValueError(f"an array's items need a size, or no bytes would make any number of them; got {dtype.str}")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"an array of shape {_shown(shape)} and dtype {dtype.str} cannot have {len(data)} bytes")
    try:
        return np.ndarray(shape, dtype, buffer=data)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"no array of shape {_shown(shape)} and dtype {dtype.str} can be: {error}") from error


def _scalar(dtype: Any, data: Any) -> np.generic:
    dtype = _dtype(dtype)
    expected = {"b": (bool,), "i": (int,), "u": (int,), "f": (int, float), "S": (bytes,), "U": (str,)}[dtype.kind]
    if type(data) not in expected:
        raise ValueError(f"a scalar of dtype {dtype.str} cannot be a {type(data).__name__}")
    try:
        scalar: np.generic = dtype.type(data)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"no scalar of dtype {dtype.str} can be {_shown(data)}: {error}") from error
    return scalar


def _dtype(name: Any) -> np.dtype:
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
