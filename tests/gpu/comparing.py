# SPDX-License-Identifier: Apache-2.0
"""The same computation on the CPU and on the device, side by side."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.testing import assert_close

CPU = torch.device("cpu")
TOLERANCE = 3e-4
"""Of numbers around 1 after one pass: float32 is added up in another order."""


def to(device: torch.device, value: Any) -> Any:
    """Tensors in mappings, lists and tuples, on a device."""
    if isinstance(value, Mapping):
        return {key: to(device, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to(device, item) for item in value)
    return value.to(device) if isinstance(value, Tensor) else value


def near(got: Mapping[str, Tensor], expected: Mapping[str, Tensor], device: torch.device, *, within: float) -> None:
    """Both have the same tensors, those of `got` lie on the device, and none is zero throughout."""
    assert set(got) == set(expected)
    for name, value in expected.items():
        assert got[name].device.type == device.type, f"{name} is on {got[name].device}"
        assert bool(value.abs().max() > 10 * within), f"{name} is too small to be compared"
        assert_close(got[name].cpu(), value, atol=within, rtol=within, msg=lambda text, name=name: f"{name}: {text}")


@contextmanager
def training_on(device: torch.device) -> Iterator[None]:
    """A context in which a training chooses this device, whatever an earlier one of the process chose."""
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        if device.type == "cpu":
            with mock.patch("torch.cuda.is_available", return_value=False):
                yield
        else:
            yield
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
