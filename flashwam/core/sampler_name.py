# SPDX-License-Identifier: Apache-2.0
"""The short name of how a model is sampled, which results carry: "own", "euler", "unit", "t0.5", "euler_action-t0"."""

import re
from collections.abc import Mapping
from typing import TypedDict

from flashwam.core.temperature import Temperature, check_temperature
from flashwam.system.errors import InputError

__all__ = [
    "SamplerOptions",
    "measured_suffix",
    "sampler_name",
    "sampler_options",
    "sampler_suffix",
]

_EULER, _UNIT, _OWN = "euler", "unit", "own"
_LABELS = {_EULER: "Euler", _UNIT: "unit amplitude"}
_NUMBER = r"\d[\d.e+-]*"
_EVERY_STREAM = re.compile(rf"t({_NUMBER})")
_ONE_STREAM = re.compile(rf"(.+?)-t({_NUMBER})(?:_|$)")


class SamplerOptions(TypedDict):
    """Options of `flashwam.sampling.samplers_for` that a name stands for; a temperature of None is the streams' own."""

    plain_euler: bool
    unit_amplitude: bool
    temperature: Temperature | None


def sampler_name(
    *, plain_euler: bool = False, unit_amplitude: bool = False, temperature: Temperature | None = None
) -> str:
    """Names a way of sampling; the arguments are those of `flashwam.sampling.samplers_for`.

    Raises:
        ValueError: Plain Euler and unit amplitude are both asked for, or there is no such temperature.
    """
    if plain_euler and unit_amplitude:
        raise InputError("plain Euler ignores a student's functions, so their amplitude cannot be chosen: ask for one")
    if temperature is not None:
        check_temperature(temperature)
    return "_".join(_words(plain_euler, unit_amplitude, temperature)) or _OWN


def sampler_options(name: str) -> SamplerOptions:
    """Options that a name stands for."""
    first, _, rest = name.partition("_")
    if first not in (_EULER, _UNIT, _OWN):
        first, rest = "", name
    every = _EVERY_STREAM.fullmatch(rest)
    one = {stream: float(value) for stream, value in _ONE_STREAM.findall(rest)}
    return {
        "plain_euler": first == _EULER,
        "unit_amplitude": first == _UNIT,
        "temperature": float(every[1]) if every else one or None,
    }


def sampler_suffix(name: str, *, student: bool) -> str:
    """The end of a label: "", " Euler", " t0.5". A teacher has no function of its own that one could ignore."""
    words = [_LABELS.get(word, word) for word in _words_of(name) if student or word not in _LABELS]
    return "".join(f" {word}" for word in words)


def _words_of(name: str) -> list[str]:
    """The parts of a name: none of "own", "euler" and "left_arm-t0.5" of "euler_left_arm-t0.5"."""
    options = sampler_options(name)
    return _words(options["plain_euler"], options["unit_amplitude"], options["temperature"])


def measured_suffix(name: str, precision: str) -> str:
    """The end of a label of what was measured: "", " euler", " t0.5 fp8"; a precision of "own" is not told."""
    words = [*_words_of(name), *([] if precision == "own" else [precision])]
    return "".join(f" {word}" for word in words)


def _words(plain_euler: bool, unit_amplitude: bool, temperature: Temperature | None) -> list[str]:
    words = [_EULER] * plain_euler + [_UNIT] * unit_amplitude
    if isinstance(temperature, Mapping):
        return words + [f"{stream}-{_short(value)}" for stream, value in sorted(temperature.items())]
    return words if temperature is None else [*words, _short(temperature)]


def _short(value: float) -> str:
    return f"t{float(value)!r}".removesuffix(".0")
