# SPDX-License-Identifier: Apache-2.0
"""JSON files that anybody may have written: whatever is wrong with one is one sentence that names it."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.hints import field_types
from flashwam.system.lfs import refuse_pointer
from flashwam.system.paths import user_path

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "Measured",
    "build",
    "built_from",
    "parse_json",
    "read_json",
    "read_mapping",
    "shown",
    "whole_number",
    "without_nan",
]

_LARGEST = 2**26
_DEEPEST = 64
_SHOWN = 80
_LONGEST = 600
_LARGEST_NUMBER = 2**62

T = TypeVar("T")
D = TypeVar("D", bound="DataclassInstance")
Measured = Annotated[float, "measured"]
"""A number that was measured, which may be infinite or none; `build` takes every other for finite."""


def read_json(path: Path | str, *, missing: str = "", finite: bool = True) -> Any:
    """Reads a JSON file: plain values, no key twice, nothing nested deeper than 64.

    Args:
        path: The file.
        missing: What to say of a file that is not there, such as which command writes it.
        finite: Refuse NaN and infinity; a measurement may hold them, settings may not.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is anything but such a file; the message names it.
    """
    path = user_path(path)
    if not path.exists():
        raise MissingFileError(f"{path} is missing" + (f": {missing}" if missing else ""))
    if not path.is_file():
        raise InputError(f"{path} must be a JSON file; it is a folder or a device")
    size = path.stat().st_size
    if size > _LARGEST:
        raise InputError(f"{path} holds {size:,} bytes: no JSON file of a model or run is larger than {_LARGEST:,}")
    refuse_pointer(path)
    return parse_json(path.read_bytes(), str(path), finite=finite)


def read_mapping(path: Path | str, *, missing: str = "", finite: bool = True) -> dict[str, Any]:
    """`read_json` of a file that must hold a mapping.

    Raises:
        FileNotFoundError, ValueError: As `read_json`, or it holds something else.
    """
    content = read_json(path, missing=missing, finite=finite)
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a mapping; got a {type(content).__name__}: {shown(content)}")
    return content


def parse_json(data: bytes, what: str, *, finite: bool = True) -> Any:
    """Plain values from JSON in UTF-8, as strictly as `read_json`.

    Args:
        data: The text.
        what: What it is, for messages: a file, or a line of one.
        finite: See `read_json`.

    Raises:
        ValueError: It is no JSON, or not in UTF-8; a number is not finite, a key stands twice, or it is nested deeper
            than 64.
    """
    if not data.strip():
        raise InputError(f"{what} is empty")
    try:
        number = _finite if finite else float
        content = json.loads(data.decode(), parse_float=number, parse_constant=number, object_pairs_hook=_once)
    except UnicodeDecodeError as error:
        raise InputError(f"{what} is not JSON: not UTF-8 ({error.reason} at byte {error.start})") from error
    except RecursionError as error:
        raise InputError(f"{what} is nested deeper than {_DEEPEST}") from error
    except _NotFiniteError as error:
        raise InputError(f"{what} is not JSON: {error}{_place(data)}") from error
    except ValueError as error:
        raise InputError(f"{what} is not JSON: {error}") from error
    # Half of a character can be escaped in JSON, and neither shown, written nor sent.
    if b"\\ud" in data.lower() and not _is_unicode(content):
        raise InputError(f"{what} is not JSON: a text holds half of a character, such as \\ud800 alone")
    level, depth = [content], 0
    while level := [held for one in level if isinstance(one, (dict, list)) for held in _parts(one)]:
        depth += 1
        if depth > _DEEPEST:
            raise InputError(f"{what} is nested deeper than {_DEEPEST}")
    return content


def built_from(path: Path | str, build: Callable[[], T]) -> T:
    """Builds an object from a file's content, and names the file where that fails.

    Raises:
        ValueError: It meets a value of another type, a key that is missing, or one that it refuses; the message names
            the file.
    """
    try:
        return build()
    except KeyError as error:
        raise InputError(f"{path} lacks {error}") from error
    except (OSError, ImportError):
        raise
    except Exception as error:
        # A library may raise any kind for a value it did not expect, over several lines.
        text = " ".join(str(error).split()) or type(error).__name__
        text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
        raise InputError(text if str(path) in text else f"{path}: {text}") from error


def build(path: Path | str, kind: type[D], content: Mapping[str, Any]) -> D:
    """A dataclass from a file's values, each of the type that its field has; a list stands for a tuple.

    Raises:
        ValueError: A key is unknown or missing, or a value has another type or is refused; the message names the file.
    """
    known = {field.name: field.default is MISSING and field.default_factory is MISSING for field in fields(kind)}
    unknown = sorted(set(content) - set(known))
    missing = [name for name, needed in known.items() if needed and name not in content]
    if unknown or missing:
        raise InputError(f"{path}: unknown fields {unknown}, missing fields {missing}")
    hints = field_types(kind, extras=True)
    for name, value in content.items():
        if not _is_a(value, hints[name]):
            raise InputError(f"{path}: {name} must be {_described(hints[name])}; got {shown(value)}")
    return built_from(path, lambda: kind(**{name: _tuples(value) for name, value in content.items()}))


def whole_number(value: Any, what: str, *, least: int = 0, most: int = 2**31 - 1) -> int:
    """`value`, where it is a whole number in a range: neither 1.5 nor true nor "1".

    Raises:
        ValueError: It is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InputError(f"{what} must be a whole number from {least} to {most:,}; got {shown(value)}")
    return value


