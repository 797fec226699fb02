# SPDX-License-Identifier: Apache-2.0
"""Matrices of 8-bit numbers (float8 e4m3: 3 bits of fraction, 448 at most), a scale for each row, and their product.

Shapes: R rows, K columns, N rows of the other matrix.
"""

import torch
from torch import Tensor

__all__ = ["FLOAT8", "LARGEST", "MULTIPLE", "product", "round_rows"]

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


def product(x: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> Tensor:
    """Multiplies rounded rows with the transpose of a rounded matrix and adds a bias; rounded once, to bfloat16.

    On a GPU it is one call of torch. A CPU computes the same numbers in float32, up to the order of its sums.

    Args:
        x: float8 [R, K].
        scale: Of its rows, float32 [R, 1].
        weight: float8 [N, K].
        weight_scale: Of its rows, float32 [N, 1].
        bias: bfloat16 [N].

    Returns:
        bfloat16 [R, N].
    """
    if x.device.type == "cpu":
        wide = (x.float() @ weight.float().t()) * scale * weight_scale.t()
        return (wide if bias is None else wide + bias.float()).to(torch.bfloat16)
    return torch._scaled_mm(
        x, weight.t(), scale_a=scale, scale_b=weight_scale.t(), bias=bias, out_dtype=torch.bfloat16, use_fast_accum=True
    )
