# SPDX-License-Identifier: Apache-2.0
"""The optimiser of a trained role, and the course of its learning rate."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from flashwam.recipe.sections import LoopConfig

__all__ = ["Trained", "learning_rate_factor", "make_optimizer"]


def learning_rate_factor(step: int, loop: LoopConfig) -> float:
    """Share of `loop.lr` used by optimiser step `step` (from 0): linear warm-up, then constant or half a cosine."""
    if step < loop.warmup_steps:
        return (step + 1) / (loop.warmup_steps + 1)
    if loop.lr_decay == "constant":
        return 1.0
    progress = (step - loop.warmup_steps) / max(1, loop.steps - loop.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def make_optimizer(loop: LoopConfig, parameters: Iterable[torch.nn.Parameter]) -> Optimizer:
    """AdamW as a recipe's section sets it."""
    return torch.optim.AdamW(list(parameters), lr=loop.lr, betas=loop.betas, weight_decay=loop.weight_decay, fused=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A model as an optimiser moves it.

    Args:
        model: Its own parameters.
        called: Its wrapper, which losses call.
        optimizer: As it is stepped.
        bare: The optimiser beneath, which holds the learning rate.
    """

    model: torch.nn.Module
    called: torch.nn.Module
    optimizer: Any
    bare: Optimizer

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters that the optimiser moves."""
        return [p for p in self.model.parameters() if p.requires_grad]
