# SPDX-License-Identifier: Apache-2.0
"""The choice between kernels that read what is seen of a ring, and attention under a mask."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from flashwam.wam.lingbot_va.ring_kernels import HAS_TRITON, KernelRingPass
from flashwam.wam.lingbot_va.ring_passes import MaskedRingPass, RingPass

__all__ = ["make_ring_pass"]

logger = logging.getLogger(__name__)

_FOUND: dict[tuple[torch.device, torch.dtype, int], str] = {}


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


def _no_kernels(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """The reason why the kernels do not run on a device, which is said once; empty where they do."""
    key = (device, dtype, head_dim)
    if key not in _FOUND:
        _FOUND[key] = _tried(device, dtype, head_dim)
        if _FOUND[key]:
            told = "attention of the rollout goes over the whole window, most of it under a mask, since %s"
            logger.warning(told, _FOUND[key])
    return _FOUND[key]


def _tried(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    if not HAS_TRITON:
        return "triton is not installed"
    if head_dim < 16 or head_dim & (head_dim - 1):
        return f"heads of {head_dim} numbers are no power of two from 16 on"
    try:
        # Of few heads, whose tiles are small and share the keys, and of as many as the GPU has processors.
        heads = (3, torch.cuda.get_device_properties(device).multi_processor_count)
        with torch.inference_mode(False), torch.no_grad():
            right = all(_same(count, device=device, dtype=dtype, head_dim=head_dim) for count in heads)
        return "" if right else "its kernels compute something else on this device"
    except torch.OutOfMemoryError:
        # That says nothing of the kernels.
        raise
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), "no more is known")
        return f"its kernels do not run here ({type(error).__name__}: {first})"


def _same(heads: int, *, device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Compares the kernels with torch's attention under a mask, for two blocks whose stretches go round the end."""
    tokens, places = (128, 32), 304
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    ring, (q, k, v) = random(2, 1, heads, places, head_dim), random(3, 1, heads, sum(tokens), head_dim)
    control = torch.tensor([[200, 200, 260], [290, 50, 84]], dtype=torch.int32, device=device)
    kernels, mask = KernelRingPass(tokens, control, device), MaskedRingPass(tokens, control, ring)
    attended = []
    for one in (mask, kernels):
        ready, own = one.begin(), ring.clone()
        one.write(ready, *own, k, v)
        attended.append(one.attend(ready, q, *own).float())
    exact, found = attended
    return bool((found - exact).norm() < 0.02 * exact.norm())
