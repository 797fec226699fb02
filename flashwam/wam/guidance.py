# SPDX-License-Identifier: Apache-2.0
"""Classifier-free guidance of some streams."""

from collections.abc import Callable, Collection, Mapping, MutableMapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from flashwam.wam.session import Kept

__all__ = ["guided_velocity"]


def guided_velocity(
    model: Callable[..., Mapping[str, Tensor]],
    noisy: Mapping[str, Tensor],
    sigma: Mapping[str, Tensor],
    clean: Mapping[str, Tensor],
    *,
    text: Tensor,
    null_text: Tensor,
    scales: Mapping[str, float],
    together_with: Callable[[Collection[str]], Collection[str]] = set,
    kept: MutableMapping[str, Kept] | None = None,
    together: bool | None = None,
    context: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Tensor]:
    """v_u + w (v_c - v_u) for the streams in `scales`, v_c for the others.

    Without text the guided streams' stages alone have noisy tokens. Where that leaves tokens out, both prompts go
    through a forward of their own; so they do on a CPU, which takes longer for 2B rows than for B rows twice.

    Args:
        model: Called as `WorldActionModel.velocity`.
        noisy: Stream name -> [B, C, F, H, W].
        sigma: Stream name -> [B, F].
        clean: Stream name -> [B, C, F, H, W].
        text: [B, L, D].
        null_text: Embedding of the empty prompt, [L, D].
        scales: Stream name -> w.
        together_with: `Layout.whole_stages`: streams without which others cannot be asked for.
        kept: The same mapping, empty at first, for calls without gradient that differ in `noisy` and `sigma` alone:
            what the model keeps between them, by prompt.
        together: Both prompts in one forward of 2B rows; None for the faster of the two.
        context: What else the model is told, beside text; with it prompts go through forwards of their own.
    """
    guided = {name: scale for name, scale in scales.items() if name in noisy and scale != 1}

    def run(prompt: str, *parts: Mapping[str, Tensor], text: Tensor) -> Mapping[str, Tensor]:
        told: dict[str, Any] = {**context, "text": text}
        if kept is not None:
            told["kept"] = kept.setdefault(prompt, Kept())
        return model(*parts, told)

    if together is None:
        together = len(guided) == len(noisy) and text.device.type != "cpu" and not context
    if guided and together:
        twice = ({name: torch.cat([x, x]) for name, x in part.items()} for part in (noisy, sigma, clean))
        both = run("both", *twice, text=torch.cat([text, null_text.expand_as(text)]))
        halves = {name: x.chunk(2) for name, x in both.items()}
        velocity, without = ({name: x[half] for name, x in halves.items()} for half in (0, 1))
    else:
        velocity = dict(run("text", noisy, sigma, clean, text=text))
        if guided:
            needed = together_with(guided)
            alone = ({name: x for name, x in part.items() if name in needed} for part in (noisy, sigma))
            without = run("null", *alone, clean, text=null_text.expand_as(text))
    return velocity | {name: torch.lerp(without[name], velocity[name], scale) for name, scale in guided.items()}
