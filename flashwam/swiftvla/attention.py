# SPDX-License-Identifier: Apache-2.0
"""Vision-transformer blocks that can see cached frames, with the parameter names of DINOv2 and StreamVGGT.

Letters: B samples, N tokens, D width, P tokens of a picture, M cached frames.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flashwam.system.errors import InputError

__all__ = ["Block", "LayerCache", "grid_rotations"]


class LayerCache:
    """Keys and values of the latest frames that one layer has seen.

    Position codes are of space alone, so what is left stays right when older frames are evicted.

    Args:
        limit: Frames kept; None for all.
    """

    def __init__(self, limit: int | None) -> None:
        if limit is not None and limit < 1:
            raise InputError(f"a cache keeps at least 1 frame; got {limit}")
        self.limit = limit
        self._frames: list[tuple[Tensor, Tensor]] = []

    def __len__(self) -> int:
        return len(self._frames)

    def seen_with(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Gives the keys and values that a new frame attends to, the cached and its own; caches it, evicts the oldest.

        Args:
            keys, values: [B, heads, P, d].

        Returns:
            Keys and values [B, heads, (M + 1) P, d], M at most `limit`.
        """
        self._frames.append((keys, values))
        seen = tuple(torch.cat(parts, 2) for parts in zip(*self._frames, strict=True))
        if self.limit is not None:
            del self._frames[: -self.limit]
        return seen


def grid_rotations(rows: int, columns: int, *, head_width: int, special: int, base: float = 100.0) -> Tensor:
    """Angles of rotary position codes on a grid: row in the first half of a head's channels, column in the second.

    Tokens without a place come first and stand at 0; patches count from 1.

    Returns:
        [special + rows * columns, head_width].
    """
    if head_width % 4:
        raise InputError(f"a head of {head_width} channels cannot hold two axes of rotations: take a multiple of 4")
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)) + 1
    places = torch.cat([places.new_zeros(special, 2), places]).float()
    half = head_width // 2
    speed = base ** (-torch.arange(0, half, 2).float() / half)
    angle = places[:, :, None] * speed
    return torch.cat([angle, angle], -1).flatten(1)


def _rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Rotates [B, heads, P, d]; each axis' channels are paired first half with second half."""
    axes = x.unflatten(-1, (2, 2, -1))
    turned = torch.stack([-axes[..., 1, :], axes[..., 0, :]], -2).flatten(-3)
    return x * angle.cos().to(x.dtype) + turned * angle.sin().to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention; `normed` normalises queries and keys of each head."""

    def __init__(self, width: int, heads: int, *, normed: bool) -> None:
        super().__init__()
        if width % heads:
            raise InputError(f"width {width} must be a multiple of heads {heads}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.LayerNorm(width // heads) if normed else nn.Identity()
        self.k_norm = nn.LayerNorm(width // heads) if normed else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Tensor, *, angle: Tensor | None = None, mask: Tensor | None = None, cache: LayerCache | None = None
    ) -> Tensor:
        """See `Block.forward`."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        if angle is not None:
            q, k = _rotate(q, angle), _rotate(k, angle)
        if cache is not None:
            k, v = cache.seen_with(k, v)
        return self.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))


class Scale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), start))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class FeedForward(nn.Module):
    """Two layers around a GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block with scaled residuals.

    Args:
        width: D.
        heads: Heads.
        normed: Normalise queries and keys.
        scale: Where the residuals' factors start.
        eps: Of the layer norms.
    """

    def __init__(self, width: int, heads: int, *, normed: bool, scale: float, eps: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.attn, self.mlp = Attention(width, heads, normed=normed), FeedForward(width)
        self.ls1, self.ls2 = Scale(width, scale), Scale(width, scale)

    def forward(
        self, x: Tensor, *, angle: Tensor | None = None, mask: Tensor | None = None, cache: LayerCache | None = None
    ) -> Tensor:
        """
        Args:
            x: [B, N, D].
            angle: Rotations [N, d]; None for none.
            mask: Bool [N, N], True where a row may look; None for everywhere.
            cache: Of earlier frames; `x` is then one frame.
        """
        x = x + self.ls1(self.attn(self.norm1(x), angle=angle, mask=mask, cache=cache))
        return x + self.ls2(self.mlp(self.norm2(x)))
