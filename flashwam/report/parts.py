# SPDX-License-Identifier: Apache-2.0
"""Tall figures in parts, each of which is read on a page of paper too."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from flashwam.report.page import Figure
from flashwam.report.row import Row

__all__ = ["MOST", "figures_in_parts", "in_parts", "part_path", "part_text"]

T = TypeVar("T")

MOST = 32
"""Lines of a figure 8.4 inches wide that a page of paper shows at the size of its width."""


def in_parts(items: Sequence[T], row_of: Callable[[T], Row]) -> list[list[T]]:
    """Parts the lines of a figure, of which `MOST` at most stand in one, in their order.

    Where they are more, those that are not sampled in their own way come last, in parts of their own, and a part ends
    where a kind or a number of steps does, if it can. The first part is not of teachers alone.

    Args:
        items: In order.
        row_of: Gives an item's row.
    """
    if len(items) <= MOST:
        return [list(items)]
    parts: list[list[T]] = []
    for own in (True, False):
        some = [item for item in items if (row_of(item).sampler == "own") == own]
        parts += _packed(some, row_of)
    return parts


def _packed(items: Sequence[T], row_of: Callable[[T], Row]) -> list[list[T]]:
    parts: list[list[T]] = []
    for group in _groups(items, row_of):
        if parts and len(parts[-1]) + len(group) <= MOST:
            parts[-1] += group
            continue
        if len(parts) == 1 and all(row_of(item).kind != "student" for item in parts[0]):
            # No figure of teachers alone: the best students stand beside them, though not all have room.
            room = MOST - len(parts[0])
            parts[0] += group[:room]
            group = group[room:]
        parts.append(group)
    return parts


def _groups(items: Sequence[T], row_of: Callable[[T], Row]) -> Iterator[list[T]]:
    """Lines of one kind and number of steps, in nearly equal pieces where they are too many."""
    for _, some in groupby(items, key=lambda item: (row_of(item).kind, row_of(item).total_nfe)):
        group = list(some)
        pieces = -(-len(group) // MOST)
        size = -(-len(group) // pieces)
        yield from (group[start : start + size] for start in range(0, len(group), size))


def figures_in_parts(
    items: Sequence[T], row_of: Callable[[T], Row], path: Path, make: Callable[[list[T], Path, str], Figure]
) -> list[Figure]:
    """A figure a part, and no further part of an earlier page beside them.

    Args:
        items: In order.
        row_of: Gives an item's row.
        path: PNG of the first part.
        make: Draws a part into a file, under a caption that begins with the words of `part_text`.
    """
    parts = in_parts(items, row_of)
    figures = [
        make(part, part_path(path, number), part_text([row_of(item) for item in part], number, len(parts)))
        for number, part in enumerate(parts)
    ]
    number = len(parts)
    while (left := part_path(path, number)).exists():
        left.unlink()
        number += 1
    return figures


def part_path(path: Path, number: int) -> Path:
    """File of a part, counted from 0: the first has the figure's own name."""
    return path if number == 0 else path.with_name(f"{path.stem}_{number + 1}{path.suffix}")


def part_text(rows: Sequence[Row], number: int, parts: int) -> str:
    """ "Part 2 of 3: students in 3 to 4 passes a chunk. "; "" of a figure that is whole."""
    if parts == 1:
        return ""
    kinds = {kind: sorted({row.total_nfe for row in rows if row.kind == kind}) for kind in _KINDS}
    told = [f"{words}{_passes(kinds[kind])}" for kind, words in _KINDS.items() if kinds[kind]]
    otherwise = "" if rows[0].sampler == "own" else ", not with their own function or noise"
    return f"Part {number + 1} of {parts}: {'; '.join(told)}{otherwise}. "


_KINDS = {"teacher": "undistilled models", "baseline": "baselines", "student": "students"}


def _passes(counts: Sequence[int]) -> str:
    if not any(counts):
        return ""
    span = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f" in {span} passes a chunk"
