# SPDX-License-Identifier: Apache-2.0
"""Keys and values of a rollout's past.

Shapes: R rows (episodes; twice as many under guidance), S tokens of a pass, d head dimension.

Blocks (one chunk's video, one chunk's actions) follow each other in one contiguous buffer, so attention reads a slice
of it: the window moves the slice's start, forgetting predictions moves its end, and nothing is gathered.
"""

from collections.abc import Callable
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
        self._reach = (0, 0, 0)
        self._rows = rows

    @property
    def end(self) -> int:
        """End of the last block in the buffer."""
        return self.blocks[-1].end if self.blocks else 0

    @property
    def has_predicted(self) -> bool:
        """Whether imagined tokens are held."""
        return any(block.predicted for block in self.blocks)

    def open(self, index: int, tokens: int, *, rows: int | None = None) -> None:
        """Make ready for a pass of one block; until `close` its tokens are temporary.

        Args:
            index: Block id of the coming tokens.
            tokens: How many they are.
            rows: The pass runs the first so many rows; all by default.
        """
        if self.end + tokens > self._buffer.shape[4]:
            self._make_room(tokens)
        begin = next((block.begin for block in self.blocks if block.index >= index - self.window), self.end)
        self._reach = (begin, self.end, self.end + tokens)
        self._rows = self._buffer.shape[2] if rows is None else rows

    def attend(self, layer: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """Attention of the opened tokens over all in reach, themselves included; it writes their keys and values."""

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.write(layer, k, v)
            begin, _, end = self._reach
            keys, values = self._buffer[:, layer, : self._rows, :, begin:end]
            return functional.scaled_dot_product_attention(q, keys, values)

        return attend

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Write the opened tokens' keys and values, [R, heads, S, d] each."""
        _, start, end = self._reach
        held = self._buffer[:, layer, : self._rows, :, start:end]
        held[0], held[1] = k, v

    def close(self, index: int, *, predicted: bool) -> None:
        """Keep the tokens of the pass just run as a block."""
        _, start, end = self._reach
        self.blocks.append(Block(index=index, begin=start, end=end, predicted=predicted))

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
