# SPDX-License-Identifier: Apache-2.0
"""Strategies by the names that recipes give them."""

from collections.abc import Collection

from flashwam.distillation.fsdp import FullyShardedStrategy
from flashwam.distillation.strategy import Strategy
from flashwam.distillation.zero import ZeroStrategy
from flashwam.recipe.sections import LoopConfig
from flashwam.system.errors import InputError

__all__ = ["STRATEGIES", "check_strategy", "find_strategy", "make_strategy"]

STRATEGIES: dict[str, type[Strategy]] = {"fsdp": FullyShardedStrategy, "zero2": ZeroStrategy, "zero3": ZeroStrategy}
"""Name -> class; every other name is accelerate's own way, in one process or several."""


def find_strategy(name: str) -> type[Strategy]:
    """The class behind a recipe's `strategy`."""
    return STRATEGIES.get(name, Strategy)


def check_strategy(loop: LoopConfig, trained: Collection[str]) -> None:
    """Refuses a strategy that cannot train all the roles of a method.

    Args:
        loop: Names both.
        trained: The roles with an optimiser.

    Raises:
        ValueError: says which strategies can.
    """
    if len(trained) > 1 and not find_strategy(loop.strategy).trains_several:
        raise InputError(
            f"method {loop.method!r} trains {' and '.join(trained)}, each with an optimiser of its own: it runs with "
            f"single, ddp, fsdp or lora; got strategy {loop.strategy!r}"
        )


def make_strategy(loop: LoopConfig) -> Strategy:
    """Makes the strategy that a recipe names."""
    return find_strategy(loop.strategy)(loop)
