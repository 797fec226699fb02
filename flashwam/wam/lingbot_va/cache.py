# SPDX-License-Identifier: Apache-2.0
"""Keys and values of a rollout's past.

Shapes: R rows (episodes; twice as many under guidance), S tokens of a pass, d head dimension.

In a `BlockCache` blocks (one chunk's video, one chunk's actions) follow each other in one contiguous buffer, so
attention reads a slice of it: the window moves the slice's start, forgetting predictions moves its end, and nothing is
gathered.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from flashwam.system.errors import InputError

__all__ = ["Block", "BlockCache", "RolloutCache"]


@dataclass(frozen=True, slots=True)
class Block:
    """One stretch of the buffer."""

    index: int
    """Block id: 2c for chunk c's video, 2c + 1 for its actions."""
    begin: int
    """First token in the buffer."""
    end: int
    """One past the last token."""
    predicted: bool
    """True if these tokens were imagined and may be dropped."""


_Reach = tuple[int, int, int]
"""First place that a block sees, its own first place, and the end of both."""


class RolloutCache(ABC):
    """Keys and values of all layers; what a rollout asks of them, whatever their buffer.

    Args:
        layers: Number of layers.
        rows: R.
        heads: Attention heads.
        head_dim: d.
        window: Farthest reach of attention in blocks, as in the training mask: block q sees block k where
            q - k <= window.
        capacity: Tokens that the buffer has room for at first.
        dtype: Dtype of keys and values.
        device: Their device.

    Attributes:
        blocks: What is held, ascending.
        buffer: [2, layers, R, heads, capacity, d], keys and values.
        rows: Rows of the opened pass.
    """

    fixed_shapes: bool = False
    """True where passes are of few kinds, whatever came before them: then observed blocks of one chunk go in one pass,
    and attention may be planned for its shapes."""

    def __init__(
        self,
        layers: int,
        rows: int,
        *,
        heads: int,
        head_dim: int,
        window: int,
        capacity: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if window < 1:
            raise InputError(f"window must be at least 1 block, so that actions see their chunk's video, got {window}")
        self.window = window
        self.blocks: list[Block] = []
        # Zeros, since what is masked is still multiplied.
        self.buffer = torch.zeros(2, layers, rows, heads, capacity, head_dim, dtype=dtype, device=device)
        self.rows = rows
        self._reach: list[_Reach] = []

    @property
    def end(self) -> int:
        """End of the last block."""
        return self.blocks[-1].end if self.blocks else 0

    @abstractmethod
    def open(
        self, blocks: Sequence[tuple[int, int]], *, first: Sequence[int] | None = None, rows: int | None = None
    ) -> None:
        """Makes ready for a pass over some blocks; until `close` their tokens are temporary.

        Args:
            blocks: Block id and tokens of each, ascending. In the pass itself the last one comes first, so that the
                last layer can leave the others' queries out.
            first: Lowest block id that each of them sees, at most `window` before its own; by default just that.
            rows: The pass runs the first so many rows; all by default.
        """

    @abstractmethod
    def begin(self) -> None:
        """Makes on the device what the opened pass needs there; the first thing that a pass does."""

    @abstractmethod
    def attend(self, layer: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """Attention of the opened blocks, each over all in its reach; it writes their keys and values.

        Queries may be given for the leading tokens alone.
        """

    @abstractmethod
    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Writes the opened blocks' keys and values, [R, heads, S, d] each."""

    def close(self, blocks: Sequence[tuple[int, bool]]) -> None:
        """Keeps the first opened blocks of the pass just run: block id and whether it is predicted."""
        for (index, predicted), (_, start, end) in zip(blocks, self._reach, strict=False):
            self.blocks.append(Block(index=index, begin=start, end=end, predicted=predicted))

    def drop_predicted(self) -> None:
        """Forgets every predicted block; observed ones never follow them, so the rest stays contiguous."""
        self.blocks = [block for block in self.blocks if not block.predicted]

    def drop_from(self, index: int) -> None:
        """Forgets block `index` and all that follow it."""
        self.blocks = [block for block in self.blocks if block.index < index]

    def _reaches(self, blocks: Sequence[tuple[int, int]], first: Sequence[int] | None) -> list[_Reach]:
        """Reach of blocks that follow the last one, each after the other."""
        starts, end, reaches = [(block.index, block.begin) for block in self.blocks], self.end, []
        for (index, count), lowest in zip(blocks, self._first(blocks, first), strict=True):
            starts.append((index, end))
            begin = next(start for held, start in starts if held >= lowest)
            reaches.append((begin, end, end + count))
            end += count
        return reaches

    def _in_pass(self) -> list[_Reach]:
        """Reach of the opened blocks in the order of the pass."""
        return [self._reach[-1], *self._reach[:-1]]

    def _first(self, blocks: Sequence[tuple[int, int]], first: Sequence[int] | None) -> Sequence[int]:
        return [index - self.window for index, _ in blocks] if first is None else first

    def forget(self, index: int) -> None:
        """Drops the blocks that no block from `index` on can reach."""
        self.blocks = [block for block in self.blocks if block.index >= index - self.window]


class BlockCache(RolloutCache):
    """A sliding buffer that grows with what is in it; arguments are those of `RolloutCache`."""

    def open(
        self, blocks: Sequence[tuple[int, int]], *, first: Sequence[int] | None = None, rows: int | None = None
    ) -> None:
        """See `RolloutCache.open`."""
        tokens = sum(count for _, count in blocks)
        if self.end + tokens > self.buffer.shape[4]:
            self._make_room(tokens)
        self._reach = self._reaches(blocks, first)
        self.rows = self.buffer.shape[2] if rows is None else rows

    def begin(self) -> None:
        """See `RolloutCache.begin`; there is nothing."""

    def attend(self, layer: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """See `RolloutCache.attend`."""

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.write(layer, k, v)
            keys, values = self.buffer[:, layer, : self.rows]
            attended, at = [], 0
            for begin, start, end in self._in_pass():
                if at == q.shape[2]:
                    break
                part = q[:, :, at : at + end - start]
                attended.append(
                    functional.scaled_dot_product_attention(part, keys[:, :, begin:end], values[:, :, begin:end])
                )
                at += end - start
            if len(attended) == 1:
                return attended[0]
            # Laid out token after token, as attention itself puts it out: whoever goes on compiles one layout.
            return torch.cat([part.transpose(1, 2) for part in attended], 1).transpose(1, 2)

        return attend

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """See `RolloutCache.write`."""
        keys, values = self.buffer[:, layer, : self.rows]
        at = 0
        for _, start, end in self._in_pass():
            keys[:, :, start:end] = k[:, :, at : at + end - start]
            values[:, :, start:end] = v[:, :, at : at + end - start]
            at += end - start

    def _make_room(self, tokens: int) -> None:
        """Move the blocks to the buffer's head, into a larger buffer if that alone does not do."""
        first = self.blocks[0].begin if self.blocks else 0
        held = self.buffer[..., first : self.end, :]
        capacity, needed = self.buffer.shape[4], self.end - first + tokens
        if needed > capacity // 2:
            shape = list(self.buffer.shape)
            shape[4] = 2 * needed
            self.buffer = self.buffer.new_empty(shape)
        else:
            held = held.clone()
        self.buffer[..., : self.end - first, :] = held
        self.blocks = [replace(block, begin=block.begin - first, end=block.end - first) for block in self.blocks]
