# SPDX-License-Identifier: Apache-2.0
"""EDM in flow coordinates against EDM in its own, in float64."""

import math

import pytest
import torch
from torch.testing import assert_close

from flashwam.core.consistency import Linear
from flashwam.core.edm import EDMSchedule, edm_input_scale, edm_noise_input, edm_velocity
from flashwam.core.streams import StreamSpec, make_schedule
from flashwam.sampling import StreamSampler, draw

D = 0.5
S = torch.tensor([1e-3, 0.01, 0.3, 0.5, 1.0, 7.0, 80.0], dtype=torch.float64)
SIGMA = S / (1 + S)


def edm(s):
    """(c_skip, c_out, c_in, c_noise) as the paper writes them."""
    power = s**2 + D**2
    return D**2 / power, s * D / power.sqrt(), 1 / power.sqrt(), s.log() / 4


def test_the_velocity_is_that_of_edms_denoiser():
    x0, eps, output = torch.randn(3, len(S), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    c_skip, c_out, _, _ = edm(S)
    state = x0 + S * eps
    denoised = c_skip * state + c_out * output
    flow = state / (1 + S)
    velocity = edm_velocity(flow, output, SIGMA, sigma_data=D)
    # The clean estimate of a flow velocity is x - sigma v.
    assert_close(flow - SIGMA * velocity, denoised, rtol=1e-12, atol=1e-12)


def test_what_the_network_is_shown_is_edms_input():
    state = torch.randn(len(S), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    _, _, c_in, c_noise = edm(S)
    assert_close(state / (1 + S) * edm_input_scale(SIGMA, sigma_data=D), c_in * state, rtol=1e-12, atol=0)
    assert_close(edm_noise_input(SIGMA, s_min=1e-3, s_max=80.0), c_noise, rtol=1e-10, atol=0)


def test_everything_is_finite_at_pure_noise_and_at_data():
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    x, output = torch.tensor([0.7, -1.3], dtype=torch.float64), torch.tensor([0.4, 0.9], dtype=torch.float64)
    # At sigma 0 the state is the data and F is -eps; at sigma 1 it is noise, and d F the data.
    velocity = edm_velocity(x, output, ends, sigma_data=D)
    assert_close(velocity, torch.stack([-x[0] - output[0], x[1] - D * output[1]]))
    assert_close(edm_input_scale(ends, sigma_data=D), torch.tensor([1 / D, 1.0], dtype=torch.float64))
    c_noise = edm_noise_input(ends, s_min=1e-3, s_max=80.0)
    assert_close(c_noise, torch.tensor([math.log(1e-3), math.log(80.0)], dtype=torch.float64) / 4)
    assert torch.isfinite(edm_noise_input(ends.float(), s_min=1e-3, s_max=80.0)).all()


def test_data_of_that_spread_needs_nothing_of_the_network():
    """E[v | x] of x0 ~ N(0, d^2) is the skip term alone."""
    sigma = torch.linspace(0, 1, 11, dtype=torch.float64)
    x = torch.randn(11, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    variance = (1 - sigma) ** 2 * D**2 + sigma**2
    expected = (sigma - (1 - sigma) * D**2) / variance * x
    assert_close(edm_velocity(x, torch.zeros_like(x), sigma, sigma_data=D), expected)


def test_the_training_weight_makes_it_the_error_of_the_network():
    schedule = EDMSchedule(sigma_data=D)
    sigma, weight = schedule.training_grid(), schedule.training_weights()
    generator = torch.Generator().manual_seed(3)
    x0, eps, output = torch.randn(3, len(sigma), dtype=torch.float64, generator=generator)
    x = (1 - sigma) * x0 + sigma * eps
    error = edm_velocity(x, output, sigma, sigma_data=D) - (eps - x0)
    inside = (sigma > 0) & (sigma < 1)
    s = (sigma / (1 - sigma))[inside]
    c_skip, c_out, _, _ = edm(s)
    target = (x0[inside] - c_skip * (x0[inside] + s * eps[inside])) / c_out
    assert_close((weight * error**2)[inside], (output[inside] - target) ** 2, rtol=1e-9, atol=1e-12)


def test_levels_are_truncated_log_logistic():
    schedule = EDMSchedule(loc=math.log(0.3), scale=0.7, s_min=0.01, s_max=20.0)
    u = torch.linspace(0, 1, 2001, dtype=torch.float64)[1:-1]
    sigma = schedule.sigma(u)
    log_s = torch.logit(sigma)
    low, high, share = (
        torch.sigmoid((torch.as_tensor(v, dtype=torch.float64) - schedule.loc) / schedule.scale)
        for v in (math.log(0.01), math.log(20.0), log_s)
    )
    assert_close((share - low) / (high - low), u, rtol=1e-10, atol=1e-12)
    assert_close(schedule.u(sigma), u, rtol=1e-10, atol=1e-12)
    assert float(log_s.min()) > math.log(0.01)
    assert float(log_s.max()) < math.log(20.0)
    slope = (u[2:] - u[:-2]) / (sigma[2:] - sigma[:-2])
    assert_close(schedule.density(sigma)[1:-1], slope, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pure_noise_and_data_are_the_ends(dtype):
    schedule = EDMSchedule()
    assert schedule.sigma(torch.tensor([0.0, 1.0], dtype=dtype)).tolist() == [0.0, 1.0]
    assert schedule.u(torch.tensor([0.0, 1.0], dtype=dtype)).tolist() == [0.0, 1.0]
    assert (schedule.sigma(0.0), schedule.sigma(1.0), schedule.u(1.0)) == (0.0, 1.0, 1.0)
    grid = schedule.training_grid()
    assert grid[0] == 1
    assert (grid.diff() < 0).all()
    assert schedule.density(0.0) == schedule.density(1.0) == 0
    assert abs(schedule.median - 1 / 3) < 1e-3  # s = 0.5
    assert schedule.expectation(lambda sigma: torch.ones_like(sigma)) == pytest.approx(1)


def test_steps_are_even_in_the_logarithm():
    schedule = EDMSchedule(s_max=100.0, s_end=0.01)
    assert schedule.sampling_grid(1).tolist() == [1, 0]
    grid = schedule.sampling_grid(5)
    assert (grid[0], grid[-1]) == (1, 0)
    assert_close(torch.logit(grid[1:-1]).exp(), torch.tensor([10, 1, 0.1, 0.01], dtype=torch.float64))
    with pytest.raises(ValueError, match="at least 1 step"):
        schedule.sampling_grid(0)


def test_a_linear_streams_steps_are_ddims():
    """Deterministic DDIM on x0 + s eps, from the second level on; the first stands at pure noise."""

    def denoise(state, s):
        return torch.tanh(state) * D**2 / (s**2 + D**2) + 0.1

    schedule = EDMSchedule()
    eps = torch.randn(2, 3, 1, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(4))

    def velocity(x, sigma):
        level = sigma["a"][:, None, :, None, None].double()
        if bool((level == 1).all()):
            return {"a": x["a"] - 0.1}
        s = level / (1 - level)
        return {"a": (x["a"] - denoise(x["a"] * (1 + s), s)) / level}

    sampler = StreamSampler(schedule=schedule, consistency=Linear(), steps=6)
    drawn = draw(velocity, {"a": eps}, {"a": sampler})["a"]
    levels = torch.linspace(math.log(80.0), math.log(1e-3), 6, dtype=torch.float64).exp().tolist()[1:]
    state = 0.1 + levels[0] * eps
    for s, following in zip(levels, [*levels[1:], 0.0], strict=True):
        x0 = denoise(state, torch.tensor(s, dtype=torch.float64))
        state = x0 + following * (state - x0) / s
    assert_close(drawn, state, rtol=1e-5, atol=1e-6)


def test_round_trip_through_plain_values():
    schedule = EDMSchedule(sigma_data=0.4, s_end=1.0)
    assert make_schedule(schedule.config) == schedule
    spec = StreamSpec.from_config("action", {"schedule": {"name": "edm", "s_end": 1.0}})
    assert StreamSpec.from_config("action", spec.config) == spec


@pytest.mark.parametrize("change", [{"sigma_data": 0}, {"scale": -1}, {"s_min": 90}, {"s_max": math.inf}, {"s_end": 0}])
def test_values_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))}"):
        EDMSchedule(**change)
