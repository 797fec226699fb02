# SPDX-License-Identifier: Apache-2.0
"""A method's options as the recipe gives them."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from flashwam.core.streams import StreamSpec
from flashwam.system.errors import InputError

__all__ = ["STREAM_CHOICES", "option", "refuse_losses", "refuse_unread", "unknown_streams"]

STREAM_CHOICES = ("anchors", "teacher_substeps", "guidance", "huber_c", "regulariser", "teacher_temperature")
"""Fields of `StreamSpec` that methods read or do not, see `Method.stream_choices`; the others are everybody's."""


def option(method: Callable[..., Any], options: Mapping[str, Any], name: str) -> Any:
    """One of a method's own keywords: as the recipe has it, or its default."""
    return options.get(name, inspect.signature(method).parameters[name].default)


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
