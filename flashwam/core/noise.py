# SPDX-License-Identifier: Apache-2.0
"""The noise of one stream: x_sigma = (1 - sigma) x0 + sigma eps, sigma 0 = data, 1 = noise, v = eps - x0."""

from dataclasses import dataclass

import torch
from torch import Tensor

from flashwam.core.checks import check_number
from flashwam.core.schedule import TRAINING_POINTS, Level, Schedule
from flashwam.system.errors import InputError

__all__ = [
    "TRAINING_POINTS",
    "NoiseSchedule",
    "add_noise",
    "append_dims",
    "flow_output_from_vp",
    "flow_sigma_from_vp",
    "flow_state_from_vp",
    "vp_from_flow_sigma",
    "vp_state_from_flow",
]


def append_dims(sigma: Tensor, x: Tensor) -> Tensor:
    """Lines per-frame levels [B, F] up with a stream tensor [B, C, F, H, W] (any trailing size)."""
    if sigma.ndim == 0:
        return sigma
    if sigma.ndim != 2 or x.ndim < 3 or sigma.shape != (x.shape[0], x.shape[2]):
        raise ValueError(
            f"sigma must be a scalar or [B, F] of x [B, C, F, ...]; got {tuple(sigma.shape)} and x {tuple(x.shape)}"
        )
    return sigma.reshape(sigma.shape[0], 1, sigma.shape[1], *(1,) * (x.ndim - 3))


def add_noise(x0: Tensor, eps: Tensor, sigma: Tensor) -> Tensor:
    """(1 - sigma) x0 + sigma eps for x0, eps [B, C, F, ...] and sigma [B, F]."""
    level = append_dims(sigma, x0).to(x0.dtype)
    return (1 - level) * x0 + level * eps


@dataclass(frozen=True, slots=True)
class NoiseSchedule(Schedule):
    """SNR-shifted uniform noise: sigma = s u / (1 + (s - 1) u) with u uniform on [0, 1].

    Args:
        shift: s, from 1e-3 to 1e3. 5 for LingBot-VA's video, 1 for its actions, 0.05 for its LIBERO actions; s < 1
            leans towards the data.

    Raises:
        ValueError: if `shift` lies outside, where one end of the levels would be all there is.
    """

    shift: float

    def __post_init__(self) -> None:
        check_number("shift", self.shift, low=1e-3, high=1e3, hint="5.0 video, 1.0 actions")

    @property
    def name(self) -> str:
        return "shift"

    @property
    def label(self) -> str:
        return f"shift {self.shift:g}"

    def sigma(self, u: Level) -> Level:
        """u in [0, 1] -> sigma in [0, 1]; increasing, so it is also the quantile function."""
        return self.shift * u / (1 + (self.shift - 1) * u)

    def u(self, sigma: Level) -> Level:
        """Inverse of `sigma`, and so the cumulative distribution of sigma."""
        return sigma / (self.shift - (self.shift - 1) * sigma)

    def density(self, sigma: Level) -> Level:
        """p(sigma) = s / (s - (s - 1) sigma)^2 on [0, 1]."""
        return self.shift / (self.shift - (self.shift - 1) * sigma) ** 2

    @property
    def median(self) -> float:
        """s / (s + 1)."""
        return self.shift / (self.shift + 1)

    def training_weights(self, points: int = TRAINING_POINTS) -> Tensor:
        """LingBot-VA's flow-matching weight per training level, mean 1, near 0 at both ends: [points], float64."""
        bell = torch.exp(-2 * (self.training_grid(points) - 0.5) ** 2)
        bell = bell - bell.min()
        return bell * points / bell.sum()


def flow_sigma_from_vp(alpha: Tensor, s: Tensor) -> Tensor:
    """Level of the flow path that has the signal-to-noise ratio of x = alpha x0 + s eps."""
    return s / (alpha + s)


def vp_from_flow_sigma(sigma: Tensor) -> tuple[Tensor, Tensor]:
    """(alpha, s) with alpha^2 + s^2 = 1 at flow level sigma; inverse of `flow_sigma_from_vp`."""
    norm = torch.sqrt((1 - sigma) ** 2 + sigma**2)
    return (1 - sigma) / norm, sigma / norm


def flow_state_from_vp(x: Tensor, alpha: Tensor, s: Tensor) -> Tensor:
    """x = alpha x0 + s eps -> (1 - sigma) x0 + sigma eps."""
    return x / (alpha + s)


def vp_state_from_flow(x: Tensor, alpha: Tensor, s: Tensor) -> Tensor:
    """Inverse of `flow_state_from_vp`."""
    return x * (alpha + s)


def flow_output_from_vp(output: Tensor, x: Tensor, alpha: Tensor, s: Tensor, *, prediction: str = "v") -> Tensor:
    """Network output on a variance-preserving path -> flow velocity eps - x0.

    For "v" (v = alpha eps - s x0): (s - alpha) x + (alpha + s) v, finite also where alpha = 0 (zero terminal SNR).

    Args:
        output, x: Network output and VP state, same shape.
        alpha, s: Broadcastable, alpha^2 + s^2 = 1.
        prediction: "v", "epsilon" or "sample" (x0).

    Raises:
        ValueError: for an unknown prediction, or where it does not determine the velocity ("epsilon" at alpha = 0,
            "sample" at s = 0).
    """
    if prediction == "v":
        return (s - alpha) * x + (alpha + s) * output
    if prediction == "epsilon":
        if bool((alpha == 0).any()):
            raise InputError('an "epsilon" output says nothing of the data at alpha = 0; use a "v" network there')
        return output - (x - s * output) / alpha
    if prediction == "sample":
        if bool((s == 0).any()):
            raise InputError('a "sample" output says nothing of the noise at s = 0; use a "v" network there')
        return (x - alpha * output) / s - output
    raise InputError(f'prediction must be one of "v", "epsilon", "sample"; got {prediction!r}')
