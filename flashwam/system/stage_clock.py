# SPDX-License-Identifier: Apache-2.0
"""A clock for what is handed to a device and done later."""

import time
from collections.abc import Callable
from functools import partial

import torch

__all__ = ["stage_clock"]


def stage_clock(device: torch.device) -> Callable[[], float]:
    """A clock that tells seconds once a device has done all that it was handed; the CPU is asked like any other, and
    has."""
    module = torch.get_device_module(device)
    done = module.synchronize if device.type == "mps" else partial(module.synchronize, device)

    def seconds() -> float:
        done()
        return time.perf_counter()

    return seconds
