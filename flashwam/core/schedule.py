# SPDX-License-Identifier: Apache-2.0
"""The interface of noise schedules: draws of u uniform on [0, 1], mapped to levels sigma of the flow path."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from flashwam.system.errors import InputError

__all__ = ["TRAINING_POINTS", "Level", "Schedule"]

TRAINING_POINTS = 1000
Level = TypeVar("Level", Tensor, float)
"""A level or a share of draws: a number gives a number, a tensor a tensor of the same shape."""


@dataclass(frozen=True)
class Schedule(ABC):
    """sigma(u), increasing from sigma(0) = 0 to sigma(1) = 1; everything else follows from it.

    Training index i = 0 ... 999 stands for u = 1 - i / 1000, so index 0 is pure noise. Subclass it as a frozen
    dataclass whose fields are plain numbers; u and sigma may be floats or tensors of any shape, dtype and device.
    """

    __slots__ = ()

    pieces: ClassVar[int] = 1
    """Equal intervals of u on each of which sigma(u) is smooth."""

    @abstractmethod
    def sigma(self, u: Level) -> Level:
        """u in [0, 1] -> sigma in [0, 1]; increasing, so it is also the quantile function."""

    @abstractmethod
    def u(self, sigma: Level) -> Level:
        """Inverse of `sigma`, and so the cumulative distribution of sigma."""

    @abstractmethod
    def density(self, sigma: Level) -> Level:
        """p(sigma), the derivative of `cdf`, on [0, 1]."""

    @abstractmethod
    def training_weights(self, points: int = TRAINING_POINTS) -> Tensor:
        """Weight of the flow-matching loss per training level: [points], float64."""

    @property
    def name(self) -> str:
        """The name a recipe calls it by."""
        return f"{type(self).__module__}:{type(self).__qualname__}"

    @property
    def label(self) -> str:
        """A few words for tables and figures: "shift 5"."""
        return self.name.rpartition(":")[2]

    @property
    def config(self) -> dict[str, Any]:
        """Plain values from which `flashwam.core.streams.make_schedule` builds an equal object."""
        return {"name": self.name, **asdict(self)}

    def quantile(self, u: Level) -> Level:
        """The level that a share u of the training draws lies below."""
        return self.sigma(u)

    def cdf(self, sigma: Level) -> Level:
        """The share of training draws below a level."""
        return self.u(sigma)

    @property
    def median(self) -> float:
        """The level that half of the training draws lie below."""
        return float(self.sigma(0.5))

    def mass_below(self, sigma: float) -> float:
        """Share of training draws with a level below `sigma`."""
        return float(self.cdf(sigma))

    def expectation(self, function: Callable[[Tensor], Tensor], *, nodes: int = 512) -> float:
        """E[function(sigma)] by Gauss-Legendre quadrature in u (exact to rounding for smooth functions)."""
        points, weights = _gauss_legendre(max(nodes // self.pieces, 4))
        starts = torch.arange(self.pieces, dtype=torch.float64)[:, None]
        u = (starts + (points + 1) / 2) / self.pieces
        return float((function(self.sigma(u)) * weights / 2).sum() / self.pieces)

    def training_grid(self, points: int = TRAINING_POINTS) -> Tensor:
        """The discrete training levels, descending from 1: [points], float64."""
        return self.sigma(1 - torch.arange(points, dtype=torch.float64) / points)

    def sampling_grid(self, steps: int) -> Tensor:
        """Levels visited by a sampler of `steps` steps, with the final 0: [steps + 1], float64."""
        if steps < 1:
            raise InputError(f"a sampler needs at least 1 step; got {steps}")
        return self.sigma(torch.linspace(1, 0, steps + 1, dtype=torch.float64))

    def sample_indices(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Uniform indices into `training_grid`, int64, on the generator's device."""
        device = generator.device if generator is not None else "cpu"
        return torch.randint(TRAINING_POINTS, shape, generator=generator, device=device)

    @staticmethod
    def jump(index: Tensor, anchors: int) -> Tensor:
        """The grid index one jump of 1000 / anchors further towards the data, held at the last one."""
        if anchors < 1 or anchors > TRAINING_POINTS:
            raise InputError(f"anchors must lie in 1..{TRAINING_POINTS}; got {anchors}")
        return (index + TRAINING_POINTS // anchors).clamp(max=TRAINING_POINTS - 1)


@lru_cache(maxsize=4)
def _gauss_legendre(nodes: int) -> tuple[Tensor, Tensor]:
    """Points in [-1, 1] and weights, [nodes], float64; finding them takes longer than all that is done with them."""
    import numpy as np

    points, weights = np.polynomial.legendre.leggauss(nodes)
    return torch.from_numpy(points), torch.from_numpy(weights)
