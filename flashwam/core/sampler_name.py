# SPDX-License-Identifier: Apache-2.0
"""The short name of how a model is sampled, which results carry: "own", "euler", "unit", "t0.5", "euler_t0.5"."""

from typing import TypedDict

from flashwam.system.errors import InputError

__all__ = ["MOST_TEMPERATURE", "SamplerOptions", "sampler_name", "sampler_options", "sampler_suffix"]

MOST_TEMPERATURE = 10
"""Far above 1 nothing was trained."""
_EULER, _UNIT, _OWN = "euler", "unit", "own"
_LABELS = {_EULER: "Euler", _UNIT: "unit amplitude"}


class SamplerOptions(TypedDict):
    """Options of `flashwam.sampling.samplers_for` that a name stands for; a temperature of None is the streams' own."""

    plain_euler: bool
    unit_amplitude: bool
    temperature: float | None


def sampler_name(*, plain_euler: bool = False, unit_amplitude: bool = False, temperature: float | None = None) -> str:
    """Names a way of sampling; the arguments are those of `flashwam.sampling.samplers_for`.

    Raises:
        ValueError: Plain Euler and unit amplitude are both asked for, or there is no such temperature.
    """
    if plain_euler and unit_amplitude:
        raise InputError("plain Euler ignores a student's functions, so their amplitude cannot be chosen: ask for one")
    parts = [_EULER] * plain_euler + [_UNIT] * unit_amplitude
    if temperature is not None:
        if not 0 <= temperature <= MOST_TEMPERATURE:
            raise InputError(f"temperature must be a number from 0 to {MOST_TEMPERATURE}; got {temperature}")
        parts.append(f"t{float(temperature)!r}".removesuffix(".0"))
    return "_".join(parts) or _OWN


def sampler_options(name: str) -> SamplerOptions:
    """Options that a name stands for."""
    parts = name.split("_")
    given = [float(part[1:]) for part in parts if part[:1] == "t" and part[1:2].isdigit()]
    return {
        "plain_euler": _EULER in parts,
        "unit_amplitude": _UNIT in parts,
        "temperature": given[0] if given else None,
    }


def sampler_suffix(name: str, *, student: bool) -> str:
    """The end of a label: "", " Euler", " t0.5". A teacher has no function of its own that one could ignore."""
    words = [_LABELS.get(part, part) for part in name.split("_") if part != _OWN and (student or part not in _LABELS)]
    return "".join(f" {word}" for word in words)
