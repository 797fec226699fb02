# SPDX-License-Identifier: Apache-2.0
"""Attention of a pass's blocks, each over its own stretch of a ring; the stretches are numbers on the device.

Shapes: R rows, S tokens of a pass, P places of the ring, d head dimension.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["MOST_BLOCKS", "MaskedRingPass", "Ready", "RingPass"]

MOST_BLOCKS = 16
"""Of one pass."""


class Ready(NamedTuple):
    """Tensors that a pass has made of the control's numbers; none where kernels read these themselves."""

    where: Tensor | None = None
    """Places of the tokens, int64 [S]."""
    mask: Tensor | None = None
    """Numbers to add to scores, 0 or minus infinity, [S, P]."""


class RingPass(ABC):
    """One kind of pass; what it reads lies at fixed addresses.

    Keys and values of the ring are [R, heads, P, d] each.
    """

    @abstractmethod
    def begin(self) -> Ready:
        """Makes on the device what all layers need; the first thing that the pass does."""

    @abstractmethod
    def write(self, ready: Ready, keys: Tensor, values: Tensor, k: Tensor, v: Tensor) -> None:
        """Puts the blocks' k and v, [R, heads, S, d] each, into the ring."""

    @abstractmethod
    def attend(self, ready: Ready, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention of the leading queries [R, heads, at most S, d], each over what its block sees."""


class MaskedRingPass(RingPass):
    """By torch's own attention over all places, those that a block does not see under a mask.

    Args:
        tokens: Of the blocks, in the order of the pass.
        control: See `RingCache`.
        buffer: The ring, [..., P, d].
    """

    def __init__(self, tokens: Sequence[int], control: Tensor, buffer: Tensor) -> None:
        self._control, self._buffer = control, buffer
        with torch.inference_mode(False):
            part = torch.repeat_interleave(torch.arange(len(tokens)), torch.tensor(tokens))
            offset = torch.cat([torch.arange(count) for count in tokens])
            self._part, self._offset = part.to(control.device), offset.to(control.device)
            self._place = torch.arange(buffer.shape[-2], device=control.device)

    def begin(self) -> Ready:
        """See `RingPass.begin`."""
        places = len(self._place)
        start, length, own = self._control.long().index_select(0, self._part).unbind(1)
        hidden = (self._place - start[:, None]) % places >= length[:, None]
        # Numbers to add, since attention would make them anew of truth values in every layer.
        mask = self._buffer.new_zeros(hidden.shape).masked_fill(hidden, float("-inf"))
        return Ready((own + self._offset) % places, mask)

    def write(self, ready: Ready, keys: Tensor, values: Tensor, k: Tensor, v: Tensor) -> None:
        """See `RingPass.write`."""
        assert ready.where is not None
        keys.index_copy_(2, ready.where, k)
        values.index_copy_(2, ready.where, v)

    def attend(self, ready: Ready, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `RingPass.attend`."""
        assert ready.mask is not None
        return functional.scaled_dot_product_attention(q, keys, values, attn_mask=ready.mask[: q.shape[2]])
