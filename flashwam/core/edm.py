# SPDX-License-Identifier: Apache-2.0
"""EDM's noise and preconditioning (arXiv 2206.00364, table 1), in coordinates of the flow path.

EDM's path is x = x0 + s eps with s in [0, inf); divided by 1 + s it is the flow path at sigma = s / (1 + s). Its
denoiser is c_skip x + c_out F(c_in x, c_noise). As a velocity of the flow that is

    v = (sigma - d^2 (1 - sigma)) / r x - d / sqrt(r) F(x / sqrt(r), c_noise),  r = sigma^2 + d^2 (1 - sigma)^2,

with d = sigma_data, which is finite on all of [0, 1]: pure noise is s = inf.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flashwam.core.checks import check_number
from flashwam.core.schedule import TRAINING_POINTS, Level, Schedule
from flashwam.system.errors import InputError

__all__ = ["EDMSchedule", "edm_input_scale", "edm_noise_input", "edm_velocity"]


def _power(sigma: Level, sigma_data: float) -> Level:
    """r, the variance of the flow state of data with standard deviation d."""
    return sigma**2 + sigma_data**2 * (1 - sigma) ** 2


def edm_input_scale(sigma: Tensor, *, sigma_data: float) -> Tensor:
    """Factor that gives a flow state at `sigma` unit variance: 1 / sqrt(r), which is c_in (1 + s)."""
    return _power(sigma, sigma_data) ** -0.5


def edm_noise_input(sigma: Tensor, *, s_min: float, s_max: float) -> Tensor:
    """c_noise = ln(s) / 4 with s held in [s_min, s_max], so that it is finite at data and at pure noise."""
    low, high = (s / (1 + s) for s in (s_min, s_max))
    return torch.logit(sigma.clamp(low, high)) / 4


def edm_velocity(x: Tensor, output: Tensor, sigma: Tensor, *, sigma_data: float) -> Tensor:
    """The flow velocity of a flow state from the network's output F; all shapes broadcast."""
    power = _power(sigma, sigma_data)
    return (sigma - sigma_data**2 * (1 - sigma)) / power * x - sigma_data * power**-0.5 * output


@dataclass(frozen=True, slots=True)
class EDMSchedule(Schedule):
    """Log-logistic s: ln s ~ logistic(loc, scale) between ln s_min and ln s_max; sampled at levels even in ln s.

    All of pure noise and all of the data lie beyond the range: u = 1 and u = 0 are sigma = 1 and sigma = 0 themselves.

    Args:
        sigma_data: d, the standard deviation of the data.
        loc: Of ln s; the median of s is exp(loc) but for the truncation.
        scale: Of ln s.
        s_min: Least noise in training.
        s_max: Most noise in training and in sampling.
        s_end: Noise at the last evaluation of a sampler with two steps or more.

    Raises:
        ValueError: a value is beyond what can be meant, or the range is empty.
    """

    sigma_data: float = 0.5
    loc: float = math.log(0.5)
    scale: float = 0.5
    s_min: float = 1e-3
    s_max: float = 80.0
    s_end: float = 1e-3

    def __post_init__(self) -> None:
        for key in ("sigma_data", "scale"):
            check_number(key, getattr(self, key), low=1e-3, high=1e3)
        for key in ("s_min", "s_max", "s_end"):
            check_number(key, getattr(self, key), low=1e-9, high=1e9)
        check_number("loc", self.loc, low=math.log(1e-9), high=math.log(1e9))
        if not (self.s_min < self.s_max and self.s_end < self.s_max):
            raise InputError(
                f"s_min and s_end must lie below s_max; got s_min {self.s_min}, s_end {self.s_end}, s_max {self.s_max}"
            )

    @property
    def name(self) -> str:
        return "edm"

    @property
    def label(self) -> str:
        return f"edm, data {self.sigma_data:g}"

    @property
    def _bounds(self) -> tuple[float, float]:
        """Shares of the untruncated distribution below s_min and s_max."""
        low, high = (1 / (1 + math.exp((self.loc - math.log(s)) / self.scale)) for s in (self.s_min, self.s_max))
        return low, high

    def sigma(self, u: Level) -> Level:
        """u in [0, 1] -> sigma in [0, 1]; also the quantile function, with a step at either end."""
        if not isinstance(u, Tensor):
            return float(self.sigma(torch.tensor(u, dtype=torch.float64)))
        low, high = self._bounds
        # In double precision, since shares near 1 differ by less than a float32 can tell.
        share = (low + u.double() * (high - low)).clamp(low, high)
        sigma = torch.sigmoid(self.loc + self.scale * torch.logit(share)).to(u.dtype)
        return torch.where(u <= 0, 0.0, torch.where(u >= 1, 1.0, sigma)).to(u.dtype)

    def u(self, sigma: Level) -> Level:
        """The share of training draws below a level, and the inverse of `sigma` within the range."""
        if not isinstance(sigma, Tensor):
            return float(self.u(torch.tensor(sigma, dtype=torch.float64)))
        low, high = self._bounds
        share = torch.sigmoid((torch.logit(sigma.double()) - self.loc) / self.scale)
        return ((share - low) / (high - low)).clamp(0, 1).to(sigma.dtype)

    def density(self, sigma: Level) -> Level:
        """p(sigma), 0 outside the range."""
        if not isinstance(sigma, Tensor):
            return float(self.density(torch.tensor(sigma, dtype=torch.float64)))
        low, high = self._bounds
        least, most = (s / (1 + s) for s in (self.s_min, self.s_max))
        held = sigma.double().clamp(least, most)
        share = torch.sigmoid((torch.logit(held) - self.loc) / self.scale)
        density = share * (1 - share) / (self.scale * held * (1 - held) * (high - low))
        return torch.where((sigma >= least) & (sigma <= most), density, 0.0).to(sigma.dtype)

    def training_weights(self, points: int = TRAINING_POINTS) -> Tensor:
        """r / d^2, which makes the flow-matching loss the mean squared error of F: [points], float64."""
        return _power(self.training_grid(points), self.sigma_data) / self.sigma_data**2

    def sampling_grid(self, steps: int) -> Tensor:
        """Pure noise, which stands for s_max, then levels even in ln s down to s_end, then 0: [steps + 1], float64."""
        if steps < 1:
            raise InputError(f"a sampler needs at least 1 step; got {steps}")
        log_s = torch.linspace(math.log(self.s_max), math.log(self.s_end), max(steps, 2), dtype=torch.float64)
        inner = torch.sigmoid(log_s[1:]) if steps > 1 else log_s[:0]
        return torch.cat([inner.new_ones(1), inner, inner.new_zeros(1)])
