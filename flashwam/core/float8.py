# SPDX-License-Identifier: Apache-2.0
"""Matrices of 8-bit numbers (float8 e4m3: 3 bits of fraction, 448 at most), a scale for each row, and their product.

Shapes: R rows, K columns, N rows of the other matrix.
"""

import torch
from torch import Tensor

__all__ = ["FLOAT8", "LARGEST", "MULTIPLE", "product", "round_rows", "sums"]

FLOAT8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FLOAT8).max
MULTIPLE = 16
"""K and N of a product on a GPU are multiples of this."""
_LEAST = 1e-12
"""Rows of zeros are not divided by zero."""


def round_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds x [..., K] so that the largest number of each row becomes 448.

    A number within 2^-15 of its row's largest one keeps three bits of fraction: it is off by 1/16 of itself at most.

    Returns:
        The rounded numbers, float8 [..., K], and their rows' scales, float32 [..., 1]; x is about one times the other.
    """
    wide = x.float()
    scale = wide.abs().amax(-1, keepdim=True).clamp(min=_LEAST) / LARGEST
    return (wide / scale).clamp(-LARGEST, LARGEST).to(FLOAT8), scale


def product(
    x: Tensor,
    scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    *,
    unit: Tensor | None = None,
) -> Tensor:
    """Multiplies rounded rows with the transpose of a rounded matrix, scales both back and adds a bias.

    Args:
        x: float8 [R, K].
        scale: Of its rows, float32 [R, 1].
        weight: float8 [N, K].
        weight_scale: Of its rows, float32 [N, 1].
        bias: bfloat16 [N].
        unit: See `sums`.

    Returns:
        bfloat16 [R, N], rounded before and after the scales.
    """
    wide = sums(x, weight, unit=unit).float() * scale * weight_scale.t()
    return (wide if bias is None else wide + bias.float()).to(torch.bfloat16)


def sums(x: Tensor, weight: Tensor, *, unit: Tensor | None = None) -> Tensor:
    """The product without scales, rounded to bfloat16.

    On a GPU it is torch's product with one scale for each matrix, of which both are 1: on an H100 it takes 0.6 to 0.75
    of the time of the one with a scale for each row, whose library refuses some shapes. Rows' scales cost nothing where
    a compiler puts them into what follows. A CPU computes the same numbers in float32, up to the order of its sums.

    Args:
        x: float8 [R, K].
        weight: float8 [N, K].
        unit: 1 as float32 [] on their device; made anew if None.
    """
    if x.device.type == "cpu":
        return (x.float() @ weight.float().t()).to(torch.bfloat16)
    unit = torch.ones((), device=x.device) if unit is None else unit
    return torch._scaled_mm(x, weight.t(), scale_a=unit, scale_b=unit, out_dtype=torch.bfloat16, use_fast_accum=True)
