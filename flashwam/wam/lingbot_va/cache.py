# SPDX-License-Identifier: Apache-2.0
"""Keys and values of a rollout's past.

Shapes: R rows (episodes; twice as many under guidance), S tokens of a pass, d head dimension.

Blocks (one chunk's video, one chunk's actions) follow each other in one contiguous buffer, so attention reads a slice
of it: the window moves the slice's start, forgetting predictions moves its end, and nothing is gathered.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Block", "BlockCache"]


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
    """Whether these tokens were imagined and may be dropped."""


class BlockCache:
    """Sliding buffer of keys and values of all layers.

    Args:
        layers: Number of layers.
        rows: R.
        heads: Attention heads.
        head_dim: d.
        window: Reach of attention in blocks, as in the training mask: block q sees block k where q - k <= window.
        dtype: Dtype of keys and values.
        device: Their device.
    """

    def __init__(
        self,
        layers: int,
        rows: int,
        *,
        heads: int,
        head_dim: int,
        window: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if window < 1:
            raise ValueError(f"window must be at least 1 block, so that actions see their chunk's video, got {window}")
        self.window = window
        self.blocks: list[Block] = []
        self._buffer = torch.empty(2, layers, rows, heads, 0, head_dim, dtype=dtype, device=device)
        self._reach: list[tuple[int, int, int]] = []
        self._rows = rows

    @property
    def end(self) -> int:
        """End of the last block in the buffer."""
        return self.blocks[-1].end if self.blocks else 0

    def open(self, blocks: Sequence[tuple[int, int]], *, rows: int | None = None) -> None:
        """Make ready for a pass over some blocks; until `close` their tokens are temporary.

        Args:
            blocks: Block id and tokens of each, ascending. In the pass itself the last one comes first, so that the
                last layer can leave the others' queries out.
            rows: The pass runs the first so many rows; all by default.
        """
        tokens = sum(count for _, count in blocks)
        if self.end + tokens > self._buffer.shape[4]:
            self._make_room(tokens)
        starts = [(block.index, block.begin) for block in self.blocks]
        self._reach = []
        end = self.end
        for index, count in blocks:
            starts.append((index, end))
            begin = next(start for held, start in starts if held >= index - self.window)
            self._reach.append((begin, end, end + count))
            end += count
        self._rows = self._buffer.shape[2] if rows is None else rows

    def attend(self, layer: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """Attention of the opened blocks, each over all in its reach; it writes their keys and values.

        Queries may be given for the leading tokens alone.
        """

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.write(layer, k, v)
            keys, values = self._buffer[:, layer, : self._rows]
            attended, at = [], 0
            for begin, start, end in self._in_pass():
                if at == q.shape[2]:
                    break
                part = q[:, :, at : at + end - start]
                attended.append(
                    functional.scaled_dot_product_attention(part, keys[:, :, begin:end], values[:, :, begin:end])
                )
                at += end - start
            return attended[0] if len(attended) == 1 else torch.cat(attended, 2)

        return attend

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Write the opened blocks' keys and values, [R, heads, S, d] each."""
        keys, values = self._buffer[:, layer, : self._rows]
        at = 0
        for _, start, end in self._in_pass():
            keys[:, :, start:end] = k[:, :, at : at + end - start]
            values[:, :, start:end] = v[:, :, at : at + end - start]
            at += end - start

    def close(self, blocks: Sequence[tuple[int, bool]]) -> None:
        """Keep the first opened blocks of the pass just run: block id and whether it is predicted."""
        for (index, predicted), (_, start, end) in zip(blocks, self._reach, strict=False):
            self.blocks.append(Block(index=index, begin=start, end=end, predicted=predicted))

    def _in_pass(self) -> list[tuple[int, int, int]]:
        """Reach, begin and end of the opened blocks in the order of the pass."""
        return [self._reach[-1], *self._reach[:-1]]

    def drop_predicted(self) -> None:
        """Forget every predicted block; observed ones never follow them, so the rest stays contiguous."""
        self.blocks = [block for block in self.blocks if not block.predicted]

    def forget(self, index: int) -> None:
        """Drop the blocks that no block from `index` on can reach."""
        self.blocks = [block for block in self.blocks if block.index >= index - self.window]

    def _make_room(self, tokens: int) -> None:
        """Move the blocks to the buffer's head, into a larger buffer if that alone does not do."""
        first = self.blocks[0].begin if self.blocks else 0
        held = self._buffer[..., first : self.end, :]
        capacity, needed = self._buffer.shape[4], self.end - first + tokens
        if needed > capacity // 2:
            shape = list(self._buffer.shape)
            shape[4] = 2 * needed
            self._buffer = self._buffer.new_empty(shape)
        else:
            held = held.clone()
        self._buffer[..., : self.end - first, :] = held
        self.blocks = [replace(block, begin=block.begin - first, end=block.end - first) for block in self.blocks]
