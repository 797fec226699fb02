# SPDX-License-Identifier: Apache-2.0
"""A linear layer and the GELU after it in one product, where the device's library has such a thing.

A compiler would take torch's own call apart, so it gets it as one that it knows nothing of.
"""

import logging

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["linear_gelu", "runs_inside"]

logger = logging.getLogger(__name__)

_SHAPES = (48, 64), (128, 64), (128,)
"""Of the input, the weight and the bias that are tried."""
_FOUND: dict[tuple[torch.device, torch.dtype], str] = {}


@torch.library.custom_op("flashwam::linear_gelu", mutates_args=())
def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """GELU, approximated by tanh, of a linear layer, without a gradient.

    On a GPU the sums are rounded once, after the GELU, instead of before it and after it.

    Args:
        x: [..., K].
        weight: [N, K].
        bias: [N].

    Returns:
        [..., N] in the dtype of x.
    """
    if x.device.type != "cuda":
        return functional.gelu(functional.linear(x, weight, bias), approximate="tanh")
    rows = x.reshape(-1, x.shape[-1])
    return torch._addmm_activation(bias, rows, weight.t(), use_gelu=True).unflatten(0, x.shape[:-1])


@linear_gelu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def runs_inside(device: torch.device, dtype: torch.dtype) -> bool:
    """Tells whether a device computes GELU inside of a product of 16-bit numbers; if not, a log says so once.

    Of other numbers it is not asked for: they are wanted exact.
    """
    if device.type != "cuda" or dtype.itemsize != 2:
        return False
    key = (device, dtype)
    if key not in _FOUND:
        _FOUND[key] = _tried(device, dtype)
        if _FOUND[key]:
            logger.warning("GELU runs after its product, since %s", _FOUND[key])
    return not _FOUND[key]


def _tried(device: torch.device, dtype: torch.dtype) -> str:
    """The reason why not, or nothing."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=generator).to(device, dtype) for shape in _SHAPES)
    # Sums around 1, where functions of them differ.
    weight = weight / 8
    try:
        with torch.inference_mode(False), torch.no_grad():
            found = linear_gelu(x, weight, bias).float()
            exact = functional.gelu(functional.linear(x.float(), weight.float(), bias.float()), approximate="tanh")
    except torch.OutOfMemoryError:
        # That says nothing of the product.
        raise
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), "no more is known")
        return f"it does not run inside on {device} ({type(error).__name__}: {first})"
    return "" if bool((found - exact).norm() < 0.02 * exact.norm()) else f"{device} computes something else inside"
