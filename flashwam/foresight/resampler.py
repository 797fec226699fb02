# SPDX-License-Identifier: Apache-2.0
"""From the many places of a foresight to the few tokens that a policy looks at (S-VAM's Uni-Perceiver).

Letters: B samples, C channels, D width, F latent frames, h and w of the grid, S = h w places, Q queries of a frame.
"""

import torch
from torch import Tensor, nn

from flashwam.foresight.layers import Attention, feed_forward, initialise

__all__ = ["MeanPool", "UniPerceiver"]


class _Projection(nn.Module):
    """Every place to width D, with a learned embedding of its frame."""

    def __init__(self, channels: int, width: int, frames: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(channels, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.frame = nn.Parameter(torch.empty(frames, 1, width))
        nn.init.normal_(self.frame, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, F, h, w] -> [B, F, S, D]."""
        return self.layers(x.flatten(3).permute(0, 2, 3, 1).to(self.frame.dtype)) + self.frame


class PerceiverLayer(nn.Module):
    """Queries look at their frame and at each other, then across frames, then a feed-forward.

    Args:
        width: D.
        heads: Attention heads.
        head_dim: Channels of a head that looks at the frame; D / heads for those across frames.
        ratio: Hidden width of the feed-forward over D.
    """

    def __init__(self, width: int, *, heads: int, head_dim: int, ratio: int) -> None:
        super().__init__()
        self.norm_seen, self.norm_query, self.norm_out = (nn.LayerNorm(width) for _ in range(3))
        self.look = Attention(width, heads, inner=heads * head_dim, bias=False)
        self.across = Attention(width, heads)
        self.feed_forward = feed_forward(width, ratio, bias=False)

    def forward(self, queries: Tensor, features: Tensor) -> Tensor:
        """Queries [B, F, Q, D] over features [B, F, S, D]; returns [B, F, Q, D]."""
        batch, frames, count, _ = queries.shape
        own, x = self.norm_query(queries).flatten(0, 1), self.norm_seen(features).flatten(0, 1)
        looked = self.look(own, torch.cat([x, own], 1))
        queries = queries + looked.unflatten(0, (batch, frames))
        slots = queries.transpose(1, 2).flatten(0, 1)
        queries = queries + self.across(slots).unflatten(0, (batch, count)).transpose(1, 2)
        return queries + self.feed_forward(self.norm_out(queries))


class UniPerceiver(nn.Module):
    """Q tokens a frame, each gathered from all of its frame's places.

    Args:
        channels: C.
        frames: F.
        width: D.
        queries: Q.
        depth: Layers.
        heads, head_dim, ratio: See `PerceiverLayer`.
    """

    def __init__(
        self,
        channels: int,
        frames: int,
        *,
        width: int = 384,
        queries: int = 14,
        depth: int = 6,
        heads: int = 8,
        head_dim: int = 64,
        ratio: int = 4,
    ) -> None:
        super().__init__()
        self.project = _Projection(channels, width, frames)
        self.queries = nn.Parameter(torch.empty(frames, queries, width))
        options = {"heads": heads, "head_dim": head_dim, "ratio": ratio}
        self.layers = nn.ModuleList(PerceiverLayer(width, **options) for _ in range(depth))
        self.norm_out = nn.LayerNorm(width)
        initialise(self)
        nn.init.normal_(self.queries, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, F, h, w] -> tokens [B, F Q, D]."""
        seen = self.project(x)
        queries = self.queries.expand(x.shape[0], -1, -1, -1)
        for layer in self.layers:
            queries = layer(queries, seen)
        return self.norm_out(queries).flatten(1, 2)


class MeanPool(nn.Module):
    """One token a frame, the mean of its places: what the resampler is measured against.

    Args:
        channels: C.
        frames: F.
        width: D.
    """

    def __init__(self, channels: int, frames: int, *, width: int = 384) -> None:
        super().__init__()
        self.project = _Projection(channels, width, frames)
        self.norm_out = nn.LayerNorm(width)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, F, h, w] -> tokens [B, F, D]."""
        return self.norm_out(self.project(x).mean(2))
