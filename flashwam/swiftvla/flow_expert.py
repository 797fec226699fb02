# SPDX-License-Identifier: Apache-2.0
"""A flow-matching expert over action tokens that reads every layer of a trunk.

Layers alternate as SmolVLA's do: even ones attend to the trunk's keys and values and to the actions so far, odd ones to
the trunk's alone, through projections of their own.
Letters: B samples, T action tokens, S tokens of the prefix, A action channels, W width, H and G heads of d channels.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import rotate_half

from flashwam.swiftvla.trunk import Prefix, Trunk
from flashwam.system.errors import InputError

__all__ = ["FlowExpert", "time_embedding"]

_PERIODS = (4e-3, 4.0)


def time_embedding(sigma: Tensor, width: int) -> Tensor:
    """Sines and cosines of noise levels, periods from 0.004 to 4: [B, T] -> [B, T, width]."""
    low, high = map(math.log, _PERIODS)
    period = torch.linspace(low, high, width // 2, device=sigma.device).exp()
    angle = 2 * math.pi * sigma[..., None].float() / period
    return torch.cat([angle.sin(), angle.cos()], -1)


class FlowExpert(nn.Module):
    """Velocity of noisy actions, given a prefix.

    Args:
        trunk: What it reads; gives the shape of keys and values, and the position codes.
        channels: A.
        width: W, a multiple of 2.
    """

    def __init__(self, trunk: Trunk, *, channels: int, width: int) -> None:
        super().__init__()
        config = trunk.config
        if width % 2:
            raise InputError(f"the expert's width must be even, for sines and cosines; got {width}")
        self.width = width
        self.inside = nn.Linear(channels, width)
        self.mix = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(
            _ExpertLayer(config, width, cross=index % 2 == 1) for index in range(len(trunk.layers))
        )
        self.norm = nn.RMSNorm(width, eps=config.rms_norm_eps)
        self.outside = nn.Linear(width, channels)

    def forward(self, noisy: Tensor, sigma: Tensor, prefix: Prefix, trunk: Trunk) -> tuple[Tensor, Tensor]:
        """
        Args:
            noisy: [B, T, A].
            sigma: [B, T].
            prefix: Of the same B samples.
            trunk: Where the prefix comes from.

        Returns:
            eps - x0 [B, T, A], and the latent it is read from, [B, T, W].
        """
        x = self.inside(noisy.to(self.inside.weight.dtype))
        x = self.mix(torch.cat([x, time_embedding(sigma, self.width).to(x.dtype)], -1))
        count = torch.arange(noisy.shape[1], device=noisy.device)
        rotations = [
            tuple(part[:, None] for part in trunk.rotary(x, places))
            for places in (prefix.length[:, None] + count, count.expand(len(x), -1))
        ]
        for layer, keys, values in zip(self.layers, prefix.keys, prefix.values, strict=True):
            x = layer(x, keys, values, prefix.valid, rotations[layer.cross])
        latent = self.norm(x)
        return self.outside(latent), latent


class _ExpertLayer(nn.Module):
    """Attention to the trunk, with or without the actions so far, and a gated feed-forward network."""

    def __init__(self, config: LlamaConfig, width: int, *, cross: bool) -> None:
        super().__init__()
        heads, groups = config.num_attention_heads, config.num_key_value_heads
        self.cross, self.head = cross, config.head_dim
        into = groups * self.head if cross else width
        self.q_proj = nn.Linear(width, heads * self.head, bias=False)
        self.k_proj, self.v_proj = (nn.Linear(into, groups * self.head, bias=False) for _ in range(2))
        self.o_proj = nn.Linear(heads * self.head, width, bias=False)
        self.norm1, self.norm2 = (nn.RMSNorm(width, eps=config.rms_norm_eps) for _ in range(2))
        self.gate_up, self.down = nn.Linear(width, 8 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, valid: Tensor, rotations: tuple[Tensor, Tensor]
    ) -> Tensor:
        h = self.norm1(x)
        q = _turn(self._split(self.q_proj(h)), rotations)
        mask = valid[:, None, None].expand(-1, 1, x.shape[1], -1)
        if self.cross:
            keys, values = (
                self._split(project(part.transpose(1, 2).flatten(2)))
                for project, part in ((self.k_proj, keys), (self.v_proj, values))
            )
        else:
            keys = torch.cat([keys, _turn(self._split(self.k_proj(h)), rotations)], 2)
            values = torch.cat([values, self._split(self.v_proj(h))], 2)
            causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
            mask = torch.cat([mask, causal.expand(len(x), 1, -1, -1)], -1)
        seen = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, enable_gqa=True)
        x = x + self.o_proj(seen.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head)).transpose(1, 2)


def _turn(x: Tensor, rotations: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rotations
    return x * cos + rotate_half(x) * sin
