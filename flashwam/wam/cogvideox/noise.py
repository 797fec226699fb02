# SPDX-License-Identifier: Apache-2.0
"""From levels of the flow path to the timesteps of a CogVideoX network.

Its pre-training knows 1000 levels: scaled-linear betas, signal-to-noise ratio divided by `snr_shift`, then alpha mapped
affinely so that the last level has no signal (arXiv 2305.08891). On the flow path level i is sigma_i = s / (alpha + s),
with the virtual level -1 at sigma 0, since level 0 still carries noise. Nothing here divides by alpha.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from flashwam.core.schedule import TRAINING_POINTS
from flashwam.core.vp import VPSchedule

__all__ = ["NetworkTime"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkTime:
    """The timestep a network is fed at a flow level.

    Args:
        snr_shift: Divisor of the signal-to-noise ratio.
        beta_start, beta_end: Ends of the scaled-linear betas.
    """

    snr_shift: float = 1.0
    beta_start: float = 0.00085
    beta_end: float = 0.012

    def levels(self, *, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Tensor:
        """sigma at the indices -1, 0, ..., 999, increasing from 0 to 1: [1001]."""
        return _levels(self, dtype, torch.device(device))

    def index(self, sigma: Tensor) -> Tensor:
        """The index at a level, linear in sigma between neighbours: [...] in [0, 1] -> [...] in [-1, 999].

        Exactly an integer at the table's levels as `sigma`'s dtype rounds them; differentiable in sigma. Half
        precision, which cannot tell the noisiest levels apart, is taken as float32.
        """
        sigma = sigma.to(torch.promote_types(sigma.dtype, torch.float32))
        levels = self.levels(dtype=sigma.dtype, device=sigma.device)
        above = torch.searchsorted(levels, sigma.detach().contiguous(), right=True)
        below = (above - 1).clamp(0, TRAINING_POINTS - 1)
        low, high = levels[below], levels[below + 1]
        return (below - 1) + (sigma - low) / (high - low)

    def timestep(self, sigma: Tensor) -> Tensor:
        """`index`, where clean data (below index 0) is fed as 0, the least noise the network knows."""
        return self.index(sigma).clamp(min=0)


@lru_cache(maxsize=32)
def _levels(time: NetworkTime, dtype: torch.dtype, device: torch.device) -> Tensor:
    # A cached tensor made in inference mode could never take part in a gradient.
    with torch.inference_mode(False), torch.no_grad():
        schedule = VPSchedule(snr_shift=time.snr_shift, beta_start=time.beta_start, beta_end=time.beta_end)
        sigma = schedule.training_grid().flip(0)
        return torch.cat([sigma.new_zeros(1), sigma]).to(device=device, dtype=dtype)
