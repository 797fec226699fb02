# SPDX-License-Identifier: Apache-2.0
"""The choice between kernels that read what is seen of a ring, and attention under a mask."""

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from flashwam.wam.lingbot_va.ring_kernels import HAS_TRITON, KernelRingPass
from flashwam.wam.lingbot_va.ring_passes import MaskedRingPass, RingPass

__all__ = ["make_ring_pass"]

logger = logging.getLogger(__name__)


def make_ring_pass(tokens: Sequence[int], control: Tensor, buffer: Tensor) -> RingPass:
    """By kernels that read nothing but what a block sees, where they run, else under a mask.

    Args:
        tokens: Of the blocks, in the order of the pass.
        control: See `RingCache`.
        buffer: The ring, [..., P, d].
    """
    if buffer.device.type != "cuda":
        return MaskedRingPass(tokens, control, buffer)
    why = _no_kernels(buffer.device, buffer.dtype, buffer.shape[-1])
    if why:
        return MaskedRingPass(tokens, control, buffer)
    return KernelRingPass(tokens, control, buffer.device)


@cache
def _no_kernels(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """The reason why the kernels do not run on a device, which is said once; empty where they do."""
    why = _tried(device, dtype, head_dim)
    if why:
        logger.warning("attention of the rollout goes over the whole window, most of it under a mask, since %s", why)
    return why


def _tried(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    if not HAS_TRITON:
        return "triton is not installed"
    if head_dim < 16 or head_dim & (head_dim - 1):
        return f"heads of {head_dim} numbers are no power of two from 16 on"
    try:
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        with torch.inference_mode(False), torch.no_grad():
            ring = torch.ones(2, 1, 1, 32, head_dim, **options)
            new = torch.ones(1, 1, 32, head_dim, **options)
            control = torch.tensor([[24, 24, 16]], dtype=torch.int32, device=device)
            probe = KernelRingPass((32,), control, device)
            probe.write(probe.begin(), *ring, new, new)
            seen = probe.attend(probe.begin(), new, *ring)
        return "" if bool((seen == 1).all()) else "its kernels compute something else on this device"
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), "no more is known")
        return f"its kernels do not run here ({type(error).__name__}: {first})"
