# SPDX-License-Identifier: Apache-2.0
"""The trunk of a policy: Llama blocks over segments of tokens, any of which may be absent sample by sample.

An absent token is seen by none and consumes no position, so a pass with it is the pass without it.
Letters: B samples, S tokens, D width, H and G query and key heads, d channels of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaModel

from flashwam.system.errors import InputError
from flashwam.wam.unrounded import UnroundedBuffers

__all__ = ["Prefix", "Segment", "Trunk"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Tokens that come and go together.

    Args:
        tokens: [B, n, D].
        valid: Bool [B, n] or [B, 1]; None for all.
        block: Number of its block: a token sees the valid ones of its own block and of lower ones.
    """

    tokens: Tensor
    valid: Tensor | None = None
    block: int = 0

    @property
    def mask(self) -> Tensor:
        """[B, n]."""
        shape = self.tokens.shape[:2]
        if self.valid is None:
            return torch.ones(shape, dtype=torch.bool, device=self.tokens.device)
        return self.valid.expand(shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """A trunk's output for its segments: keys, values and hidden states.

    Attributes:
        keys: Per layer, with their position codes, [B, G, S, d].
        values: Per layer [B, G, S, d].
        valid: Bool [B, S].
        hidden: Last hidden states, normalised, [B, S, D].
        sizes: Tokens of each segment, in order.
    """

    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    valid: Tensor
    hidden: Tensor
    sizes: tuple[int, ...]

    @property
    def length(self) -> Tensor:
        """Valid tokens, [B]."""
        return self.valid.sum(1)

    def of(self, segment: int) -> Tensor:
        """Hidden states of one segment, [B, n, D]."""
        return self.hidden.split(self.sizes, 1)[segment]


class _Recorder:
    """Stands where the blocks expect a cache: keeps every layer's keys and values, adds nothing to them."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.keys.append(keys)
        self.values.append(values)
        return keys, values


class Trunk(UnroundedBuffers):
    """The blocks of a Llama, without its vocabulary.

    Args:
        whole: The Llama, such as the language model of a SmolVLM.
        layers: How many of its blocks are kept, from the first; None for all.

    Raises:
        ValueError: It has fewer.
    """

    unrounded = ("rotary.inv_freq",)

    def __init__(self, whole: LlamaModel, *, layers: int | None = None) -> None:
        super().__init__()
        count = len(whole.layers) if layers is None else layers
        if not 1 <= count <= len(whole.layers):
            raise InputError(f"layers must be in 1..{len(whole.layers)}, those of the language model; got {layers}")
        self.config = whole.config
        self.layers, self.norm, self.rotary = whole.layers[:count], whole.norm, whole.rotary_emb

    @classmethod
    def of_size(cls, *, width: int, layers: int, heads: int, key_heads: int | None = None) -> "Trunk":
        """A trunk with fresh weights.

        Args:
            width: D.
            layers: Blocks.
            heads: H.
            key_heads: G; H if None.
        """
        config = LlamaConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=key_heads or heads,
            intermediate_size=4 * width,
            vocab_size=1,
            bos_token_id=None,
            eos_token_id=None,
        )
        return cls(LlamaModel(config))

    @property
    def width(self) -> int:
        """D."""
        return self.config.hidden_size

    def forward(self, segments: Sequence[Segment]) -> Prefix:
        """Runs all blocks over the segments."""
        x = torch.cat([segment.tokens for segment in segments], 1)
        valid = torch.cat([segment.mask for segment in segments], 1)
        sizes = tuple(segment.tokens.shape[1] for segment in segments)
        block = torch.cat([torch.full((n,), s.block) for n, s in zip(sizes, segments, strict=True)]).to(x.device)
        seen = (block[:, None] >= block) & valid[:, None]
        # Absent tokens see themselves, since a row without any column is not a number.
        mask = (seen | (torch.eye(len(block), dtype=torch.bool, device=x.device) & ~valid[:, None]))[:, None]
        rotations = self.rotary(x, (valid.cumsum(1) - 1).clamp(min=0))
        recorder = _Recorder()
        for layer in self.layers:
            x = layer(x, attention_mask=mask, position_embeddings=rotations, past_key_values=recorder)
        return Prefix(keys=recorder.keys, values=recorder.values, valid=valid, hidden=self.norm(x), sizes=sizes)
