# SPDX-License-Identifier: Apache-2.0
"""The blocks for compilers: plain functions of a block and of tensors around its self-attention.

They are the same functions for every block, every session, every role of a training and every model of a size, so each
is compiled once a process for each number of tokens; attention stays outside, with caches whose lengths differ and
masks of two kinds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from flashwam.wam.compiling import compiled
from flashwam.wam.lingbot_va.cache import RolloutCache
from flashwam.wam.lingbot_va.layers import APART, Fused, Halves, KeyValue, TransformerBlock

__all__ = ["CompiledTrunk", "compiled_halves"]


def compiled_halves(**options: Any) -> Halves:
    """A block's two halves, compiled; the same ones for the same `options`, which go to `torch.compile`."""
    return Halves(compiled(_project, **options), compiled(_finish, **options))


def _project(
    block: TransformerBlock,
    x: Tensor,
    modulation: Tensor,
    rotary: Tensor,
    queries: int,
    together: nn.Module | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    return block.project(x, block.modulation_table(modulation), rotary, queries, together=together)


def _finish(
    block: TransformerBlock,
    x: Tensor,
    modulation: Tensor,
    attended: Tensor,
    text: Tensor | KeyValue,
    gelu_inside: bool = False,
) -> Tensor:
    text_k, text_v = block.attn2.key_value(text) if isinstance(text, Tensor) else text
    table = block.modulation_table(modulation)
    return block.finish(x, table, attended, text_k, text_v, gelu_inside=gelu_inside)


def _key_value(block: TransformerBlock, x: Tensor, modulation: Tensor, rotary: Tensor) -> KeyValue:
    return block.key_value(x, modulation, rotary=rotary)


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
        *,
        fused: Sequence[Fused] | None = None,
    ) -> Tensor:
        """See `cached_trunk`."""
        options = dict(self.options)
        halves, key_value = compiled_halves(**options), compiled(_key_value, **options)
        last, ways = len(text) - 1, fused or [APART] * len(text)
        for index, (block, known, way) in enumerate(zip(blocks, text, ways, strict=False)):
            wanted = queries if index == last else h.shape[1]
            if not wanted:
                cache.write(index, *key_value(block, h, modulation, rotary))
                return h
            attended = cache.attend(index)(*halves.project(block, h, modulation, rotary, wanted, way.together))
            h = halves.finish(block, h, modulation, attended, known, way.gelu_inside)
        return h
