# SPDX-License-Identifier: Apache-2.0
"""Levels and timesteps against diffusers' scheduler; one Euler step against one of its DDIM steps."""

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler
from torch.testing import assert_close

from flashwam.core.noise import flow_output_from_vp, flow_state_from_vp, vp_from_flow_sigma
from flashwam.core.vp import VPSchedule
from flashwam.wam.cogvideox.coordinates import network_timestep

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
    alpha, s = vp_from_flow_sigma(VPSchedule(snr_shift=snr_shift).levels()[1:])
    abar = scheduler(snr_shift).alphas_cumprod
    assert_close(alpha, abar.sqrt(), atol=1e-12, rtol=0)
    assert_close(s, (1 - abar).sqrt(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("snr_shift", SHIFTS)
def test_the_network_is_fed_the_steps_of_a_trailing_sampler(snr_shift: float) -> None:
    """Exact integers, though levels reach the model rounded to float32; clean data counts as the least noise."""
    stepper = scheduler(snr_shift)
    # 48 has halves to round; at 61 and 103 numpy counts one entry too many, before the first of the table.
    for steps in (1, 2, 3, 4, 6, 7, 10, 12, 15, 30, 48, 50, 60, 61, 96, 103, 144, 300, 333, 997, 1000):
        stepper.set_timesteps(steps)
        grid = VPSchedule(snr_shift=snr_shift).sampling_grid(steps).float()
        told = network_timestep(VPSchedule(snr_shift=snr_shift), grid).tolist()
        assert told == [*stepper.timesteps.tolist()[:steps], 0]
        assert len(told) == steps + 1


@pytest.mark.parametrize("snr_shift", SHIFTS)
def test_one_euler_step_is_one_step_of_diffusers(snr_shift: float) -> None:
    stepper = scheduler(snr_shift)
    stepper.set_timesteps(10)
    levels = VPSchedule(snr_shift=snr_shift).levels()
    generator = torch.Generator().manual_seed(0)
    for index in stepper.timesteps.tolist():
        x, v = torch.randn(2, 50, generator=generator)
        level, following = levels[index + 1].float(), levels[index + 1 - 100].float()
        alpha, s = vp_from_flow_sigma(level)
        euler = flow_state_from_vp(x, alpha, s) + (following - level) * flow_output_from_vp(v, x, alpha, s)
        ddim = stepper.step(v, index, x).prev_sample
        assert_close(euler, flow_state_from_vp(ddim, *vp_from_flow_sigma(following)), atol=2e-6, rtol=2e-6)
