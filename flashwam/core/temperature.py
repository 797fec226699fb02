# SPDX-License-Identifier: Apache-2.0
"""The share of the noise that a chunk begins with, in units of what a model was trained with."""

from collections.abc import Mapping

from flashwam.system.errors import InputError

__all__ = ["MOST_TEMPERATURE", "Temperature", "check_temperature", "noise_text", "parse_temperature", "temperature_of"]

MOST_TEMPERATURE = 10
"""Far above 1 nothing was trained."""

Temperature = float | Mapping[str, float]
"""Of every stream's noise; or stream -> of its own, where the others keep what the model says."""


def check_temperature(temperature: Temperature) -> None:
    """Refuses what is no temperature.

    Raises:
        ValueError: A number outside of 0 to `MOST_TEMPERATURE`, or no stream at all.
    """
    values = temperature if isinstance(temperature, Mapping) else {"": temperature}
    if not values:
        raise InputError("temperature names no stream; give a number, or such as {'action': 0.5}")
    for stream, value in values.items():
        if not 0 <= value <= MOST_TEMPERATURE:
            of = f" of {stream}" if stream else ""
            raise InputError(f"temperature{of} must be a number from 0 to {MOST_TEMPERATURE}; got {value}")


def temperature_of(temperature: Temperature | None, stream: str, own: float) -> float:
    """A stream's temperature, where some is asked for; its own otherwise."""
    asked = temperature.get(stream) if isinstance(temperature, Mapping) else temperature
    return own if asked is None else asked


def parse_temperature(text: str) -> Temperature:
    """Reads "0.5", or "action=0.5", or "video=1,action=0".

    Raises:
        ValueError: It is none of these, or a number is out of range.
    """
    try:
        if "=" not in text:
            found: Temperature = float(text)
        else:
            named = [part.partition("=") for part in text.split(",")]
            found = {stream.strip(): float(value) for stream, _, value in named}
            if len(found) < len(named) or not all(found):
                raise ValueError(text)
    except ValueError:
        raise InputError(f"expected a temperature such as 0.5, or action=0.5 for one stream; got {text!r}") from None
    check_temperature(found)
    return found


def noise_text(temperature: Temperature) -> str:
    """In words: "0.5 times the noise", "0.5 times the noise of action"."""
    if isinstance(temperature, Mapping):
        return " and ".join(f"{value:g} times the noise of {stream}" for stream, value in sorted(temperature.items()))
    return f"{temperature:g} times the noise"
