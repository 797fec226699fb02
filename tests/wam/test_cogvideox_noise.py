# SPDX-License-Identifier: Apache-2.0
"""Levels and timesteps against diffusers' scheduler and published numbers; one Euler step against one DDIM step."""

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler
from torch.testing import assert_close

from flashwam.core.noise import flow_output_from_vp, flow_state_from_vp, vp_from_flow_sigma
from flashwam.wam.cogvideox import NetworkTime

SHIFTS = (1.0, 3.0)


def scheduler(snr_shift: float) -> CogVideoXDDIMScheduler:
    """As the released checkpoints' configurations have it."""
    return CogVideoXDDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        set_alpha_to_one=True,
        snr_shift_scale=snr_shift,
        steps_offset=0,
        timestep_spacing="trailing",
    )


@pytest.mark.parametrize("snr_shift", SHIFTS)
def test_levels_are_the_schedulers(snr_shift: float) -> None:
    levels = NetworkTime(snr_shift=snr_shift).levels()
    assert levels.shape == (1001,)
    assert levels[0] == 0
    assert levels[-1] == 1
    assert (levels.diff() > 0).all()
    alpha, s = vp_from_flow_sigma(levels[1:])
    abar = scheduler(snr_shift).alphas_cumprod
    assert_close(alpha, abar.sqrt(), atol=1e-12, rtol=0)
    assert_close(s, (1 - abar).sqrt(), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("snr_shift", "expected"),
    [
        (1.0, {998: 0.999557, 979: 0.990822, 749: 0.843719, 499: 0.638739, 99: 0.261987, 0: 0.028341}),
        (3.0, {998: 0.999750, 979: 0.994812, 749: 0.904734, 499: 0.754251, 99: 0.377655, 0: 0.048090}),
    ],
)
def test_levels_are_the_published_ones(snr_shift: float, expected: dict[int, float]) -> None:
    levels = NetworkTime(snr_shift=snr_shift).levels()
    for index, level in expected.items():
        assert levels[index + 1].item() == pytest.approx(level, abs=5.1e-7)


@pytest.mark.parametrize("snr_shift", SHIFTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_network_gets_exact_integers_at_the_tables_levels(snr_shift: float, dtype: torch.dtype) -> None:
    time = NetworkTime(snr_shift=snr_shift)
    levels = time.levels(dtype=dtype)
    assert torch.equal(time.index(levels), torch.arange(-1, 1000, dtype=dtype))
    assert torch.equal(time.timestep(levels[:3]), torch.tensor([0, 0, 1], dtype=dtype))


def test_between_levels_the_index_is_linear_in_sigma() -> None:
    time = NetworkTime(snr_shift=3.0)
    levels = time.levels()
    for share in (0.25, 0.5, 0.9):
        between = torch.lerp(levels[:-1], levels[1:], share)
        assert_close(time.index(between), torch.arange(-1, 999, dtype=torch.float64) + share, atol=1e-9, rtol=0)
    sigma = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    time.index(sigma).backward()
    i = int(time.index(sigma.detach()))
    assert sigma.grad.item() == pytest.approx(1 / float(levels[i + 2] - levels[i + 1]))


def test_half_precision_levels_are_taken_as_float32() -> None:
    sigma = torch.tensor([0.0, 0.5, 1.0], dtype=torch.bfloat16)
    time = NetworkTime()
    assert torch.equal(time.index(sigma), time.index(sigma.float()))
    assert time.index(sigma).dtype == torch.float32


@pytest.mark.parametrize("snr_shift", SHIFTS)
def test_one_euler_step_is_one_ddim_step(snr_shift: float) -> None:
    """In float64 by the formulas of both, for every pair of a ten-step grid, pure noise and clean data included."""
    generator = torch.Generator().manual_seed(0)
    levels = NetworkTime(snr_shift=snr_shift).levels()[torch.arange(1000, -1, -100)]
    alpha, s = vp_from_flow_sigma(levels)
    for i in range(10):
        x, v = torch.randn(2, 2, 50, generator=generator, dtype=torch.float64)
        x0 = alpha[i] * x - s[i] * v
        ratio = s[i + 1] / s[i]
        ddim = ratio * x + (alpha[i + 1] - alpha[i] * ratio) * x0
        velocity = flow_output_from_vp(v, x, alpha[i], s[i])
        euler = flow_state_from_vp(x, alpha[i], s[i]) + (levels[i + 1] - levels[i]) * velocity
        assert_close(euler, flow_state_from_vp(ddim, alpha[i + 1], s[i + 1]), atol=1e-12, rtol=0)


@pytest.mark.parametrize("snr_shift", SHIFTS)
def test_one_euler_step_is_one_step_of_diffusers(snr_shift: float) -> None:
    stepper = scheduler(snr_shift)
    stepper.set_timesteps(10)
    levels = NetworkTime(snr_shift=snr_shift).levels()
    generator = torch.Generator().manual_seed(0)
    for index in stepper.timesteps.tolist():
        x, v = torch.randn(2, 50, generator=generator)
        level, following = levels[index + 1].float(), levels[index + 1 - 100].float()
        alpha, s = vp_from_flow_sigma(level)
        euler = flow_state_from_vp(x, alpha, s) + (following - level) * flow_output_from_vp(v, x, alpha, s)
        ddim = stepper.step(v, index, x).prev_sample
        assert_close(euler, flow_state_from_vp(ddim, *vp_from_flow_sigma(following)), atol=2e-6, rtol=2e-6)
