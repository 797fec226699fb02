# SPDX-License-Identifier: Apache-2.0
"""Rows are rounded on scales of their own, and products of them are what arithmetic by hand gives."""

import pytest
import torch

from flashwam.core.float8 import FLOAT8, LARGEST, product, round_rows, sums


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_a_row_is_off_by_a_sixteenth_of_a_number_or_by_the_least_step_of_its_scale(size: float) -> None:
    x = size * numbers(64, 96) * torch.logspace(-3, 3, 64)[:, None]
    rounded, scale = round_rows(x)
    assert rounded.dtype == FLOAT8
    assert scale.shape == (64, 1)
    back = rounded.float() * scale
    # Below 2^-6 of a scale numbers are multiples of 2^-9 of it.
    assert ((back - x).abs() <= torch.maximum(x.abs() / 16, 2**-10 * scale) * (1 + 1e-5)).all()
    largest = x.abs().argmax(1, keepdim=True)
    assert (rounded.float().gather(1, largest).abs() == LARGEST).all()
    assert (back - x).abs().max() > 0, "this is no copy"


def test_a_row_knows_nothing_of_other_rows() -> None:
    x = numbers(4, 32)
    wild = x.clone()
    wild[0] *= 1e4
    for one, other in zip(round_rows(x), round_rows(wild), strict=True):
        assert torch.equal(one[1:].float(), other[1:].float())


def test_rows_of_zeros_stay_and_what_is_not_finite_is_seen() -> None:
    x = torch.zeros(3, 16)
    x[1, 2], x[2, 3] = float("nan"), float("inf")
    rounded, scale = round_rows(x)
    back = rounded.float() * scale
    assert torch.equal(back[0], x[0])
    assert back[1:].isnan().any(1).all()


def test_a_product_by_hand() -> None:
    """Of numbers that 8 bits hold exactly."""
    x, weight = torch.tensor([[448.0, -2.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.5], [0.0, -3.0], [448.0, 448.0]])
    scale, weight_scale = torch.tensor([[0.5], [2.0]]), torch.tensor([[1.0], [4.0], [0.25]])
    bias = torch.tensor([1.0, 0.0, -8.0]).bfloat16()
    made = product(x.to(FLOAT8), scale, weight.to(FLOAT8), weight_scale, bias)
    # Rounded to 8 bits: 447 becomes 448, and 448 * 446 = 199808 becomes 199680.
    summed = [[448.0, 6.0, 199680.0], [1.0, 0.0, 448.0]]
    expected = [[0.5 * 448 + 1, 0.5 * 4 * 6, 0.5 * 0.25 * 199680 - 8], [2 * 1 + 1, 0.0, 2 * 0.25 * 448 - 8]]
    assert torch.equal(made, torch.tensor(expected).bfloat16())
    assert torch.equal(sums(x.to(FLOAT8), weight.to(FLOAT8)), torch.tensor(summed).bfloat16())


def test_the_emulation_is_torchs_own_product() -> None:
    """That of this processor, which newer versions of torch have."""
    rows, _ = round_rows(numbers(37, 64))
    weight, _ = round_rows(numbers(48, 64, seed=1))
    one = torch.ones(())
    try:
        expected = torch._scaled_mm(rows, weight.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"torch {torch.__version__} does not compute it here: {error}")
    made = sums(rows, weight)
    # Sums in another order may round to the next number of 8 bits of fraction.
    torch.testing.assert_close(made, expected, rtol=2**-7, atol=1e-5)
    assert (made == expected).float().mean() > 0.98
