# SPDX-License-Identifier: Apache-2.0
"""Plain values <-> a recipe's frozen sections, by their annotations; every complaint says where a value came from."""

import importlib
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from flashwam.core.consistency import LCM, Linear, make_consistency_function
from flashwam.core.streams import SCHEDULES, StreamSpec, make_schedule
from flashwam.recipe.checks import FieldError
from flashwam.recipe.sections import (
    AutoencoderConfig,
    DataConfig,
    EvaluateConfig,
    LoopConfig,
    PathText,
    Recipe,
    RolloutConfig,
    Unlimited,
    WamConfig,
)
from flashwam.system.errors import InputError, nearest_hint
from flashwam.system.hints import field_types

__all__ = ["SECTIONS", "Origins", "build_recipe", "build_section", "check_free", "check_keys", "default_value", "plain"]

_SIMULATORS = {"metaworld": "flashwam.sim.tasks", "libero": "flashwam.sim.libero.scenes"}
"""`data.source` -> the module whose `get_task` knows its tasks by name. By path: recipes stand below simulators."""

SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "autoencoder": AutoencoderConfig,
    "wam": WamConfig,
    "train": LoopConfig,
    "distill": LoopConfig,
    "rollout": RolloutConfig,
    "evaluate": EvaluateConfig,
}
_SCALARS = {"name": str, "run_dir": PathText | None, "seed": int}
_STREAM: dict[str, Any] = {"shift": float, **field_types(StreamSpec)}
for _key in ("name", "schedule", "consistency"):
    del _STREAM[_key]
_BUILT: dict[str, tuple[Callable[[Any], Any], Mapping[str, type]]] = {
    "schedule": (make_schedule, SCHEDULES),
    "consistency": (make_consistency_function, {"linear": Linear, "lcm": LCM}),
}
"""Key of a stream -> what builds it from a name or mapping, and the classes it knows by name."""
_STREAM_KEYS = [*_STREAM, *_BUILT]
_NULLS = ("none", "null", "nil", "~")
_LARGEST = 2**63 - 1
_MOST = sys.float_info.max
_SHOWN = 200


@dataclass(slots=True)
class Origins:
    """The file or override that last set each dotted key."""

    default: str = "recipe"
    known: dict[str, str] = field(default_factory=dict)

    def record(self, content: Mapping[str, Any], source: str, prefix: str = "") -> None:
        """Notes `source` for every key of a layer."""
        for key, value in content.items():
            self.known[f"{prefix}{key}"] = source
            if isinstance(value, Mapping):
                self.record(value, source, f"{prefix}{key}.")

    def update(self, other: "Origins") -> None:
        """Takes over what another layer set."""
        self.known.update(other.known)

    def of(self, key: str) -> str:
        """Tells where a key, or the nearest section above it, was set."""
        while key and key not in self.known:
            key = key.rpartition(".")[0]
        return self.known.get(key, self.default)


def check_keys(content: Mapping[str, Any], *, source: str) -> None:
    """Refuses unknown keys of one layer, naming the nearest known one.

    Args:
        content: Plain values, possibly only a part of a recipe.
        source: The file or override they came from.
    """
    _known("", content, [*_SCALARS, "streams", *SECTIONS], source)
    for section, kind in SECTIONS.items():
        if section in content and content[section] is not None:
            values = _mapping(section, content[section], source)
            _known_fields(section, values, kind, source)
    for name, values in _mapping("streams", content.get("streams", {}), source).items():
        _known(f"streams.{name}", _mapping(f"streams.{name}", values, source), _STREAM_KEYS, source)


def build_recipe(values: Mapping[str, Any], *, origins: Origins) -> Recipe:
    """Builds a recipe from resolved plain values.

    Raises:
        ValueError: A value has the wrong type or is out of range, or a required key is missing.
    """
    built: dict[str, Any] = {
        key: _convert(key, values[key], kind, origins) for key, kind in _SCALARS.items() if key in values
    }
    for section, kind in SECTIONS.items():
        if section in values and not (values[section] is None and section == "distill"):
            built[section] = build_section(section, values[section] or {}, kind, origins)
    if not values.get("streams"):
        raise InputError(f"{origins.default}: streams: missing; expected a section per stream, each with its shift")
    _check_streams(values["streams"], origins)
    built["streams"] = {name: _build_stream(name, spec, origins) for name, spec in values["streams"].items()}
    try:
        recipe = Recipe(**built)
    except FieldError as error:
        raise InputError(f"{origins.of(error.key)}: {error}") from error
    except ValueError as error:
        raise InputError(f"{origins.of('evaluate.nfe')}: evaluate.nfe: {error}") from error
    _check_tasks(recipe, origins)
    return recipe


def default_value(keys: Sequence[str]) -> Any:
    """Gives the default of a field, by the parts of its key; None where there is no such field."""
    kind: Any = SECTIONS.get(keys[0]) if keys else None
    for place, key in enumerate(keys[1:], 2):
        known = {} if kind is None else {each.name: each for each in fields(kind)}
        if key not in known:
            return None
        if place == len(keys):
            return plain(getattr(kind(), key))
        hint = field_types(kind)[key]
        kind = next((each for each in (hint, *get_args(hint)) if is_dataclass(each)), None)
    return None


