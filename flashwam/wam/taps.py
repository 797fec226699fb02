# SPDX-License-Identifier: Apache-2.0
"""Hidden states on their way through a stack of blocks.

Letters: B samples, S tokens, D width of a block, F latent frames, h and w tokens of a frame.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from flashwam.system.errors import InputError

__all__ = ["FeatureTap", "check_blocks"]


def check_blocks(blocks: object, count: int | None = None) -> None:
    """Refuses what does not name blocks to look into.

    Args:
        blocks: Which, from 0, ascending.
        count: How many there are; None where that is not known yet.

    Raises:
        ValueError: A block does not exist, is no whole number, is named twice or out of order, or none is named.
    """
    numbers = list(blocks) if isinstance(blocks, Sequence) and not isinstance(blocks, str) else []
    whole = bool(numbers) and all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in numbers)
    if not whole or numbers != sorted(set(numbers)) or (count is not None and numbers[-1] >= count):
        there = "whole numbers from 0" if count is None else f"some of 0..{count - 1}"
        raise InputError(f"blocks must be {there}, ascending; got {numbers or blocks}")


class FeatureTap:
    """Collects the hidden states that chosen blocks put out, each normalised over its channels without weights.

    Args:
        blocks: Which, from 0, ascending.
        count: How many blocks there are.

    Attributes:
        depth: Blocks that have to run.

    Raises:
        ValueError: See `check_blocks`.
    """

    def __init__(self, blocks: Sequence[int], count: int) -> None:
        check_blocks(blocks, count)
        self.depth = blocks[-1] + 1
        self._blocks = tuple(blocks)
        self._taken: list[Tensor] = []

    def take(self, block: int, hidden: Tensor) -> None:
        """Notes what a block put out, [B, S, D], if it is one of those asked for."""
        if block in self._blocks:
            hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
            self._taken.append(functional.layer_norm(hidden, hidden.shape[-1:]))

    def maps(self, grid: tuple[int, int, int]) -> Tensor:
        """Everything taken, in the blocks' order: [B, D * blocks, F, h, w], float32 or better.

        Args:
            grid: (F, h, w) of the tokens, which lie frame after frame, row after row.
        """
        return torch.cat(self._taken, -1).transpose(1, 2).unflatten(2, grid)
