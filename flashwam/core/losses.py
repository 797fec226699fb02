# SPDX-License-Identifier: Apache-2.0
"""Unreduced losses and the masked mean that reduces them."""

import torch
from torch import Tensor

__all__ = ["flow_matching_loss", "masked_mean", "pseudo_huber"]


def pseudo_huber(prediction: Tensor, target: Tensor, *, c: float) -> Tensor:
    """sqrt(d^2 + c^2) - c element by element, in float32 or better; same shape as `prediction`."""
    difference = (prediction - target).to(torch.promote_types(prediction.dtype, torch.float32))
    return torch.sqrt(difference**2 + c**2) - c


def flow_matching_loss(velocity: Tensor, x0: Tensor, eps: Tensor) -> Tensor:
    """(v - (eps - x0))^2 element by element, in float32 or better; same shape as `velocity`."""
    return (velocity - (eps - x0)).to(torch.promote_types(velocity.dtype, torch.float32)) ** 2


def masked_mean(loss: Tensor, mask: Tensor, *, dims: tuple[int, ...] | None = None) -> Tensor:
    """Mean of `loss` over the elements where `mask` holds; 0 where none does, so that padded samples drop out.

    Args:
        loss: Any shape.
        mask: Bool or 0/1, broadcastable to `loss`.
        dims: Dimensions to reduce; all of them if None.
    """
    weight = mask.to(loss.dtype).expand_as(loss)
    if dims is None:
        dims = tuple(range(loss.ndim))
    return (loss * weight).sum(dims) / weight.sum(dims).clamp(min=1)