def plain(value: Any) -> Any:
    """A recipe or section as plain values: dictionaries, lists, strings, numbers, booleans, None."""
    if isinstance(value, StreamSpec):
        return _plain_stream(value)
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(held) for key, held in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(held) for held in value]
    return value


def _plain_stream(spec: StreamSpec) -> dict[str, Any]:
    values = spec.config
    function = values["consistency"]
    if set(function) == {"name"}:
        values["consistency"] = function["name"]
    first = "shift" if "shift" in values else "schedule"
    return {first: plain(values.pop(first)), **plain(values)}


def build_section(section: str, values: Any, kind: type, origins: Origins) -> Any:
    """Builds one section of a recipe, `section` by its dotted key.

    Raises:
        ValueError: It is no mapping, or a value has the wrong type or is out of range.
    """
    hints = field_types(kind, extras=True)
    values = _mapping(section, values, origins.of(section))
    converted = {key: _convert(f"{section}.{key}", held, hints[key], origins) for key, held in values.items()}
    try:
        return kind(**converted)
    except FieldError as error:
        raise InputError(f"{origins.of(f'{section}.{error.key}')}: {section}.{error}") from error


def _check_streams(streams: Mapping[str, Any], origins: Origins) -> None:
    """Refuses a stream that nothing says the schedule of and whose name is nearly another's."""
    told = [name for name, spec in streams.items() if {"shift", "schedule"} & set(spec or {})]
    for name in streams.keys() - set(told):
        if near := nearest_hint(name, told):
            raise InputError(f"{origins.of(f'streams.{name}')}: streams.{name}: no stream is called so{near}")


def _build_stream(name: str, values: Mapping[str, Any], origins: Origins) -> StreamSpec:
    at = f"streams.{name}"
    if "shift" not in values and "schedule" not in values:
        raise InputError(
            f"{origins.of(at)}: {at}.shift: missing; 5.0 is published for video, 1.0 for actions. A teacher on a "
            f"variance-preserving path has {at}.schedule instead: {{name: vp, snr_shift: 1.0}}"
        )
    if "shift" in values and "schedule" in values:
        raise InputError(f"{origins.of(f'{at}.schedule')}: {at}.schedule must be given once; got {at}.shift beside it")
    converted = {
        key: _convert(f"{at}.{key}", values[key], kind, origins) for key, kind in _STREAM.items() if key in values
    }
    for key in _BUILT:
        if key in values:
            converted[key] = _build_named(f"{at}.{key}", key, values[key], origins)
    try:
        return StreamSpec.from_config(name, converted)
    except ValueError as error:
        message = str(error).removeprefix(f"stream {name!r}: ")
        key = f"{at}.{message.split()[0]}"
        raise InputError(f"{origins.of(key)}: {at}.{message}") from error


def _build_named(at: str, key: str, value: Any, origins: Origins) -> Any:
    """A schedule or consistency function from its name or mapping, with the nearest known name or parameter."""
    build, known = _BUILT[key]
    if not isinstance(value, (str, Mapping)):
        raise InputError(f"{origins.of(at)}: {at}: expected a name or a mapping with one; got {value!r}")
    try:
        return build(value)
    except ValueError as error:
        parameters = {} if isinstance(value, str) else value
        name = str(parameters.get("name", "") if isinstance(value, Mapping) else value)
        if name in known:
            takes = [f.name for f in fields(known[name])]
            hint = next((_nearest(str(k), takes) for k in parameters if k not in ("name", *takes)), "")
        else:
            hint = _nearest(name, list(known)) if name else ""
        raise InputError(f"{origins.of(at)}: {at}: {error}{hint}") from error


def _check_tasks(recipe: Recipe, origins: Origins) -> None:
    """Simulated tasks must exist before anything is collected for them."""
    if recipe.data.source not in _SIMULATORS:
        return
    get_task = importlib.import_module(_SIMULATORS[recipe.data.source]).get_task
    for key, tasks in (("data.tasks", recipe.data.tasks), ("evaluate.tasks", recipe.evaluate.tasks or ())):
        for task in tasks:
            try:
                get_task(task)
            except ValueError as error:
                raise InputError(f"{origins.of(key)}: {key}: {error}") from error


