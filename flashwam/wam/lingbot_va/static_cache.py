# SPDX-License-Identifier: Apache-2.0
"""Keys and values of a rollout's past in one buffer of fixed size, for compilers and CUDA graphs.

Every block has a place of its own in a ring of chunks and what a token sees is a mask over the whole ring, so every
pass of a kind has the same shapes and addresses, nothing depends on data, and the host never waits.
Shapes: R rows (episodes; twice as many under guidance), S tokens of a pass, T tokens of the ring, d head dimension.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flashwam.wam.lingbot_va.cache import Block, RolloutCache
from flashwam.wam.lingbot_va.masks import STREAM_OFFSET

__all__ = ["StaticCache"]

_NOTHING = -(1 << 30)


class StaticCache(RolloutCache):
    """A `BlockCache` of fixed shapes.

    Args:
        layers: See `RolloutCache`.
        rows: R.
        window: See `RolloutCache`.
        tokens: Stream name -> tokens of one chunk.
        options: Further arguments of `RolloutCache`; the capacity follows from window and tokens.
    """

    def __init__(self, layers: int, rows: int, *, window: int, tokens: Mapping[str, int], **options: Any) -> None:
        self._sizes = [tokens[stream] for stream in sorted(STREAM_OFFSET, key=STREAM_OFFSET.__getitem__)]
        # A pass reaches from the current chunk's actions to the window of the last chunk's video.
        self._chunks = (window + 1) // 2 + 2
        places = self._chunks * sum(self._sizes)
        super().__init__(layers, rows, window=window, capacity=places, **options)
        device = self.buffer.device
        self._held = torch.full((places,), _NOTHING, device=device)
        self._place = torch.arange(places, device=device)
        self._temporary: list[tuple[int, int]] = []
        self._opened: list[tuple[int, int, int]] = []
        self.where = self._place[:0]
        self.mask = torch.zeros(0, places, dtype=torch.bool, device=device)

    def open(
        self, blocks: Sequence[tuple[int, int]], *, first: Sequence[int] | None = None, rows: int | None = None
    ) -> None:
        """See `RolloutCache.open`; a block must have the size of its stream's chunk and not be held already."""
        for begin, end in self._temporary:
            self._held[begin:end] = _NOTHING
        held = {block.index for block in self.blocks}
        self._opened = []
        lowest = self._place.new_empty(len(self._place))
        for (index, count), seen_from in zip(blocks, self._first(blocks, first), strict=True):
            begin, size = self._of(index)
            if count > size:
                raise ValueError(f"a block of {count} tokens does not fit a chunk of {size}: give whole chunks")
            if index in held:
                raise RuntimeError(f"block {index} is in the cache already: call drop_predicted() first")
            self._opened.append((index, begin, begin + count))
            self._held[begin : begin + count] = index
            lowest[begin : begin + count] = seen_from
        self._temporary = [(begin, end) for _, begin, end in self._opened]
        in_pass = [self._opened[-1], *self._opened[:-1]]
        self.where = torch.cat([self._place[begin:end] for _, begin, end in in_pass])
        own = self._held[self.where][:, None]
        self.mask = (self._held <= own) & (self._held >= lowest[self.where][:, None])
        self.rows = self.buffer.shape[2] if rows is None else rows

    def attend(self, layer: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """See `RolloutCache.attend`."""

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.write(layer, k, v)
            keys, values = self.buffer[0, layer, : self.rows], self.buffer[1, layer, : self.rows]
            return functional.scaled_dot_product_attention(q, keys, values, attn_mask=self.mask[: q.shape[2]])

        return attend

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """See `RolloutCache.write`."""
        self.buffer[0, layer, : self.rows].index_copy_(2, self.where, k)
        self.buffer[1, layer, : self.rows].index_copy_(2, self.where, v)

    def close(self, blocks: Sequence[tuple[int, bool]]) -> None:
        """See `RolloutCache.close`."""
        for (index, predicted), (_, begin, end) in zip(blocks, self._opened, strict=False):
            self.blocks.append(Block(index=index, begin=begin, end=end, predicted=predicted))
        self._temporary = self._temporary[len(blocks) :]

    def drop_predicted(self) -> None:
        """See `RolloutCache.drop_predicted`."""
        for block in self.blocks:
            if block.predicted:
                self._held[block.begin : block.end] = _NOTHING
        super().drop_predicted()

    def _of(self, index: int) -> tuple[int, int]:
        """Place and size of a block."""
        chunk, offset = divmod(index, 2)
        begin = chunk % self._chunks * sum(self._sizes) + sum(self._sizes[:offset])
        return begin, self._sizes[offset]