def shown(value: Any) -> str:
    """A value as a message shows it, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _is_a(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if hint == Measured:
        return type(value) in (int, float)
    if origin is Annotated:
        return _is_a(value, arguments[0])
    if origin in (Union, UnionType):
        return any(_is_a(value, each) for each in arguments)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            _is_a(part, each) for pair in value.items() for part, each in zip(pair, arguments, strict=True)
        )
    if origin is Literal:
        return value in arguments
    if (origin or hint) is tuple:
        if not isinstance(value, (list, tuple)):
            return False
        each = arguments[:1] * len(value) if arguments[-1:] == (Ellipsis,) else arguments
        return len(each) == len(value) and all(map(_is_a, value, each))
    if hint is float:
        return type(value) in (int, float) and abs(value) < _LARGEST_NUMBER
    if hint is int:
        return type(value) is int and abs(value) < _LARGEST_NUMBER
    return isinstance(value, origin or hint)


def _described(hint: Any) -> str:
    arguments = get_args(hint)
    if hint == Measured:
        return "a number"
    if get_origin(hint) is Annotated:
        return _described(arguments[0])
    if get_origin(hint) is Mapping:
        return "a mapping" if arguments[1] is Any else f"a mapping, each {_described(arguments[1])}"
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_described(each) for each in arguments)
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if (get_origin(hint) or hint) is tuple:
        count = "a list of" if arguments[-1:] == (Ellipsis,) else f"a list of {len(arguments)}, each"
        return f"{count} {_described(arguments[0])}"
    words = {int: "a whole number", float: "a finite number", str: "a text", bool: "true or false", NoneType: "null"}
    return words.get(hint, getattr(hint, "__name__", str(hint)))


def _tuples(value: Any) -> Any:
    return tuple(_tuples(held) for held in value) if isinstance(value, list) else value


def _is_unicode(content: Any) -> bool:
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True


class _NotFiniteError(ValueError):
    """A number of a file is NaN or infinite."""


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _NotFiniteError(f"{text[:_SHOWN]} is no finite number")
    return value


def without_nan(content: Any) -> Any:
    """Plain values with None for every number that is not finite, which JSON has no name for."""
    if isinstance(content, Mapping):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _place(data: bytes) -> str:
    """Finds where the first number that is not finite stands, such as ", at actions.q01[2]"."""
    try:
        level = [("", json.loads(data))]
    except (ValueError, RecursionError):
        return ""
    while level:
        deeper = []
        for place, value in level:
            if isinstance(value, float) and not math.isfinite(value):
                return f", at {place[:_SHOWN]}" if place else ""
            if isinstance(value, dict):
                deeper += [(f"{place}.{key}" if place else key, held) for key, held in value.items()]
            elif isinstance(value, list):
                deeper += [(f"{place}[{number}]", held) for number, held in enumerate(value)]
        level = deeper
    return ""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    held = dict(pairs)
    if len(held) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InputError(f"key {twice!r} stands twice")
    return held


def _parts(value: Mapping[str, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else list(value)
