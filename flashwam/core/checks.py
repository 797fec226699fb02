# SPDX-License-Identifier: Apache-2.0
"""Checks of numbers: settings when they are read, chunks when they are drawn."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from flashwam.system.errors import InputError

__all__ = ["UnsoundError", "check_drawn", "check_number", "check_statistics"]


class UnsoundError(InputError):
    """A chunk was drawn that nobody may act on; it names chunk, stream and channel."""


def check_number(what: str, value: Any, *, low: float, high: float, hint: str = "") -> None:
    """Refuses what is no number, not finite, or outside of [low, high].

    Args:
        what: Field, and channel where there are several: begins the message.
        value: What was given.
        low, high: The least and the greatest value that can be meant.
        hint: Usual values, for the message.

    Raises:
        ValueError: as said.
    """
    # NaN fails every comparison.
    if isinstance(value, bool) or not isinstance(value, Real) or not low <= float(value) <= high:
        sign = "positive, " if low > 0 else ""
        raise InputError(f"{what} must be {sign}from {low:g} to {high:g}{hint and f' ({hint})'}; got {value!r}")


def check_statistics(mean: Sequence[Any], std: Sequence[Any], *, channels: int, what: str = "") -> None:
    """Refuses statistics of latents that would scale them to nothing, or to what is not finite.

    Args:
        mean, std: By channel.
        channels: How many there must be.
        what: Before "mean" and "std" in messages.

    Raises:
        ValueError: naming the first bad channel.
    """
    for name, values, low in (("mean", mean, -1e4), ("std", std, 1e-4)):
        if len(values) != channels:
            raise InputError(f"{what}{name} must have one entry for each of {channels} channels; got {len(values)}")
        for channel, value in enumerate(values):
            check_number(f"{what}{name} of channel {channel}", value, low=low, high=1e4)


def check_drawn(
    x: Tensor, stream: str, *, chunk: int, limit: float = math.inf, channels: Sequence[int] | None = None
) -> None:
    """Refuses a drawn stream with a value that is not finite, or beyond a limit.

    Args:
        x: [B, C, F, ...].
        stream: Its name.
        chunk: Chunks of this episode drawn so far, this one included.
        limit: Greatest magnitude that can be meant.
        channels: Those that the limit is for; all if None.

    Raises:
        UnsoundError: naming chunk, stream, the first bad channel and its first bad value.
    """
    if x.is_meta:
        # Shapes alone, of a plan.
        return
    places = list(range(x.shape[1]) if channels is None else channels)
    held = x[:, places]
    sound = torch.isfinite(held) if math.isinf(limit) else held.abs() <= limit
    if bool(sound.all()):
        return
    bad = (~sound).transpose(0, 1).flatten(1)
    first = min((place, row) for row, place in enumerate(places) if bool(bad[row].any()))
    value = float(held.transpose(0, 1).flatten(1)[first[1]][bad[first[1]]][0])
    expected = "a finite number" if not math.isfinite(value) else f"within {limit:g} of 0, as its codec's actions are"
    raise UnsoundError(
        f"chunk {chunk}: stream {stream!r}, channel {first[0]} must be {expected}; got {value:g}. Nothing of this "
        "chunk is acted on: begin the episode anew, and look at the model's weights where it happens again"
    )
