# SPDX-License-Identifier: Apache-2.0
"""Strategies by the names that recipes give them."""

from flashwam.distillation.fsdp import FullyShardedStrategy
from flashwam.distillation.strategy import Strategy
from flashwam.distillation.zero import ZeroStrategy
from flashwam.recipe.sections import LoopConfig

__all__ = ["STRATEGIES", "make_strategy"]

STRATEGIES: dict[str, type[Strategy]] = {"fsdp": FullyShardedStrategy, "zero2": ZeroStrategy, "zero3": ZeroStrategy}
"""Name -> class; every other name is accelerate's own way, in one process or several."""


def make_strategy(loop: LoopConfig) -> Strategy:
    """Makes the strategy that a recipe names."""
    return STRATEGIES.get(loop.strategy, Strategy)(loop)
