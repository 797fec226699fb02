# SPDX-License-Identifier: Apache-2.0
"""The transformer's blocks over new tokens of a rollout, whose past lies in a cache.

Shapes: B batch, S new tokens, D width.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from flashwam.wam.lingbot_va.cache import RolloutCache
from flashwam.wam.lingbot_va.layers import APART, Fused, KeyValue
from flashwam.wam.taps import FeatureTap

__all__ = ["Trunk", "cached_taps", "cached_trunk"]


class Trunk(Protocol):
    """`cached_trunk`, or another way to compute the same."""

    def __call__(
        self,
        blocks: nn.ModuleList,
        h: Tensor,
        modulation: Tensor,
        rotary: Tensor,
        text: Sequence[KeyValue],
        cache: RolloutCache,
        queries: int,
        *,
        fused: Sequence[Fused] | None = None,
    ) -> Tensor:
        """Runs the blocks; `fused` has what is fused of each, nothing if None."""


def cached_trunk(
    blocks: nn.ModuleList,
    h: Tensor,
    modulation: Tensor,
    rotary: Tensor,
    text: Sequence[KeyValue],
    cache: RolloutCache,
    queries: int,
    *,
    fused: Sequence[Fused] | None = None,
) -> Tensor:
    """The blocks that have text; the last one for the leading `queries` tokens, or for keys and values alone."""
    last, ways = len(text) - 1, fused or [APART] * len(text)
    for index, block in enumerate(blocks[:last]):
        h = block(h, modulation, rotary=rotary, text=text[index], attend=cache.attend(index), fused=ways[index])
    block = blocks[last]
    if not queries:
        cache.write(last, *block.key_value(h, modulation, rotary=rotary))
        return h
    attend = cache.attend(last)
    return block(h, modulation, rotary=rotary, text=text[last], attend=attend, queries=queries, fused=ways[last])


def cached_taps(
    blocks: nn.ModuleList,
    h: Tensor,
    modulation: Tensor,
    rotary: Tensor,
    text: Sequence[KeyValue],
    cache: RolloutCache,
    queries: int,
    tap: FeatureTap,
) -> None:
    """The blocks down to the tap's deepest, which takes of each the leading `queries` tokens."""
    for index, block in enumerate(blocks[: tap.depth]):
        wanted = queries if index == tap.depth - 1 else None
        h = block(h, modulation, rotary=rotary, text=text[index], attend=cache.attend(index), queries=wanted)
        tap.take(index, h[:, :queries])
