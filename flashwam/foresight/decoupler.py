# SPDX-License-Identifier: Apache-2.0
"""Predicts, from one look into a video model, a vision model's features of the video it is about to draw.

S-VAM (arXiv 2603.16195), section 3.2: one network per vision model, all alike.
Letters: B samples, C channels of features, D width, T channels of targets, F latent frames, h and w of the grid.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from flashwam.foresight.layers import Attention, feed_forward, initialise
from flashwam.system.errors import InputError
from flashwam.wam.unrounded import UnroundedBuffers

__all__ = ["Decoupler", "change_weights", "still"]


class DecouplerBlock(nn.Module):
    """Attention over the places of each frame, then over the frames of each place, each with a feed-forward.

    Args:
        width: D.
        heads: Attention heads.
        dropout: In attention and after the feed-forwards.
    """

    def __init__(self, width: int, heads: int, *, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.attention = nn.ModuleList(Attention(width, heads, dropout=dropout) for _ in range(2))
        self.feed_forward = nn.ModuleList(feed_forward(width, dropout=dropout) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """[B, F, S, D] -> the same, S = h w."""
        batch, frames, places, _ = x.shape
        x = self._half(0, x.flatten(0, 1)).unflatten(0, (batch, frames))
        x = self._half(1, x.transpose(1, 2).flatten(0, 1)).unflatten(0, (batch, places))
        return x.transpose(1, 2)

    def _half(self, which: int, x: Tensor) -> Tensor:
        x = x + self.attention[which](self.norms[2 * which](x))
        return x + self.feed_forward[which](self.norms[2 * which + 1](x))


class Decoupler(UnroundedBuffers):
    """Predicts one vision model's standardised features of every latent frame of a chunk.

    It is told a reference, those of the frame the chunk is drawn from.

    Args:
        features: C.
        targets: T.
        width: D.
        blocks: Pairs of spatial and temporal layers.
        heads: Attention heads.
        dropout: In attention and after the feed-forwards.
        positions: (F, h, w) for a learned embedding of every place; None for none, as published, where the features
            themselves have to say where they are.
        reference: "added" to the video model's features after a projection to C, as released, or "concatenated", as in
            the paper.
        residual: Whether it predicts the change against the reference, none before it is trained, instead of features
            that are mostly the reference once more.

    Attributes:
        mean, std: [T], statistics of the vision model's features, by which targets and reference are standardised.

    Raises:
        ValueError: `reference` is neither.
    """

    unrounded = ("mean", "std")
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        features: int,
        targets: int,
        *,
        width: int = 1024,
        blocks: int = 4,
        heads: int = 8,
        dropout: float = 0.1,
        positions: tuple[int, int, int] | None = None,
        reference: Literal["added", "concatenated"] = "added",
        residual: bool = False,
    ) -> None:
        super().__init__()
        if reference not in ("added", "concatenated"):
            raise InputError(f"a decoupler's reference is added or concatenated; got {reference!r}")
        self.residual = residual
        self.reference = nn.Linear(targets, features) if reference == "added" else None
        joined = features if reference == "added" else features + targets
        self.norm_in = nn.LayerNorm(joined)
        self.proj_in = nn.Linear(joined, width)
        self.positions = nn.Parameter(torch.zeros(1, width, *positions)) if positions is not None else None
        self.blocks = nn.ModuleList(DecouplerBlock(width, heads, dropout=dropout) for _ in range(blocks))
        self.norm_out = nn.LayerNorm(width)
        self.proj_out = nn.Linear(width, targets)
        initialise(self)
        if residual:
            nn.init.zeros_(self.proj_out.weight)
        if self.positions is not None:
            nn.init.normal_(self.positions, std=0.02)
        self.register_buffer("mean", torch.zeros(targets))
        self.register_buffer("std", torch.ones(targets))

    def standardise(self, features: Tensor) -> Tensor:
        """The vision model's own features [B, T, ...] as targets or reference, float32."""
        shape = (1, -1, *(1,) * (features.ndim - 2))
        return (features.float() - self.mean.reshape(shape)) / self.std.reshape(shape)

    def forward(self, features: Tensor, reference: Tensor) -> Tensor:
        """Predicts.

        Args:
            features: [B, C, F, h, w].
            reference: Standardised, [B, T, h, w].

        Returns:
            Standardised, [B, T, F, h, w], float32 or better.
        """
        grid, dtype = features.shape[2:], self.proj_in.weight.dtype
        x, before = features.movedim(1, -1).to(dtype), reference.movedim(1, -1)[:, None]
        seen = before.to(dtype)
        if self.reference is not None:
            x = x + self.reference(seen)
        else:
            x = torch.cat([x, seen.expand(-1, grid[0], -1, -1, -1)], -1)
        x = self.proj_in(self.norm_in(x))
        if self.positions is not None:
            x = x + self.positions.movedim(1, -1)
        x = x.flatten(2, 3)
        for block in self.blocks:
            x = block(x)
        x = self.proj_out(self.norm_out(x)).unflatten(2, grid[1:])
        x = x.to(torch.promote_types(features.dtype, torch.float32))
        return (x + before if self.residual else x).movedim(-1, 1)


def still(reference: Tensor, samples: int, frames: int) -> Tensor:
    """Shows what is seen before each of K chunks, [B K, T, h, w], as if nothing changed in them: [B, T, F, h, w].

    Args:
        reference: Chunk after chunk of every sample.
        samples: B.
        frames: F, of all chunks together.
    """
    before = reference.unflatten(0, (samples, -1)).transpose(1, 2)
    return before.repeat_interleave(frames // before.shape[2], 2)


def change_weights(target: Tensor, reference: Tensor, weight: float) -> Tensor:
    """Weights of a target's elements: 1 + `weight` x squared change / its mean, 1 where nothing changes.

    Args:
        target: [B, T, F, h, w].
        reference: See `still`.
        weight: At least 0.
    """
    change = (target - still(reference, len(target), target.shape[2])) ** 2
    return 1 + weight * change / change.mean().clamp(min=torch.finfo(change.dtype).tiny)
