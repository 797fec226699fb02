# SPDX-License-Identifier: Apache-2.0
"""Kinds of values that options of methods have, told before a model or data are there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flashwam.distillation.methods.options import is_weight, is_whole, mapping_of
from flashwam.system.errors import InputError

__all__ = [
    "COUNT",
    "FLAG",
    "LEVELS",
    "POSITIVE",
    "RANGE",
    "SHARE",
    "TEXT",
    "WEIGHT",
    "OptionValue",
    "check_each",
    "of_streams",
    "one_of",
    "or_none",
]


@dataclass(frozen=True, slots=True)
class OptionValue:
    """The values that an option may have.

    Args:
        holds: Tells whether a value of a recipe is one.
        told: In words, after "must be".
        streams: It is a mapping from streams to such values.
    """

    holds: Callable[[Any], bool]
    told: str
    streams: bool = False

    def check(self, at: str, given: object) -> None:
        """Refuses another value.

        Args:
            at: The option's dotted key.
            given: As the recipe has it.

        Raises:
            ValueError: The message names the option, and what it may be.
        """
        values = {f"{at}.{name}": one for name, one in mapping_of(at, given).items()} if self.streams else {at: given}
        for key, value in values.items():
            if not self.holds(value):
                raise InputError(f"{key} must be {self.told}; got {value!r}")


def check_each(at: str, options: Mapping[str, Any], known: Mapping[str, OptionValue]) -> None:
    """Refuses values that options cannot have; an absent option has its default.

    Args:
        at: Dotted key of the mapping.
        options: As the recipe has them.
        known: Option -> what it may be; others are not looked at.

    Raises:
        ValueError: The message names the option, and what it may be.
    """
    for name, value in options.items():
        if name in known:
            known[name].check(f"{at}.{name}", value)


def one_of(*values: object) -> OptionValue:
    """One of some values."""
    return OptionValue(lambda value: value in values, " or ".join(repr(value) for value in values))


def or_none(kind: OptionValue) -> OptionValue:
    """Such a value, or null."""
    return OptionValue(lambda value: value is None or kind.holds(value), f"{kind.told}, or null", kind.streams)


def of_streams(kind: OptionValue) -> OptionValue:
    """A mapping from streams to such values, or null for none."""
    return OptionValue(kind.holds, kind.told, streams=True)


def _is_pair(value: object, one: Callable[[Any], bool]) -> bool:
    pair = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2
    return pair and all(one(each) for each in value) and value[0] <= value[1]


COUNT = OptionValue(is_whole, "a whole number of at least 1")
FLAG = OptionValue(lambda value: isinstance(value, bool), "true or false")
WEIGHT = OptionValue(is_weight, "a finite number of at least 0")
POSITIVE = OptionValue(lambda value: is_weight(value) and value > 0, "a finite number above 0")
SHARE = OptionValue(lambda value: is_weight(value) and value <= 1, "a number from 0 to 1")
TEXT = OptionValue(lambda value: isinstance(value, str), "text")
RANGE = OptionValue(lambda value: _is_pair(value, is_whole), "two whole numbers [low, high] with 1 <= low <= high")
LEVELS = OptionValue(
    lambda value: _is_pair(value, lambda one: is_weight(one) and 0 < one < 1),
    "two levels [low, high] with 0 < low <= high < 1",
)
