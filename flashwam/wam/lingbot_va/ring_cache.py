# SPDX-License-Identifier: Apache-2.0
"""Keys and values of a rollout's past in one ring of fixed size, for compilers and CUDA graphs.

Blocks follow each other round the ring, so what a block sees is always one stretch of it. Where that stretch begins,
how long it is and where the new tokens go are numbers on the device: every pass of a kind has the same shapes and
addresses whatever came before it, nothing is ever moved, and the host never waits.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from flashwam.wam.lingbot_va.cache import RolloutCache
from flashwam.wam.lingbot_va.masks import STREAM_OFFSET
from flashwam.wam.lingbot_va.ring_choice import make_ring_pass
from flashwam.wam.lingbot_va.ring_passes import MOST_BLOCKS, Ready, RingPass

__all__ = ["RingCache"]


class RingCache(RolloutCache):
    """A `RolloutCache` of fixed shapes.

    Args:
        layers: See `RolloutCache`.
        rows: See `RolloutCache`.
        window: See `RolloutCache`.
        tokens: Stream name -> tokens of one chunk.
        options: Further arguments of `RolloutCache`; the capacity follows from window and tokens.

    Attributes:
        plan: Tokens of the opened blocks in the order of the pass: all that a recording of it holds fast.
        control: First place, length and own first place of what each of them sees, int32 [blocks, 3], at a fixed
            address.
    """

    fixed_shapes = True

    def __init__(self, layers: int, rows: int, *, window: int, tokens: Mapping[str, int], **options: Any) -> None:
        # From the current chunk's actions to the window of the last one's video.
        self.places = ((window + 1) // 2 + 2) * sum(tokens[stream] for stream in STREAM_OFFSET)
        super().__init__(layers, rows, window=window, capacity=self.places, **options)
        self.control = torch.zeros(MOST_BLOCKS, 3, dtype=torch.int32, device=self.buffer.device)
        self.plan: tuple[int, ...] = ()
        self._ready = Ready()
        # Kept as long as the cache, since recordings read them.
        self._passes: dict[tuple[int, ...], RingPass] = {}

    def open(
        self, blocks: Sequence[tuple[int, int]], *, first: Sequence[int] | None = None, rows: int | None = None
    ) -> None:
        """See `RolloutCache.open`."""
        for (before, _), (index, _) in pairwise([*((block.index, 0) for block in self.blocks[-1:]), *blocks]):
            if index <= before:
                raise RuntimeError(
                    f"block {index} comes after {before}, which is in the cache already: blocks come in their "
                    "order, so call drop_predicted() first"
                )
        self._reach = self._reaches(blocks, first)
        lowest = min([block.begin for block in self.blocks[:1]] + [self._reach[0][1]])
        if self._reach[-1][2] - lowest > self.places:
            raise ValueError(
                f"blocks of {[count for _, count in blocks]} tokens do not fit a ring of {self.places} that holds "
                f"{self.end - lowest}: give whole chunks, one at a time"
            )
        if len(blocks) > MOST_BLOCKS:
            raise ValueError(f"a pass has at most {MOST_BLOCKS} blocks, got {len(blocks)}")
        self.rows = self.buffer.shape[2] if rows is None else rows
        in_pass = self._in_pass()
        self.plan = tuple(end - start for _, start, end in in_pass)
        if self.plan not in self._passes:
            self._passes[self.plan] = make_ring_pass(self.plan, self.control, self.buffer)
        on_gpu = self.control.device.type == "cuda"
        numbers = [(begin % self.places, end - begin, start % self.places) for begin, start, end in in_pass]
        given = torch.tensor(numbers, dtype=torch.int32, pin_memory=on_gpu)
        self.control[: len(numbers)].copy_(given, non_blocking=True)

    def begin(self) -> None:
        """See `RolloutCache.begin`."""
        self._ready = self._passes[self.plan].begin()

    def attend(self, layer: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """See `RolloutCache.attend`."""

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.write(layer, k, v)
            # Under autocast a pass may be in other numbers than the past, which is in the text's.
            keys, values = self.buffer[:, layer, : self.rows]
            return self._passes[self.plan].attend(self._ready, q.to(keys.dtype), keys, values).to(q.dtype)

        return attend

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """See `RolloutCache.write`."""
        keys, values = self.buffer[:, layer, : self.rows]
        self._passes[self.plan].write(self._ready, keys, values, k.to(keys.dtype), v.to(keys.dtype))

    def reset(self) -> None:
        """Forgets everything, for another episode."""
        self.blocks = []
        # Where a mask hides places they are multiplied all the same, and what an episode has left may not be finite.
        self.buffer.zero_()
