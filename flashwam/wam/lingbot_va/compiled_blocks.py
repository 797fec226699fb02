# SPDX-License-Identifier: Apache-2.0
"""A rollout's blocks for compilers: two plain functions of tensors around the cache's attention.

They are the same functions for every block, every session and every model of a size, so each is compiled once a
process for each number of tokens; the cache, whose buffers and lengths differ, stays outside.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache as kept_for_good
from typing import Any

import torch
from torch import Tensor, nn

from flashwam.wam.lingbot_va.cache import RolloutCache
from flashwam.wam.lingbot_va.layers import KeyValue, TransformerBlock

__all__ = ["CompiledTrunk"]

_MOST_SHAPES = 64
"""Kinds of passes, of guided and plain models of all sizes in a process; torch's own limit is 8."""


def _project(block: TransformerBlock, x: Tensor, modulation: Tensor, rotary: Tensor, queries: int) -> Any:
    return block.project(x, block.modulation_table(modulation), rotary, queries)


def _finish(
    block: TransformerBlock, x: Tensor, modulation: Tensor, attended: Tensor, text_k: Tensor, text_v: Tensor
) -> Tensor:
    return block.finish(x, block.modulation_table(modulation), attended, text_k, text_v)


def _key_value(block: TransformerBlock, x: Tensor, modulation: Tensor, rotary: Tensor) -> KeyValue:
    return block.key_value(x, modulation, rotary=rotary)


@kept_for_good
def _compiled(**options: Any) -> tuple[Callable[..., Any], ...]:
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, _MOST_SHAPES)
    return tuple(
        torch.compile(part, dynamic=False, fullgraph=True, **options) for part in (_project, _finish, _key_value)
    )


@dataclass(frozen=True, slots=True)
class CompiledTrunk:
    """`cached_trunk` in compiled parts."""

    options: tuple[tuple[str, Any], ...] = ()
    """For `torch.compile`: names and values."""

    def __call__(
        self,
        blocks: nn.ModuleList,
        h: Tensor,
        modulation: Tensor,
        rotary: Tensor,
        text: Sequence[KeyValue],
        cache: RolloutCache,
        queries: int,
    ) -> Tensor:
        """See `cached_trunk`."""
        project, finish, key_value = _compiled(**dict(self.options))
        last = len(text) - 1
        for index, (block, (text_k, text_v)) in enumerate(zip(blocks, text, strict=False)):
            wanted = queries if index == last else h.shape[1]
            if not wanted:
                cache.write(index, *key_value(block, h, modulation, rotary))
                return h
            attended = cache.attend(index)(*project(block, h, modulation, rotary, wanted))
            h = finish(block, h, modulation, attended, text_k, text_v)
        return h
