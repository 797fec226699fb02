# SPDX-License-Identifier: Apache-2.0
"""Buffers that stay as exact as they are when their model takes a coarser dtype."""

from collections.abc import Callable
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

__all__ = ["UnroundedBuffers"]


class UnroundedBuffers(nn.Module):
    """A module some of whose buffers take no dtype coarser than float32, in `.to(torch.bfloat16)` or under DeepSpeed.

    Eight bits of a statistic or of a frequency would shift everything that is computed from it.

    Attributes:
        unrounded: Their names, with those of the modules within that hold them.
    """

    unrounded: ClassVar[tuple[str, ...]] = ()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        exact = {name: self.get_buffer(name) for name in self.unrounded}
        super()._apply(fn, recurse)
        for name, value in exact.items():
            moved = self.get_buffer(name)
            if moved.dtype.itemsize < min(value.dtype.itemsize, torch.float32.itemsize):
                holder, _, own = name.rpartition(".")
                setattr(self.get_submodule(holder), own, value.to(moved.device))
        return self
