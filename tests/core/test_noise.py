# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from safetensors import safe_open

from flashwam.core.noise import (
    NoiseSchedule,
    add_noise,
    flow_output_from_vp,
    flow_sigma_from_vp,
    flow_state_from_vp,
    vp_from_flow_sigma,
    vp_state_from_flow,
)

SHIFTS = [5.0, 1.0, 0.05]


@pytest.mark.parametrize("shift", SHIFTS)
def test_u_and_sigma_are_inverse_and_density_is_the_derivative_of_the_cdf(shift):
    schedule = NoiseSchedule(shift)
    u = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(schedule.u(schedule.sigma(u)), u, rtol=0, atol=1e-13)
    sigma = torch.linspace(0.01, 0.99, 50, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(schedule.cdf(sigma).sum(), sigma)
    torch.testing.assert_close(schedule.density(sigma.detach()), slope, rtol=1e-12, atol=0)


def test_known_medians_and_low_noise_mass():
    assert NoiseSchedule(5.0).median == pytest.approx(5 / 6, abs=1e-15)
    assert NoiseSchedule(1.0).median == 0.5
    assert NoiseSchedule(0.05).mass_below(0.1) == pytest.approx(0.69, abs=5e-3)
    assert NoiseSchedule(5.0).mass_below(0.1) == pytest.approx(0.1 / 4.6, abs=1e-15)


@pytest.mark.parametrize("shift", SHIFTS)
def test_expectation_equals_closed_form_mean(shift):
    closed = 0.5 if shift == 1 else shift / (shift - 1) * (1 - math.log(shift) / (shift - 1))
    assert NoiseSchedule(shift).expectation(lambda sigma: sigma) == pytest.approx(closed, abs=1e-12)


@pytest.mark.parametrize("shift", ["5.0", "1.0"])
def test_grids_equal_the_golden_tables(golden_dir, shift):
    schedule = NoiseSchedule(float(shift))
    with safe_open(golden_dir / "lingbot_va.safetensors", "pt") as golden:
        steps_seen = 0
        for key in golden.keys():
            if key.startswith(f"scheduler/{shift}/") and key.endswith("/sigmas") and "train" not in key:
                steps = int(key.split("/")[2])
                ours = schedule.sampling_grid(steps).float()
                torch.testing.assert_close(ours[:-1], golden.get_tensor(key), rtol=0, atol=1e-6)
                assert ours[-1] == 0
                steps_seen += 1
        assert steps_seen == 8
        prefix = f"scheduler/{shift}/train"
        grid = schedule.training_grid()
        torch.testing.assert_close(grid.float(), golden.get_tensor(f"{prefix}/sigmas"), rtol=0, atol=1e-6)
        torch.testing.assert_close(
            schedule.training_weights().float(), golden.get_tensor(f"{prefix}/weights"), rtol=1e-4, atol=1e-5
        )
        x, noise, t = (golden.get_tensor(f"{prefix}/{k}") for k in ("x", "noise", "t"))
        noisy = add_noise(x, noise, (t / 1000)[None])
        torch.testing.assert_close(noisy, golden.get_tensor(f"{prefix}/add_noise"), rtol=0, atol=1e-5)
        torch.testing.assert_close(noise - x, golden.get_tensor(f"{prefix}/target"), rtol=0, atol=1e-6)


def test_small_shift_sampling_grid_leans_to_the_data():
    grid = NoiseSchedule(0.05).sampling_grid(3) * 1000
    torch.testing.assert_close(grid, torch.tensor([1000, 90.909, 24.390, 0.0], dtype=torch.float64), rtol=0, atol=1e-3)


def test_jumps_span_the_grid_and_stop_at_its_end():
    index = torch.tensor([0, 499, 500, 999])
    assert NoiseSchedule.jump(index, 2).tolist() == [500, 999, 999, 999]
    assert NoiseSchedule.jump(index, 25).tolist() == [40, 539, 540, 999]
    with pytest.raises(ValueError, match="anchors must lie in"):
        NoiseSchedule.jump(index, 0)


def test_indices_follow_the_generator():
    schedule = NoiseSchedule(5.0)
    draws = [schedule.sample_indices((2, 3), torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*draws)
    levels = schedule.training_grid()[schedule.sample_indices((20000,), torch.Generator().manual_seed(0))]
    assert levels.median().item() == pytest.approx(5 / 6, abs=0.01)


def test_variance_preserving_round_trips_are_exact_and_finite_at_zero_terminal_snr():
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 64, dtype=torch.float64, generator=generator)
    alpha = torch.linspace(0, 1, 64, dtype=torch.float64)
    s = torch.sqrt(1 - alpha**2)
    x, v = alpha * x0 + s * eps, alpha * eps - s * x0
    sigma = flow_sigma_from_vp(alpha, s)
    x_flow = flow_state_from_vp(x, alpha, s)
    torch.testing.assert_close(x_flow, (1 - sigma) * x0 + sigma * eps, rtol=0, atol=1e-12)
    velocity = flow_output_from_vp(v, x, alpha, s)
    torch.testing.assert_close(velocity, eps - x0, rtol=0, atol=1e-12)
    torch.testing.assert_close(vp_state_from_flow(x_flow, alpha, s), x, rtol=0, atol=1e-12)
    back = vp_from_flow_sigma(sigma)
    torch.testing.assert_close(torch.stack(back), torch.stack((alpha, s)), rtol=0, atol=1e-12)
    inner = slice(1, -1)
    for prediction, output in (("epsilon", eps), ("sample", x0)):
        other = flow_output_from_vp(output[inner], x[inner], alpha[inner], s[inner], prediction=prediction)
        torch.testing.assert_close(other, (eps - x0)[inner], rtol=0, atol=1e-10)
        with pytest.raises(ValueError, match="says nothing"):
            flow_output_from_vp(output, x, alpha, s, prediction=prediction)


@pytest.mark.parametrize("shift", [0, -1.0, float("inf"), float("nan")])
def test_impossible_shift_is_refused(shift):
    with pytest.raises(ValueError, match="shift must be"):
        NoiseSchedule(shift)
