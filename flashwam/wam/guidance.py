# SPDX-License-Identifier: Apache-2.0
"""Classifier-free guidance of some streams in one forward."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["guided_velocity"]


def guided_velocity(
    model: nn.Module,
    noisy: Mapping[str, Tensor],
    sigma: Mapping[str, Tensor],
    clean: Mapping[str, Tensor],
    *,
    text: Tensor,
    null_text: Tensor,
    scales: Mapping[str, float],
) -> dict[str, Tensor]:
    """v_u + w (v_c - v_u) for the streams in `scales`, v_c for the others.

    Both prompts go through one forward of 2B rows, and only where some scale is not 1.

    Args:
        model: Called as `WorldActionModel.velocity`.
        noisy: Stream name -> [B, C, F, H, W].
        sigma: Stream name -> [B, F].
        clean: Stream name -> [B, C, F, H, W].
        text: [B, L, D].
        null_text: Embedding of the empty prompt, [L, D].
        scales: Stream name -> w.
    """
    guided = {name: scale for name, scale in scales.items() if name in noisy and scale != 1}
    if not guided:
        return model(noisy, sigma, clean, {"text": text})
    both = model(
        *({name: torch.cat([x, x]) for name, x in part.items()} for part in (noisy, sigma, clean)),
        {"text": torch.cat([text, null_text.expand_as(text)])},
    )
    velocity = {}
    for name, stacked in both.items():
        conditional, unconditional = stacked.chunk(2)
        scale = guided.get(name)
        velocity[name] = conditional if scale is None else torch.lerp(unconditional, conditional, scale)
    return velocity
