# SPDX-License-Identifier: Apache-2.0
"""Heads for training alone, which read from a policy's latents what these are to hold.

Letters: B samples, T action tokens, W width of the latent, n tokens, C channels, D width of the trunk.
"""

import torch
from torch import Tensor, nn

__all__ = ["ReconstructionHead", "TrajectoryHead"]


class ReconstructionHead(nn.Module):
    """A modality's tokens from the action expert's latent: one learned query per token, cross-attention, a projection.

    Args:
        latent: W.
        tokens: n.
        channels: C.
        width: Width inside, a multiple of `heads`.
        layers: Rounds of cross-attention.
        heads: Of the attention.
    """

    def __init__(
        self, latent: int, *, tokens: int, channels: int, width: int = 128, layers: int = 2, heads: int = 4
    ) -> None:
        super().__init__()
        self.queries = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.memory = nn.Linear(latent, width)
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(layers))
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, channels))

    def forward(self, latent: Tensor) -> Tensor:
        """[B, T, W] -> [B, n, C]."""
        memory = self.memory(latent)
        x = self.queries.expand(len(latent), -1, -1)
        for layer in self.layers:
            x = layer(x, memory)
        return self.out(x)


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), memory, memory, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class TrajectoryHead(nn.Module):
    """A point of the future trajectory from each fusion token, and from nothing else.

    Args:
        width: D.
        channels: Coordinates of a point.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, channels))

    def forward(self, fusion: Tensor) -> Tensor:
        """[B, n, D] -> [B, n, C]."""
        return self.net(fusion)
