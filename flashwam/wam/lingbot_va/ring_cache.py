# SPDX-License-Identifier: Apache-2.0
"""Keys and values of a rollout's past in one buffer of fixed size, for compilers and CUDA graphs.

Every block has a place that follows from its chunk: while an episode is young it never moves, and once the window is
full everything moves down by a chunk between two chunks. So every pass of a kind has the same shapes and addresses
whatever came before it, nothing depends on data, and the host never waits.

While the episode is young a pass attends to the first places, as many as a ladder of few lengths says, under a mask.
Once the window is full the blocks in reach lie side by side at places that never change, and attention needs no mask.
Shapes: R rows (episodes; twice as many under guidance), S tokens of a pass, T places that it attends to, d head
dimension.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from flashwam.wam.lingbot_va.cache import Block, Reach, RolloutCache, attend_to_reaches, write_to_reaches
from flashwam.wam.lingbot_va.masks import STREAM_OFFSET

__all__ = ["PassPlan", "StaticCache", "window_chunks"]

_NOTHING = -(1 << 30)


@dataclass(frozen=True, slots=True)
class PassPlan:
    """All of an opened pass that a recording of it holds fast."""

    tokens: tuple[int, ...]
    """Tokens of every block, in the order of the pass."""
    chunks: int
    """Chunks of places that are attended to under a mask; 0 where there is none."""
    reaches: tuple[Reach, ...] = ()
    """Reach of every block where no mask is needed, in the order of the pass."""


class StaticCache(RolloutCache):
    """A `RolloutCache` of fixed shapes.

    Args:
        layers: See `RolloutCache`.
        rows: R.
        window: See `RolloutCache`.
        tokens: Stream name -> tokens of one chunk.
        options: Further arguments of `RolloutCache`; the capacity follows from window and tokens.

    Attributes:
        plan: Of the opened pass.
        control: Numbers that tell passes of one plan apart, int64, at a fixed address.
    """

    one_chunk_at_a_time = True

    def __init__(self, layers: int, rows: int, *, window: int, tokens: Mapping[str, int], **options: Any) -> None:
        self._sizes = [tokens[stream] for stream in sorted(STREAM_OFFSET, key=STREAM_OFFSET.__getitem__)]
        self._chunk_tokens = sum(self._sizes)
        self.chunks = window_chunks(window)
        super().__init__(layers, rows, window=window, capacity=self.chunks * self._chunk_tokens, **options)
        self.control = torch.zeros(10 * self.chunks, dtype=torch.int64, device=self.buffer.device)
        self.plan = PassPlan((), 0)
        self._base = 0
        self._opened: list[tuple[int, int, int]] = []
        # Kept as long as the cache, since recordings read them.
        self._numbers: dict[PassPlan, tuple[Tensor, Tensor, Tensor, Tensor]] = {}
        self._where: Tensor | None = None
        self._mask: Tensor | None = None

    def open(
        self, blocks: Sequence[tuple[int, int]], *, first: Sequence[int] | None = None, rows: int | None = None
    ) -> None:
        """See `RolloutCache.open`; a block must have the size of its stream's chunk and not be held already."""
        lowest = self._first(blocks, first)
        self._make_room(blocks[-1][0] // 2, needed=min(lowest))
        held = {block.index for block in self.blocks}
        self._opened = []
        for index, count in blocks:
            begin, size = self._of(index)
            if count > size:
                raise ValueError(f"a block of {count} tokens does not fit a chunk of {size}: give whole chunks")
            if index in held:
                raise RuntimeError(f"block {index} is in the cache already: call drop_predicted() first")
            self._opened.append((index, begin, begin + count))
        self.rows = self.buffer.shape[2] if rows is None else rows
        self._where = self._mask = None
        self._plan(lowest)

    def begin(self) -> None:
        """See `RolloutCache.begin`."""
        plan = self.plan
        if plan.reaches:
            return
        part, offset, place, block = self._numbers[plan]
        ids, ends = self.control[: 4 * plan.chunks].view(2, -1).index_select(1, block)
        numbers = self.control[4 * plan.chunks : 4 * plan.chunks + 3 * len(plan.tokens)]
        begin, own, lowest = numbers.view(3, -1).index_select(1, part)
        self._where = begin + offset
        held = ids.masked_fill(place >= ends, _NOTHING)
        hidden = (held > own[:, None]) | (held < lowest[:, None])
        # Numbers to add, since attention would make them anew of truth values in every layer.
        self._mask = self.buffer.new_zeros(hidden.shape).masked_fill(hidden, float("-inf"))

    def attend(self, layer: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """See `RolloutCache.attend`."""

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.write(layer, k, v)
            keys, values = self.buffer[:, layer, : self.rows]
            if self.plan.reaches:
                return attend_to_reaches(q, keys, values, self.plan.reaches)
            places, mask = self.plan.chunks * self._chunk_tokens, self._mask
            assert mask is not None
            return functional.scaled_dot_product_attention(
                q, keys[:, :, :places], values[:, :, :places], attn_mask=mask[: q.shape[2]]
            )

        return attend

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """See `RolloutCache.write`."""
        keys, values = self.buffer[:, layer, : self.rows]
        if self.plan.reaches:
            write_to_reaches(keys, values, k, v, self.plan.reaches)
            return
        assert self._where is not None
        keys.index_copy_(2, self._where, k)
        values.index_copy_(2, self._where, v)

    def close(self, blocks: Sequence[tuple[int, bool]]) -> None:
        """See `RolloutCache.close`."""
        for (index, predicted), (_, begin, end) in zip(blocks, self._opened, strict=False):
            self.blocks.append(Block(index=index, begin=begin, end=end, predicted=predicted))

    def make_room(self, index: int) -> None:
        """See `RolloutCache.make_room`."""
        # The blocks of the chunk before are still to come, and see what is in their own reach.
        self._make_room(index // 2, needed=2 * (index // 2 - 1) - self.window)

    def reset(self) -> None:
        """Forgets everything, for another episode."""
        self.blocks, self._base = [], 0
        # What is masked is still multiplied, and what an episode has left may not be finite.
        self.buffer.zero_()

    def _plan(self, lowest: Sequence[int]) -> None:
        """Says how the opened blocks attend, and tells the device which numbers it takes for that."""
        held = [(block.index, block.begin, block.end) for block in self.blocks] + self._opened
        in_pass = _last_first(self._opened)
        tokens = tuple(end - begin for _, begin, end in in_pass)
        reaches = self._reaches(held, lowest)
        if self._base and reaches is not None:
            self.plan = PassPlan(tokens, 0, reaches)
            return
        newest = self._opened[-1][0] // 2 - self._base
        chunks = next(count for count in _ladder(self.chunks) if count > newest)
        self.plan = PassPlan(tokens, chunks)
        if self.plan not in self._numbers:
            self._numbers[self.plan] = _numbers(tokens, self._sizes, chunks, self.control.device)
        ids, ends = [_NOTHING] * (2 * chunks), [0] * (2 * chunks)
        for index, _, end in held:
            ids[index - 2 * self._base], ends[index - 2 * self._base] = index, end
        numbers = [*ids, *ends, *(begin for _, begin, _ in in_pass), *(index for index, _, _ in in_pass)]
        numbers += _last_first(lowest)
        on_gpu = self.control.device.type == "cuda"
        self.control[: len(numbers)].copy_(torch.tensor(numbers, pin_memory=on_gpu), non_blocking=True)

    def _reaches(self, held: list[tuple[int, int, int]], lowest: Sequence[int]) -> tuple[Reach, ...] | None:
        """Reach of the opened blocks in the order of the pass; None if what one of them sees does not lie side by
        side."""
        reaches = []
        for (own, start, end), low in zip(self._opened, lowest, strict=True):
            seen = [(begin, stop) for index, begin, stop in held if low <= index <= own]
            first, last = min(begin for begin, _ in seen), max(stop for _, stop in seen)
            if sum(stop - begin for begin, stop in seen) != last - first or last != end:
                return None
            reaches.append((first, start, end))
        return tuple(_last_first(reaches))

    def _of(self, index: int) -> tuple[int, int]:
        """Place and size of a block."""
        chunk, offset = divmod(index, 2)
        return (chunk - self._base) * self._chunk_tokens + sum(self._sizes[:offset]), self._sizes[offset]

    def _make_room(self, chunk: int, *, needed: int) -> None:
        """Moves everything down until a chunk has its place, which may push out blocks below `needed` alone."""
        over = chunk - self._base - self.chunks + 1
        if over <= 0:
            return
        step = over * self._chunk_tokens
        pushed_out = [block.index for block in self.blocks if block.begin < step]
        if pushed_out and pushed_out[-1] >= needed:
            raise RuntimeError(f"chunk {chunk} pushes out block {pushed_out[-1]}, which is still to be seen")
        # From the lowest on, chunk by chunk, so that nothing is written over before it has moved.
        for begin in range(step, self.buffer.shape[4], self._chunk_tokens):
            chunk_at = self.buffer[..., begin : begin + self._chunk_tokens, :]
            self.buffer[..., begin - step : begin - step + self._chunk_tokens, :] = chunk_at
        self._base += over
        self.blocks = [
            replace(block, begin=block.begin - step, end=block.end - step)
            for block in self.blocks
            if block.begin >= step
        ]


def window_chunks(window: int) -> int:
    """Chunks that a pass can reach: from the current one's actions to the window of the last one's video."""
    return (window + 1) // 2 + 2


def _last_first(blocks: Sequence[Any]) -> list[Any]:
    return [blocks[-1], *blocks[:-1]]


def _ladder(chunks: int) -> tuple[int, ...]:
    """Lengths in chunks that are attended to: powers of two from 4 on as long as they save a quarter, then all."""
    powers = (2**k for k in range(2, chunks.bit_length()))
    return (*(count for count in powers if 4 * count <= 3 * chunks), chunks)


def _numbers(
    tokens: Sequence[int], sizes: Sequence[int], chunks: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For every token of a pass its block in the pass and its number in it; for every place itself and its block."""
    with torch.inference_mode(False):
        part = torch.repeat_interleave(torch.arange(len(tokens)), torch.tensor(tokens))
        offset = torch.cat([torch.arange(count) for count in tokens])
        block = torch.repeat_interleave(torch.arange(2 * chunks), torch.tensor([*sizes] * chunks))
        return part.to(device), offset.to(device), torch.arange(len(block), device=device), block.to(device)