def _convert(key: str, value: Any, kind: Any, origins: Origins) -> Any:
    """Checks a plain value against an annotation; whole numbers pass as floats and 1e3 as a whole number."""
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and is_dataclass(kind):
        return build_section(key, value, kind, origins)
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        if NoneType in arguments and _is_null(value):
            raise _no_null(key, value, origins)
        return _convert(key, value, next(a for a in arguments if a is not NoneType), origins)
    if kind == PathText and isinstance(value, str) and (_is_null(value) or not value.strip()):
        raise InputError(f"{origins.of(key)}: {key}: expected {_describe(kind)}; got {value!r}")
    if origin is Literal:
        # YAML reads a bare no as false.
        value = "no" if value is False and "no" in arguments else value
        if any(value == a and type(value) is type(a) for a in arguments):
            return value
        hint = _nearest(str(value), [str(a) for a in arguments])
        choices = ", ".join(map(str, arguments))
        raise InputError(f"{origins.of(key)}: {key}: expected one of {choices}; got {value!r}{hint}")
    if origin is tuple and isinstance(value, (list, tuple)):
        if arguments[-1] is Ellipsis:
            return tuple(_convert(key, held, arguments[0], origins) for held in value)
        if len(arguments) == len(value):
            return tuple(_convert(key, held, each, origins) for held, each in zip(value, arguments, strict=True))
    if (origin or kind) is Mapping and isinstance(value, Mapping):
        check_free(key, value, origins)
        return dict(value)
    bare = arguments[0] if origin is Annotated else kind
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and bare in (int, float):
        fits = _number(value, kind)
        if fits is not None:
            return fits
    if bare in (str, bool) and isinstance(value, bare):
        return value
    expected = _describe(kind)
    if number and bare in (int, float):
        expected = "a whole number below 2^63" if bare is int else "a finite number" if kind is float else expected
    raise InputError(f"{origins.of(key)}: {key}: expected {expected}; got {_short(value)} ({_type(value)})")


def _number(value: float, kind: Any) -> float | None:
    """A number as an annotation wants it; None where it cannot be."""
    if kind == Unlimited:
        return None if math.isnan(value) else float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if kind is float:
        return float(value) if abs(value) <= _MOST else None
    return int(value) if value == int(value) and abs(value) <= _LARGEST else None


def check_free(key: str, value: Any, origins: Origins) -> None:
    """Refuses what can mean nothing in values that a model or a method reads: the text None, a number without end."""
    if isinstance(value, Mapping):
        for name, held in value.items():
            check_free(f"{key}.{name}", held, origins)
    elif isinstance(value, (list, tuple)):
        for held in value:
            check_free(key, held, origins)
    elif value == "None":
        raise _no_null(key, value, origins)
    elif _is_endless(value):
        raise InputError(f"{origins.of(key)}: {key}: expected a finite number; got {value!r}")


def _is_endless(value: Any) -> bool:
    """Tells whether a value is infinite or no number, also as the text that other languages write for it."""
    if isinstance(value, str):
        return value.strip().lower().lstrip("+-.") in ("inf", "infinity", "nan")
    return isinstance(value, float) and not math.isfinite(value)


def _is_null(value: Any) -> bool:
    return isinstance(value, str) and value.strip().lower() in _NULLS


def _no_null(key: str, value: str, origins: Origins) -> ValueError:
    return InputError(f"{origins.of(key)}: {key}: got the text {value!r}; did you mean null?")


def _describe(kind: Any) -> str:
    arguments = get_args(kind)
    if kind == PathText:
        return "a path, such as ./data (the home folder is ~/)"
    if kind == Unlimited:
        return "a number, or .inf"
    if get_origin(kind) is tuple:
        if arguments[-1] is Ellipsis:
            return f"a list, each {_describe(arguments[0])}"
        return f"a list of {len(arguments)}, each {_describe(arguments[0])}"
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return words.get(kind, "a mapping")


def _short(value: Any) -> str:
    """A value as it is shown in a message."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _type(value: Any) -> str:
    words = {list: "list", tuple: "list", dict: "mapping", str: "text", NoneType: "null"}
    return words.get(type(value), type(value).__name__)


def _mapping(key: str, value: Any, source: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        hint = "; did you mean null?" if _is_null(value) else ""
        raise InputError(f"{source}: {key}: expected a section of keys and values; got {_short(value)}{hint}")
    return value


def _known(section: str, values: Mapping[str, Any], known: Iterable[str], source: str) -> None:
    names = list(known)
    for key in values:
        if key not in names:
            at = f"{section}.{key}" if section else key
            # A shortened or misspelt key first, then one that merely contains the same word.
            hint = _nearest(str(key), names)
            raise InputError(f"{source}: {at}: unknown key{hint}; {section or 'a recipe'} has {', '.join(names)}")


def _known_fields(section: str, values: Mapping[str, Any], kind: type, source: str) -> None:
    """`_known` for a section's fields and those of the sections within it."""
    _known(section, values, [f.name for f in fields(kind)], source)
    for key, hint in field_types(kind).items():
        inner = next((each for each in (hint, *get_args(hint)) if isinstance(each, type) and is_dataclass(each)), None)
        if inner is not None and values.get(key) is not None:
            at = f"{section}.{key}"
            _known_fields(at, _mapping(at, values[key], source), inner, source)


def _nearest(name: str, choices: list[str]) -> str:
    near = get_close_matches(name, choices, n=1, cutoff=0.5)
    near = near or [choice for choice in choices if len(name) > 2 and (name in choice or choice in name)][:1]
    return f"; did you mean {near[0]!r}?" if near else ""
