# SPDX-License-Identifier: Apache-2.0
"""A product with GELU inside equals one with GELU after it, and is asked for where a device has it alone."""

import logging

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from flashwam.wam import linear_gelu as inside
from flashwam.wam.linear_gelu import linear_gelu, runs_inside

CUDA = torch.device("cuda", 0)


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((2, 5, 16), (32, 16), (32,)))
    return x.to(dtype), weight.to(dtype), bias.to(dtype)


def after(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.gelu(functional.linear(x, weight, bias), approximate="tanh")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_equals_gelu_after_the_product(dtype: torch.dtype) -> None:
    assert_close(linear_gelu(*inputs(dtype)), after(*inputs(dtype)))


def test_a_compiler_can_have_it() -> None:
    torch.library.opcheck(linear_gelu, inputs())


def test_a_cpu_has_none_inside_and_exact_numbers_are_left_alone() -> None:
    assert not runs_inside(torch.device("cpu"), torch.bfloat16)
    assert not runs_inside(CUDA, torch.float32)


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries on the CPU what is tried on a GPU."""
    monkeypatch.setattr(inside, "_FOUND", {})
    own = Tensor.to
    monkeypatch.setattr(Tensor, "to", lambda x, *args: own(x, *(a for a in args if a != CUDA)))


def test_what_is_tried_is_believed(on_cpu: None, caplog: pytest.LogCaptureFixture) -> None:
    assert runs_inside(CUDA, torch.bfloat16)
    assert not caplog.records


@pytest.mark.parametrize(("wrong", "why"), [(torch.relu, "something else"), (None, "does not run")])
def test_a_device_without_it_is_told_once(
    wrong: object, why: str, on_cpu: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def other(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if wrong is None:
            raise RuntimeError("no such epilogue")
        return torch.relu(functional.linear(x, weight, bias))

    monkeypatch.setattr(inside, "linear_gelu", other)
    with caplog.at_level(logging.WARNING):
        assert not any(runs_inside(CUDA, torch.bfloat16) for _ in range(2))
    assert [why in record.message for record in caplog.records] == [True]
