# SPDX-License-Identifier: Apache-2.0
import math
from dataclasses import dataclass

import pytest
import torch

from flashwam.core.consistency import LCM, ConsistencyFunction, Linear, make_consistency_function
from flashwam.core.noise import NoiseSchedule, add_noise


@dataclass(frozen=True)
class Sine(ConsistencyFunction):
    gain: float = 1.0

    def a(self, sigma):
        return torch.cos(sigma)

    def b(self, sigma):
        return -self.gain * torch.sin(sigma)


@dataclass(frozen=True)
class Broken(ConsistencyFunction):
    def a(self, sigma):
        return 1 - sigma

    def b(self, sigma):
        return 0.1 + sigma


def test_known_expectations_under_the_shipped_schedules():
    known = {5.0: (0.114, 0.617), 1.0: (0.055, 0.333), 0.05: (0.0052, 0.041)}
    for shift, (lcm, linear) in known.items():
        schedule = NoiseSchedule(shift)
        assert LCM().expectation(schedule) == pytest.approx(lcm, abs=0.02 * lcm)
        assert Linear().expectation(schedule) == pytest.approx(linear, abs=1e-3)


def test_expectation_equals_the_closed_form_second_moment():
    s = 5.0
    # E sigma^2 = s^2/k^2 E (1 - 1/w)^2 for w = 1 + k u, k = s - 1.
    k = s - 1
    closed = s**2 / k**2 * (1 - 2 * math.log(s) / k + (1 - 1 / s) / k)
    assert Linear().expectation(NoiseSchedule(s)) == pytest.approx(closed, abs=1e-12)


def test_gradient_scale_ratio_of_the_paper():
    scale = LCM().gradient_scale(torch.tensor([5 / 6, 0.1], dtype=torch.float64))
    assert float(scale[0] / scale[1]) == pytest.approx(36.44, abs=5e-3)


@pytest.mark.parametrize(("function", "order"), [(LCM(), 2), (LCM(sigma_data=0.2), 2), (Linear(), 1), (Sine(), 1)])
def test_order_at_zero(function, order):
    assert function.order_at_zero() == pytest.approx(order, abs=1e-6)


def test_linear_recovers_the_data_and_lcm_keeps_it_at_zero():
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 2, 3, 4, 2, 2, generator=generator, dtype=torch.float64)
    sigma = torch.rand(2, 4, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(Linear()(add_noise(x0, eps, sigma), sigma, eps - x0), x0)
    torch.testing.assert_close(LCM()(x0, torch.zeros_like(sigma), eps - x0), x0)


def test_lcm_at_pure_noise():
    one = torch.ones((), dtype=torch.float64)
    assert float(LCM().a(one)) == pytest.approx(0.647, abs=5e-4)
    assert float(LCM().b(one)) == pytest.approx(-0.447, abs=5e-4)
    assert Linear().sampler_mismatch() == (0, 0)
    assert LCM().sampler_mismatch() == pytest.approx((0.353, -0.553), abs=5e-4)


@pytest.mark.parametrize("function", [Linear(), LCM(0.3), Sine(0.5)])
def test_config_round_trip(function):
    assert make_consistency_function(function.config) == function


def test_gradient_of_a_loss_scales_with_b():
    velocity = torch.randn(1, 1, 1, 1, 1, dtype=torch.float64, requires_grad=True)
    for function in (Linear(), LCM()):
        sigma = torch.full((1, 1), 0.37, dtype=torch.float64)
        (gradient,) = torch.autograd.grad(function(torch.zeros_like(velocity), sigma, velocity).sum(), velocity)
        assert gradient.abs().item() == pytest.approx(function.gradient_scale(sigma).item(), abs=1e-15)


def test_broken_boundary_and_wrong_names_are_refused():
    with pytest.raises(ValueError, match=r"a\(0\) = 1 and b\(0\) = 0"):
        Broken()
    with pytest.raises(ValueError, match="unknown consistency function 'lmc'"):
        make_consistency_function("lmc")
    with pytest.raises(ValueError, match="could not be imported"):
        make_consistency_function("no.such.module:Thing")
    with pytest.raises(ValueError, match="does not take"):
        make_consistency_function({"name": "linear", "sigma_data": 0.5})
    with pytest.raises(ValueError, match="subclass of"):
        make_consistency_function("torch:Tensor")
    with pytest.raises(ValueError, match="sigma_data must be positive"):
        LCM(0)


@pytest.mark.parametrize("function", [LCM(), LCM(0.2), Linear(), Sine()])
def test_f_is_its_mix_of_data_and_noise(function):
    x0, eps = torch.randn(2, 3, 4, 5, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sigma = torch.rand(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    clean, noise = (share[:, None, :, None, None] for share in function.mix(sigma))
    torch.testing.assert_close(function(add_noise(x0, eps, sigma), sigma, eps - x0), clean * x0 + noise * eps)


def test_linear_starts_at_the_data_and_lcm_does_not():
    sigma = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert float(Linear().start_bias(sigma).abs().max()) == 0
    one = torch.ones((), dtype=torch.float64)
    clean, noise = LCM().mix(one)
    root = 0.5 / math.sqrt(1.25)
    assert float(clean) - 1 == pytest.approx(root - 1, abs=1e-12)
    assert float(noise) == pytest.approx(0.2, abs=1e-12)
    assert float(LCM().start_bias(one)) == pytest.approx(math.hypot(root - 1, 0.2), abs=1e-12)
