# SPDX-License-Identifier: Apache-2.0
"""The noise of a variance-preserving teacher (CogVideoX), expressed as levels of the flow path.

Its path is x = alpha_i x0 + s_i eps with alpha^2 + s^2 = 1 and a table index i = 0 ... 999; abar stands for alpha^2.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from flashwam.core.checks import check_number
from flashwam.core.noise import flow_sigma_from_vp
from flashwam.core.schedule import TRAINING_POINTS, Level, Schedule
from flashwam.system.errors import InputError

__all__ = ["VPSchedule", "signal_power", "zero_terminal_snr"]


def signal_power(*, snr_shift: float, beta_start: float, beta_end: float) -> Tensor:
    """abar_i of scaled-linear betas with every signal-to-noise ratio divided by `snr_shift`: [1000], float64.

    Dividing the ratio by k is the flow shift sqrt(k) of the corresponding levels.
    """
    roots = torch.linspace(beta_start**0.5, beta_end**0.5, TRAINING_POINTS, dtype=torch.float64)
    abar = torch.cumprod(1 - roots**2, 0)
    return abar / (snr_shift + (1 - snr_shift) * abar)


def zero_terminal_snr(abar: Tensor) -> Tensor:
    """Maps alpha affinely so that the last entry is 0 and the first stays (arXiv 2305.08891): [N] -> [N]."""
    alpha = abar.sqrt()
    return ((alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])) ** 2


@dataclass(frozen=True, slots=True)
class VPSchedule(Schedule):
    """Uniform table indices of a zero-terminal-SNR diffusion: sigma_i = s_i / (alpha_i + s_i) at u = (i + 1) / 1000.

    u = 1 is index 999, pure noise; u = 0 is the virtual index -1, clean data, since index 0 still carries noise.
    Between entries sigma(u) is linear. `sampling_grid(N)` visits the indices 999, 999 - 1000 / N, ... ("trailing"
    spacing), rounded as diffusers' schedulers round them where N does not divide 1000.

    Args:
        snr_shift: Divisor of the signal-to-noise ratio before the rescaling: 3 for CogVideoX-2b, 1 for 5b.
        beta_start, beta_end: Ends of the scaled-linear betas.

    Raises:
        ValueError: if `snr_shift` does not lie between 1e-3 and 1e3, or the betas do not satisfy 0 < start <= end < 1.
    """

    snr_shift: float = 1.0
    beta_start: float = 0.00085
    beta_end: float = 0.012

    pieces: ClassVar[int] = TRAINING_POINTS

    def __post_init__(self) -> None:
        check_number("snr_shift", self.snr_shift, low=1e-3, high=1e3, hint="3.0 CogVideoX-2b, 1.0 CogVideoX-5b")
        if not (0 < self.beta_start <= self.beta_end < 1):
            raise InputError(
                "beta_start and beta_end must satisfy 0 < beta_start <= beta_end < 1 (0.00085 and 0.012); "
                f"got {self.beta_start} and {self.beta_end}"
            )

    @property
    def name(self) -> str:
        return "vp"

    @property
    def label(self) -> str:
        return f"vp, SNR shift {self.snr_shift:g}"

    def levels(self, *, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Tensor:
        """The table: sigma at the indices -1, 0, ..., 999, increasing from 0 to 1, [1001]."""
        return _levels(self, dtype, torch.device(device))

    def sigma(self, u: Level) -> Level:
        """u in [0, 1] -> sigma in [0, 1], through the table; also the quantile function. Differentiable in u."""
        if not isinstance(u, Tensor):
            return float(self.sigma(torch.tensor(u, dtype=torch.float64)))
        levels = self.levels(dtype=u.dtype, device=u.device)
        position = u * TRAINING_POINTS
        # A share such as 1 - 1 / 1000 is rounded, and must still name its table entry exactly.
        away = position.detach().round() - position.detach()
        rounding = 2 * TRAINING_POINTS * torch.finfo(position.dtype).eps
        position = position + torch.where(away.abs() <= rounding, away, 0)
        below = position.detach().floor().long().clamp(0, TRAINING_POINTS - 1)
        return torch.lerp(levels[below], levels[below + 1], position - below)

    def u(self, sigma: Level) -> Level:
        """Inverse of `sigma`, and so the cumulative distribution of sigma. Differentiable in sigma."""
        if not isinstance(sigma, Tensor):
            return float(self.u(torch.tensor(sigma, dtype=torch.float64)))
        return (self.index(sigma) + 1) / TRAINING_POINTS

    def index(self, sigma: Level) -> Level:
        """The table index at a level, in [-1, 999] and linear in sigma between neighbours. Differentiable in sigma.

        Exactly an integer at the table's levels, as `sigma`'s dtype rounds them. Half precision, which cannot tell the
        noisiest levels apart, is taken as float32.
        """
        if not isinstance(sigma, Tensor):
            return float(self.index(torch.tensor(sigma, dtype=torch.float64)))
        below, share, _ = self._interval(sigma)
        return (below - 1) + share

    def density(self, sigma: Level) -> Level:
        """p(sigma), constant between two table entries."""
        if not isinstance(sigma, Tensor):
            return float(self.density(torch.tensor(sigma, dtype=torch.float64)))
        _, _, width = self._interval(sigma)
        return 1 / (TRAINING_POINTS * width)

    def sampling_grid(self, steps: int) -> Tensor:
        """Levels of the table that a sampler of `steps` steps visits, with the final 0: [steps + 1], float64.

        Raises:
            ValueError: for fewer than 1 or more than 1000 steps.
        """
        import numpy as np

        if not 1 <= steps <= TRAINING_POINTS:
            raise InputError(f"a sampler on a table of {TRAINING_POINTS} entries needs 1 to as many steps; got {steps}")
        # numpy's own arithmetic and rounding, so that halves fall to the side that they fall to in diffusers.
        above = np.round(np.arange(TRAINING_POINTS, 0, -TRAINING_POINTS / steps))[:steps].astype(np.int64)
        levels = self.levels()
        return torch.cat([levels[torch.from_numpy(above)], levels[:1]])

    def training_weights(self, points: int = TRAINING_POINTS) -> Tensor:
        """1 / (alpha + s)^2, which makes the flow-matching loss the plain mean squared error of v: [points], float64.

        Between 1 / 2 and 1, and 1 at pure noise.
        """
        sigma = self.training_grid(points)
        return (1 - sigma) ** 2 + sigma**2

    def _interval(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(position of the table entry at or below sigma, share of the way to the next one, the way's length)."""
        sigma = sigma.to(torch.promote_types(sigma.dtype, torch.float32))
        levels = self.levels(dtype=sigma.dtype, device=sigma.device)
        above = torch.searchsorted(levels, sigma.detach().contiguous(), right=True)
        below = (above - 1).clamp(0, TRAINING_POINTS - 1)
        low, width = levels[below], levels[below + 1] - levels[below]
        return below, (sigma - low) / width, width


@lru_cache(maxsize=32)
def _levels(schedule: VPSchedule, dtype: torch.dtype, device: torch.device) -> Tensor:
    # A cached tensor made in inference mode could never take part in a gradient.
    with torch.inference_mode(False), torch.no_grad():
        power = signal_power(snr_shift=schedule.snr_shift, beta_start=schedule.beta_start, beta_end=schedule.beta_end)
        alpha = zero_terminal_snr(power).sqrt()
        sigma = flow_sigma_from_vp(alpha, torch.sqrt(1 - alpha**2))
        return torch.cat([sigma.new_zeros(1), sigma]).to(device=device, dtype=dtype)
