# SPDX-License-Identifier: Apache-2.0
"""The teacher-forced pass's attention by torch's flex attention, which leaves out tiles that nobody sees.

One kernel serves every layer, role and length of a process: lengths are symbols to the compiler, and the mask reaches
it as tensors. A mask is made once for a kind of pass, slab by slab, so that it never lies in memory as a whole.

Shapes: S tokens, Q of them queries (they come first), R and K tiles of 128 queries and keys, d head dimension.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.fx.experimental import _config as shape_config
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from flashwam.system.errors import InputError
from flashwam.wam.compiling import compiled
from flashwam.wam.lingbot_va.mask_rule import allowed

__all__ = ["Tiles", "flex_attend", "mask_tiles"]

TILE = 128
SLAB = 8 * TILE
"""Queries whose mask is in memory at a time."""


class Tiles(NamedTuple):
    """The tiles that are looked at: some places visible, or all of them; in the order of `BlockMask`.

    Numbers are int32 [1, 1, R] of key tiles for each query tile ([1, 1, K] of query tiles for each key tile), indices
    [1, 1, R, K] ([1, 1, K, R]), those that count first.
    """

    kv_num_blocks: Tensor
    kv_indices: Tensor
    full_kv_num_blocks: Tensor
    full_kv_indices: Tensor
    q_num_blocks: Tensor
    q_indices: Tensor
    full_q_num_blocks: Tensor
    full_q_indices: Tensor


def mask_tiles(block: Tensor, is_noisy: Tensor, window: Tensor, queries: int) -> Tiles:
    """Finds the tiles of the mask that `allowed` gives.

    Args:
        block: Block id of every token, int [S].
        is_noisy: Whether it is a noisy one, bool [S].
        window: See `allowed`.
        queries: Leading tokens that are queries.
    """
    slabs = []
    for begin in range(0, queries, SLAB):
        rows = slice(begin, min(begin + SLAB, queries))
        mask = allowed(block[rows, None], is_noisy[rows, None], block[None], is_noisy[None], window)
        mask = functional.pad(mask, (0, -mask.shape[1] % TILE, 0, -mask.shape[0] % TILE))
        slabs.append(mask.unflatten(1, (-1, TILE)).unflatten(0, (-1, TILE)).sum((1, 3), dtype=torch.int32))
    visible = torch.cat(slabs)
    full = visible == TILE * TILE
    some = (visible > 0) & ~full
    return Tiles(*_ordered(some), *_ordered(full), *_ordered(some.T), *_ordered(full.T))


def _ordered(tiles: Tensor) -> tuple[Tensor, Tensor]:
    """The number of tiles of every row that count, and the tiles with those first, each in rising order."""
    order = torch.argsort(tiles.int(), dim=-1, descending=True, stable=True)
    return tiles.sum(-1, dtype=torch.int32)[None, None].contiguous(), order.int()[None, None].contiguous()


def flex_attend(
    block: Tensor, is_noisy: Tensor, window: int, queries: int
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Attention of the first `queries` tokens, [B, heads, Q or S, d] each; arguments as in `mask_tiles`."""
    # A tensor, since a number would be compiled in and every window would compile its own kernel.
    reach = torch.tensor(window, device=block.device)
    tiles = mask_tiles(block, is_noisy, reach, queries)
    for held in (block, is_noisy):
        torch._dynamo.maybe_mark_dynamic(held, 0)
    for held in tiles:
        torch._dynamo.maybe_mark_dynamic(held, list(range(2, held.ndim)))

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        check_gradients(q, k, v)
        if torch.is_autocast_enabled(q.device.type):
            # As autocast does for torch's other attention; it does not know this one.
            q, k, v = (x.to(torch.get_autocast_dtype(x.device.type)) for x in (q, k, v))
        for x in (q, k, v):
            torch._dynamo.maybe_mark_dynamic(x, 2)
        # Queries and keys may be as many: the compiler would take that for a rule, and compile again where they differ.
        with shape_config.patch(use_duck_shape=False):
            return compiled(_attention, dynamic=None)(q, k, v, tiles, block, is_noisy, reach)

    return attend


def check_gradients(*tensors: Tensor) -> None:
    """Refuses gradients where torch has none, before its compiler says so in words of its own.

    Raises:
        ValueError: They are wanted on a CPU.
    """
    if any(x.requires_grad and x.device.type == "cpu" for x in tensors):
        raise InputError(
            "attention flex does not support backward on CPU (torch has no such kernel): train there with "
            "wam.config.attention=sdpa, which computes the same"
        )


def _attention(q: Tensor, k: Tensor, v: Tensor, tiles: Tiles, block: Tensor, is_noisy: Tensor, reach: Tensor) -> Tensor:
    def rule(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return allowed(block[i], is_noisy[i], block[j], is_noisy[j], reach)

    mask = BlockMask((q.shape[2], k.shape[2]), *tiles, BLOCK_SIZE=(TILE, TILE), mask_mod=rule)
    return flex_attention(q, k, v, block_mask=mask)
