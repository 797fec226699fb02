# SPDX-License-Identifier: Apache-2.0
"""The attention kernels of torch that a rollout runs on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["kernels_for_any_length"]

_PLAN_NOTHING = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


@contextmanager
def kernels_for_any_length(device: torch.device) -> Iterator[None]:
    """Runs attention by kernels that take keys of any length as they come.

    cuDNN, which torch prefers on recent GPUs, plans anew for every shape that it has not seen, about 1.4 ms a call on
    an H100, and the past of a rollout has another length in every chunk. Flash attention also splits the keys between
    processors where queries are few. Nothing changes where the device is no GPU.
    """
    if device.type != "cuda":
        yield
        return
    with sdpa_kernel(_PLAN_NOTHING):
        yield
