# SPDX-License-Identifier: Apache-2.0
"""Programs of a GPU into which the attention over a ring is cut."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Launch", "launch_for", "tiles_of"]

_MOST_SPLITS = 8


@dataclass(frozen=True, slots=True)
class Launch:
    """Sizes of an attention's programs.

    Args:
        queries: Of a tile.
        keys: That it looks at in one go.
        splits: Parts of what it sees.
        stages: Steps that are loaded ahead.
        warps: Of a program.
    """

    queries: int
    keys: int
    splits: int
    stages: int
    warps: int


def launch_for(
    tokens: Sequence[int], lines: int, *, head_dim: int, number_bytes: int, processors: int, memory: int
) -> Launch:
    """Chooses tiles so that all processors have work.

    Large tiles read keys less often, so they are taken where they are enough; measured on an H100 at the sizes of
    LingBot-VA.

    Args:
        tokens: Queries of the blocks.
        lines: Rows times heads.
        head_dim: d.
        number_bytes: Of a key's number.
        processors: Of the GPU.
        memory: Bytes of shared memory that a program can have.
    """
    row = head_dim * number_bytes
    keys = 64 if number_bytes <= 2 else 32

    def fits(queries: int, stages: int) -> bool:
        return queries * row + 2 * stages * keys * row <= memory

    enough = 10 * lines * sum(-(-count // 128) for count in tokens) >= 9 * processors
    large = enough and number_bytes <= 2 and fits(128, 2)
    queries, splits = 128 if large else next((n for n in (64, 32) if fits(n, 1)), 16), 1
    if not large:
        programs = lines * sum(-(-count // queries) for count in tokens)
        splits = min(max(2 * processors // programs, 1), _MOST_SPLITS)
    stages = next((n for n in (3, 2) if fits(queries, n)), 1)
    return Launch(queries, keys, splits, stages, 8 if queries == 128 else 4)


def tiles_of(tokens: Sequence[int], size: int) -> list[tuple[int, int, int]]:
    """First query, number of queries and block of every tile."""
    tiles, at = [], 0
    for block, count in enumerate(tokens):
        tiles += [(at + first, min(size, count - first), block) for first in range(0, count, size)]
        at += count
    return tiles
