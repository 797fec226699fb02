# SPDX-License-Identifier: Apache-2.0
"""Timesteps of their own for text, first frame, video and actions, without one new weight.

A CogVideoX block knows time only through its two adaptive normalisations, which modulate two streams of tokens from
one time embedding. Given several embeddings they modulate each group of tokens by its own; the block itself stays as
it is, and so does whatever hooks into its forward call.

Letters: B samples, S tokens, d width, T width of the time embedding.
"""

from typing import NamedTuple

import torch
from diffusers.models.normalization import CogVideoXLayerNormZero
from torch import Tensor, nn

__all__ = ["GroupwiseLayerNormZero", "TimeGroups", "group_times", "take_time_groups"]


class TimeGroups(NamedTuple):
    """The grouping of tokens by the time at which they live.

    Args:
        times: Distinct time embeddings, each [B, T].
        text: Position in `times` of the text's.
        spans: (tokens, position in `times`) of the other stream's groups, in order.
    """

    times: tuple[Tensor, ...]
    text: int
    spans: tuple[tuple[int, int], ...]


def group_times(text: Tensor, spans: list[tuple[int, Tensor]]) -> Tensor | TimeGroups:
    """Gathers time embeddings [B, T]; those that are one object count as one, and one alone is returned as it is.

    Args:
        text: The text's.
        spans: (tokens, time embedding) of the other stream's groups, in order.
    """
    times: list[Tensor] = []

    def position(time: Tensor) -> int:
        for i, known in enumerate(times):
            if known is time:
                return i
        times.append(time)
        return len(times) - 1

    merged: list[tuple[int, int]] = []
    for tokens, time in spans:
        if not tokens:
            continue
        i = position(time)
        if merged and merged[-1][1] == i:
            merged[-1] = (merged[-1][0] + tokens, i)
        else:
            merged.append((tokens, i))
    groups = TimeGroups(times=(), text=position(text), spans=tuple(merged))
    return text if len(times) == 1 else groups._replace(times=tuple(times))


class GroupwiseLayerNormZero(CogVideoXLayerNormZero):
    """The stock layer, which also takes `TimeGroups` for its time embedding."""

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor | TimeGroups
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Modulated tokens and text, gate of tokens and of text: [B, S, d], [B, L, d], [B, 1 or S, d], [B, 1, d]."""
        if isinstance(temb, Tensor):
            return super().forward(hidden_states, encoder_hidden_states, temb)
        # One product per time: stacked rows would round differently from the stock layer's.
        chunks = [self.linear(self.silu(time))[:, None].chunk(6, dim=2) for time in temb.times]
        parts = [chunks[i][:3] for _, i in temb.spans]
        tokens = [count for count, _ in temb.spans]
        pieces = self.norm(hidden_states).split(tokens, dim=1)
        hidden = [x * (1 + scale) + shift for x, (shift, scale, _) in zip(pieces, parts, strict=True)]
        gates = [gate.expand(-1, count, -1) for count, (_, _, gate) in zip(tokens, parts, strict=True)]
        shift, scale, gate = chunks[temb.text][3:]
        text = self.norm(encoder_hidden_states) * (1 + scale) + shift
        return torch.cat(hidden, dim=1), text, torch.cat(gates, dim=1), gate


def take_time_groups(block: nn.Module) -> None:
    """Lets a stock block take `TimeGroups` for `temb`; its parameters, their names and its results stay."""
    for norm in (block.norm1, block.norm2):
        # The class is all that changes: a wrapper would rename the checkpoint's keys.
        norm.__class__ = GroupwiseLayerNormZero
