# SPDX-License-Identifier: Apache-2.0
"""A method's options as the recipe gives them."""

import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any

from flashwam.core.streams import StreamSpec
from flashwam.system.errors import InputError
from flashwam.system.imports import check_keywords

__all__ = [
    "STREAM_CHOICES",
    "is_weight",
    "is_whole",
    "keywords_of",
    "made_of",
    "mapping_of",
    "option",
    "refuse_losses",
    "refuse_unread",
    "unknown_streams",
]

STREAM_CHOICES = ("anchors", "teacher_substeps", "guidance", "huber_c", "regulariser", "teacher_temperature")
"""Fields of `StreamSpec` that methods read or do not, see `Method.stream_choices`; the others are everybody's."""


def option(method: Callable[..., Any], options: Mapping[str, Any], name: str) -> Any:
    """One of a method's own keywords: as the recipe has it, or its default."""
    return options.get(name, inspect.signature(method).parameters[name].default)


def keywords_of(function: Callable[..., Any], *, without: Collection[str] = ()) -> list[str]:
    """Names of the keywords that a function or class takes by name alone, in their order."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in without]


def is_whole(value: object, *, least: int = 1) -> bool:
    """Tells whether an option is a whole number of at least so many."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_weight(value: object) -> bool:
    """Tells whether an option is a finite number of at least 0."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf


def mapping_of(at: str, given: object) -> dict[str, Any]:
    """An option that is itself a mapping, copied; an empty one of None.

    Args:
        at: Its dotted key, for the message.
        given: As the recipe has it.

    Raises:
        ValueError: It is something else.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise InputError(f"{at} must be a mapping of names to values; got {given!r}")
    return dict(given)


def made_of(at: str, make: Callable[..., Any], given: object, known: Sequence[str]) -> Any:
    """Makes what an option describes by keywords.

    Args:
        at: The option's dotted key, for messages.
        make: Takes the keywords.
        given: As the recipe has it; None for none.
        known: Keywords there are.

    Raises:
        ValueError: A keyword is unknown, or a value is none that it takes.
    """
    keywords = mapping_of(at, given)
    check_keywords(at, keywords, known)
    try:
        return make(**keywords)
    except InputError as error:
        raise InputError(f"{at}: {error}") from error
    except (ArithmeticError, AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{at}: a value is missing, or of another kind than it takes ({error}); got {keywords}"
        ) from error


def unknown_streams(option: str, given: Mapping[str, Any], streams: Mapping[str, Any]) -> None:
    """Refuses an option that names a stream the model does not have."""
    wrong = sorted(set(given) - set(streams))
    if wrong:
        raise InputError(f"{option} names {wrong}; the streams are {list(streams)}")


def refuse_losses(streams: Mapping[str, StreamSpec], known: Sequence[str], *, method: str) -> None:
    """Refuses streams that ask for a loss which a method does not know.

    Args:
        streams: Per-stream choices.
        known: `Method.stream_losses`.
        method: Its name, for the message.

    Raises:
        ValueError: They do.
    """
    strange = {name: spec.loss for name, spec in streams.items() if spec.loss not in (None, *known)}
    if strange:
        raise InputError(
            f"{method} has its own loss for every stream, and streams ask for {strange}: remove their loss, or take a "
            "method that knows it, pairs or distribution_matching"
        )


def refuse_unread(
    streams: Mapping[str, StreamSpec], readers: Sequence[Callable[[StreamSpec], Sequence[str] | None]], *, method: str
) -> None:
    """Refuses what streams ask for and no method of a recipe reads.

    Args:
        streams: Per-stream choices.
        readers: `Method.choices_of` of every method that the streams are for.
        method: Name of the one that is to be run, for the message.

    Raises:
        ValueError: A stream has another value than the default; the message says which, and how to leave it out.
    """
    usual = {each.name: each.default for each in fields(StreamSpec) if each.name in STREAM_CHOICES}
    unread: dict[str, Any] = {}
    for name, spec in streams.items():
        read = [reader(spec) for reader in readers]
        if any(choices is None for choices in read):
            continue
        known = {choice for choices in read for choice in choices or ()}
        held = {key: getattr(spec, key) for key in STREAM_CHOICES if key not in known}
        unread |= {f"streams.{name}.{key}": (value, usual[key]) for key, value in held.items() if value != usual[key]}
    if unread:
        told = ", ".join(f"{key} {value!r}" for key, (value, _) in unread.items())
        remedy = " ".join(f"{key}={'null' if value is None else value}" for key, (_, value) in unread.items())
        guided = " The teacher is driven at guidance_scale." if any(key.endswith(".guidance") for key in unread) else ""
        raise InputError(f"method {method!r} reads none of {told}: leave them out, as by {remedy}.{guided}")
