# SPDX-License-Identifier: Apache-2.0
"""Functions for torch's compiler: each is compiled once a process for a kind of call, whoever calls it.

What is compiled is a plain function that takes its module as an argument. To the compiler all layers of a network and
all models of a size are then the same, while a module's own method or a closure would be compiled for every layer.
"""

from collections.abc import Callable
from functools import cache as kept_for_good
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["compiled", "like_a_later_block"]

MOST_KINDS = 256
"""Kinds of calls of one function in a process: shapes, dtypes, adapters, gradients; torch's own limit is 8."""


@kept_for_good
def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Compiles a function of modules and tensors as one graph for each shape, at the first call with it.

    Args:
        function: What is compiled; the same one gives the same result again.
        options: For `torch.compile`, such as backend="inductor".
    """
    made = torch.compile(function, **{"dynamic": False, "fullgraph": True, **options})

    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        if not torch.compiler.is_compiling():
            _allow_kinds()
        return made(*arguments, **named)

    return call


def _allow_kinds() -> None:
    """Raises torch's limits; they are every thread's own."""
    limits = torch._dynamo.config
    for name, least in (("recompile_limit", MOST_KINDS), ("accumulated_recompile_limit", 4 * MOST_KINDS)):
        if getattr(limits, name) < least:
            setattr(limits, name, least)


def like_a_later_block(hidden: Tensor, first: nn.Module) -> Tensor:
    """A first block's input, as later blocks get theirs from a block, so that a compiler sees one kind of call.

    It lies in one piece, and takes a gradient where the block has something to train, though nobody reads it.
    """
    hidden = hidden.contiguous()
    wanted = torch.is_grad_enabled() and not hidden.requires_grad
    if wanted and any(parameter.requires_grad for parameter in first.parameters()):
        return hidden.detach().requires_grad_()
    return hidden
