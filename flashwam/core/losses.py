# SPDX-License-Identifier: Apache-2.0
"""Losses element by element."""

import torch
from torch import Tensor

__all__ = ["flow_matching_loss", "pseudo_huber"]


def pseudo_huber(prediction: Tensor, target: Tensor, *, c: float) -> Tensor:
    """sqrt(d^2 + c^2) - c element by element, in float32 or better; same shape as `prediction`."""
    difference = (prediction - target).to(torch.promote_types(prediction.dtype, torch.float32))
    return torch.sqrt(difference**2 + c**2) - c


def flow_matching_loss(velocity: Tensor, x0: Tensor, eps: Tensor) -> Tensor:
    """(v - (eps - x0))^2 element by element, in float32 or better; same shape as `velocity`."""
    return (velocity - (eps - x0)).to(torch.promote_types(velocity.dtype, torch.float32)) ** 2
