# SPDX-License-Identifier: Apache-2.0
"""The least time that a loop can take on a device: its matrix products and attention at the device's own best speed.

Both are measured in the run: all linear layers of the blocks one after the other, each with its own weights, and
attention without a mask as torch does it by itself, over the longest stretch of keys; on a GPU all layers' captured
together. Embedders, heads, norms, rotations and copies are left out, so nothing with these products and this attention
can be faster; attention that is split over its keys can be.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from sizes import TEXT_TOKENS
from timing import seconds_of
from torch import nn
from torch.nn import functional

from flashwam.core.float8 import round_rows, sums
from flashwam.wam.lingbot_va import LingBotVA
from flashwam.wam.rounded_linear import Float8Linear

__all__ = ["Ceilings", "Pass"]


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass through the blocks.

    Args:
        rows: Of the batch.
        tokens: Of a row.
        keys: That its tokens see at most.
    """

    rows: int
    tokens: int
    keys: int


class Ceilings:
    """Measured pieces of passes of one model; each is measured once.

    Args:
        wam: The model.
        device: Where it is.
        dtype: Of its weights.
    """

    def __init__(self, wam: LingBotVA, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        config = wam.transformer.config
        self.heads, self.dim = config.num_attention_heads, config.attention_head_dim
        # Keys and values of the text are made once an episode.
        self.linear_layers = [
            module
            for block in wam.transformer.blocks
            for name, module in block.named_modules()
            if isinstance(module, (nn.Linear, Float8Linear)) and name not in ("attn2.to_k", "attn2.to_v")
        ]
        self.layers = config.num_layers
        self._linear: dict[int, float] = {}
        self._attention: dict[tuple[int, int, int], float] = {}

    @torch.no_grad()
    def linear(self, tokens: int) -> float:
        """Seconds of all linear layers over some tokens of the batch; of rounded ones their products alone."""
        if tokens not in self._linear:
            widths = {layer.weight.shape[1] for layer in self.linear_layers}
            inputs = {width: torch.randn(tokens, width, device=self.device, dtype=self.dtype) for width in widths}
            rounded = {width: round_rows(x) for width, x in inputs.items()}

            def products() -> None:
                for layer in self.linear_layers:
                    width = layer.weight.shape[1]
                    if isinstance(layer, Float8Linear):
                        sums(rounded[width][0], layer.weight, unit=layer.unit)
                    else:
                        functional.linear(inputs[width], layer.weight, layer.bias)

            self._linear[tokens] = seconds_of(products, self.device)
        return self._linear[tokens]

    @torch.no_grad()
    def attention(self, rows: int, queries: int, keys: int) -> float:
        """Seconds of all layers' attention as torch does it, without a mask."""
        shape = (rows, queries, keys)
        if shape not in self._attention:
            q, k, v = (
                torch.randn(rows, self.heads, count, self.dim, device=self.device, dtype=self.dtype)
                for count in (queries, keys, keys)
            )

            def every_layer() -> None:
                for _ in range(self.layers):
                    functional.scaled_dot_product_attention(q, k, v)

            self._attention[shape] = seconds_of(every_layer, self.device)
        return self._attention[shape]

    def seconds(self, passes: Sequence[Pass]) -> dict[str, float]:
        """The floor of a chunk, whole and by kind of work."""
        linear = sum(self.linear(each.rows * each.tokens) for each in passes)
        looking = sum(
            self.attention(each.rows, each.tokens, each.keys) + self.attention(each.rows, each.tokens, TEXT_TOKENS)
            for each in passes
        )
        return {"linear": linear, "attention": looking, "seconds": linear + looking}
