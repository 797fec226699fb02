# SPDX-License-Identifier: Apache-2.0
"""Bytes that code needs, counted while it runs on tensors without values: nothing is computed and nothing estimated.

What a GPU's allocator adds, and the scratch space of its kernels, are not there to be counted.
"""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["LiveBytes", "counted_bytes", "held_bytes"]


class LiveBytes(TorchDispatchMode):
    """Counts what tensors without values would hold.

    Args:
        known: Storages that are there already, which are not counted.

    Attributes:
        now: Bytes of tensors that were made while this was on and are still there.
        peak: The most that were there at once.
    """

    def __init__(self, known: Iterable[Any]) -> None:
        TorchDispatchMode.__init__(self)
        self.now = self.peak = 0
        # Views of what was there before are no new bytes.
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet(known)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation and notes what it made."""
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor) and value.is_meta:
                self._note(value.untyped_storage())
        return out

    @property
    def left(self) -> list[Any]:
        """Storages that it met and that are still there."""
        return list(self._seen)

    def _note(self, storage: Any) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, size)

    def _gone(self, size: int) -> None:
        self.now -= size


class _FusedAttention(TorchFunctionMode):
    """Attention that holds its result, and a mask in its own numbers, as a GPU's kernels do: never all scores."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replaces `scaled_dot_product_attention` of tensors without values."""
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention and args[0].is_meta:
            query, _, value = args[:3]
            mask = kwargs.get("attn_mask", args[3] if len(args) > 3 else None)
            scores = None if mask is None else query.new_empty(mask.shape)
            made = query.new_empty(*query.shape[:-1], value.shape[-1])
            del scores
            return made
        return func(*args, **kwargs)


@contextmanager
def counted_bytes(module: torch.nn.Module, *, known: Iterable[Any] = ()) -> Iterator[LiveBytes]:
    """A context in which bytes are counted, without gradients.

    Args:
        module: What it holds is not counted.
        known: Storages that are not either.
    """
    known = [*known, *(x.untyped_storage() for x in (*module.parameters(), *module.buffers()))]
    with torch.no_grad(), _FusedAttention(), LiveBytes(known) as live:
        yield live


def held_bytes(module: torch.nn.Module) -> int:
    """Bytes of a module's parameters and buffers, shared ones once."""
    storages = {id(s): s.nbytes() for s in (x.untyped_storage() for x in (*module.parameters(), *module.buffers()))}
    return sum(storages.values())
