# SPDX-License-Identifier: Apache-2.0
"""The original's cache as it works: one pool of slots, ids by age, and eviction that nothing takes back."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from flashwam.wam.lingbot_va import LingBotSession
from flashwam.wam.lingbot_va.cache import RolloutCache


class OriginalCache(RolloutCache):
    """A pool of `capacity` slots; a pass takes free ones, and the oldest where too few are free.

    Whatever reach its caller has in mind, tokens see all that the pool holds.
    """

    def __init__(self, layers: int, rows: int, *, capacity: int, **options: object) -> None:
        super().__init__(layers, rows, capacity=capacity, **options)
        self.id = torch.full((capacity,), -1)
        self.mask = torch.zeros(capacity, dtype=torch.bool)
        self.is_pred = torch.zeros(capacity, dtype=torch.bool)
        self.opened = torch.zeros(0, dtype=torch.long)

    def open(
        self, blocks: Sequence[tuple[int, int]], *, first: Sequence[int] | None = None, rows: int | None = None
    ) -> None:
        ((_, tokens),) = blocks
        self.rows = self.buffer.shape[2] if rows is None else rows
        missing = tokens - int((~self.mask).sum())
        if missing > 0:
            held = self.mask.nonzero().flatten()
            self.mask[held[self.id[held].argsort(stable=True)[:missing]]] = False
        newest = int(self.id[self.mask].max()) if self.mask.any() else -1
        self.opened = (~self.mask).nonzero().flatten()[:tokens]
        self.id[self.opened] = newest + 1
        self.mask[self.opened] = True
        self.is_pred[self.opened] = False

    def begin(self) -> None:
        pass

    def attend(self, layer: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.write(layer, k, v)
            keys, values = self.buffer[:, layer, : self.rows, :, self.mask]
            return functional.scaled_dot_product_attention(q, keys, values)

        return attend

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        self.buffer[0, layer, : self.rows, :, self.opened] = k
        self.buffer[1, layer, : self.rows, :, self.opened] = v

    def close(self, blocks: Sequence[tuple[int, bool]]) -> None:
        if blocks:
            ((_, predicted),) = blocks
            self.is_pred[self.opened] = predicted
        else:
            self.mask[self.opened] = False

    def drop_predicted(self) -> None:
        self.mask &= ~self.is_pred

    def forget(self, index: int) -> None:
        pass


def with_original_cache(session: LingBotSession, *, chunk_tokens: int, chunks: int) -> LingBotSession:
    """The session with a pool for so many chunks in place of its cache; it must not be fused."""
    ours = session._cache
    _, layers, rows, heads, _, dim = ours.buffer.shape
    session._cache = OriginalCache(
        layers, rows, heads=heads, head_dim=dim, window=ours.window, capacity=chunks * chunk_tokens
    )
    return session
