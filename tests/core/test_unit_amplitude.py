# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from test_consistency import Sine

from flashwam.core.consistency import LCM, Linear, make_consistency_function
from flashwam.core.unit_amplitude import UnitAmplitude


def noisy(level):
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 3, 4, 2, 1, 1, generator=generator, dtype=torch.float64)
    sigma = torch.full((3, 2), level, dtype=torch.float64)
    return x0, eps, sigma, (1 - level) * x0 + level * eps, eps - x0


@pytest.mark.parametrize("level", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("function", [LCM(), LCM(sigma_data=2.0), Sine()])
def test_the_data_keep_their_amplitude_at_every_level(function, level):
    x0, eps, sigma, x, velocity = noisy(level)
    found = UnitAmplitude(function=function)(x, sigma, velocity)
    share, _ = torch.linalg.lstsq(torch.stack([x0.flatten(), eps.flatten()], 1), found.flatten()).solution
    assert float(share) == pytest.approx(1)


def test_from_pure_noise_it_is_lcm_times_the_root_of_five():
    _, _, sigma, x, velocity = noisy(1.0)
    own, unit = LCM()(x, sigma, velocity), UnitAmplitude(function=LCM())(x, sigma, velocity)
    assert torch.allclose(unit, 5**0.5 * own)
    # Euler's step from pure noise is the same less a share of the noise.
    assert torch.allclose(x - velocity, unit - 5**-0.5 * x)


def test_linear_is_left_as_it_is():
    sigma = torch.linspace(0, 1, 7, dtype=torch.float64)
    unit = UnitAmplitude(function=Linear())
    assert torch.allclose(unit.a(sigma), Linear().a(sigma))
    assert torch.allclose(unit.b(sigma), Linear().b(sigma))


def test_its_plain_values_build_it_again():
    unit = UnitAmplitude(function=LCM(sigma_data=0.3))
    assert make_consistency_function(unit.config) == unit


def test_a_function_that_loses_the_data_is_refused():
    with pytest.raises(ValueError, match="none can be restored"):
        UnitAmplitude(function=Sine(gain=0.0))
