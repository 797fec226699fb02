# SPDX-License-Identifier: Apache-2.0
"""Consistency functions f(x, sigma) = a(sigma) x + b(sigma) v: one object per stream, swappable and checked."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from flashwam.core.checks import check_number
from flashwam.core.noise import append_dims
from flashwam.core.schedule import Schedule
from flashwam.system.errors import InputError
from flashwam.system.imports import find_class, named_parameters

__all__ = ["LCM", "ConsistencyFunction", "Linear", "make_consistency_function"]

_BOUNDARY_TOLERANCE = 1e-9


@dataclass(frozen=True)
class ConsistencyFunction(ABC):
    """f = a(sigma) x + b(sigma) v with a(0) = 1 and b(0) = 0, so that f(x0, 0) = x0.

    The gradient of any consistency loss with respect to the weights scales point by point with |b(sigma)|
    (Flash-WAM, arXiv 2606.05254, Proposition 1). Subclass it as a frozen dataclass whose fields are plain numbers,
    give `a` and `b`, and name it in a recipe by import path ("my_package.my_module:MyFunction").

    Raises:
        ValueError: at construction, where a(0) is not 1 or b(0) is not 0.
    """

    def __post_init__(self) -> None:
        zero = torch.zeros((), dtype=torch.float64)
        a, b = float(self.a(zero)), float(self.b(zero))
        if not (abs(a - 1) < _BOUNDARY_TOLERANCE and abs(b) < _BOUNDARY_TOLERANCE):
            raise InputError(
                f"{self.name}: a consistency function needs a(0) = 1 and b(0) = 0, or clean data would not stay "
                f"clean; got a(0) = {a:g}, b(0) = {b:g}"
            )

    @abstractmethod
    def a(self, sigma: Tensor) -> Tensor:
        """Factor of the noisy state; sigma of any shape, in [0, 1]."""

    @abstractmethod
    def b(self, sigma: Tensor) -> Tensor:
        """Factor of the velocity; sigma of any shape, in [0, 1]."""

    @property
    def name(self) -> str:
        """The name a recipe calls it by."""
        return f"{type(self).__module__}:{type(self).__qualname__}"

    @property
    def config(self) -> dict[str, Any]:
        """Plain values from which `make_consistency_function` builds an equal object."""
        return {"name": self.name, **asdict(self)}

    def __call__(self, x: Tensor, sigma: Tensor, velocity: Tensor) -> Tensor:
        """The clean estimate f: x, velocity [B, C, F, ...], sigma [B, F] -> [B, C, F, ...]."""
        level = append_dims(sigma, x)
        return self.a(level).to(x.dtype) * x + self.b(level).to(x.dtype) * velocity

    def gradient_scale(self, sigma: Tensor) -> Tensor:
        """|b(sigma)|, the factor every gradient of this stream's loss carries at level sigma."""
        return self.b(sigma).abs()

    def mix(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(p, q) with f = p x0 + q eps, x0 and eps being the data and the noise that x and v stand for.

        p = a (1 - sigma) - b and q = a sigma + b, since x = (1 - sigma) x0 + sigma eps and v = eps - x0. Over the
        teacher's weights, where training starts, f should be x0: `linear` has p = 1 and q = 0 at every level, any
        other function has to learn a velocity of its own.

        Args:
            sigma: Of any shape, in [0, 1].
        """
        a, b = self.a(sigma), self.b(sigma)
        return a * (1 - sigma) - b, a * sigma + b

    def start_bias(self, sigma: Tensor) -> Tensor:
        """Root mean square of f - x0 over the teacher's weights, for data and noise of variance 1: 0 for `linear`."""
        clean, noise = self.mix(sigma)
        return torch.sqrt((clean - 1) ** 2 + noise**2)

    def order_at_zero(self) -> float | None:
        """Order of |b| at zero, found as a log-log slope: 1 for `linear`, 2 for `lcm`; None where b is zero near it."""
        sigma = torch.tensor([1e-5, 1e-4], dtype=torch.float64)
        low, high = torch.log10(self.gradient_scale(sigma)).tolist()
        return high - low if math.isfinite(high - low) else None

    def expectation(self, schedule: Schedule, power: int = 2) -> float:
        """E |b(sigma)|^power under a schedule."""
        return schedule.expectation(lambda sigma: self.gradient_scale(sigma) ** power)

    def sampler_mismatch(self, sigma: float = 1.0) -> tuple[float, float]:
        """(extra state, extra velocity) that plain Euler to 0 adds over f: (1 - a, -sigma - b). Zero for `linear`."""
        level = torch.tensor(sigma, dtype=torch.float64)
        return 1 - float(self.a(level)), -sigma - float(self.b(level))


@dataclass(frozen=True)
class Linear(ConsistencyFunction):
    """a = 1, b = -sigma: f is the clean estimate x - sigma v. Also TrigFlow's function for a velocity network."""

    @property
    def name(self) -> str:
        return "linear"

    def a(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma)

    def b(self, sigma: Tensor) -> Tensor:
        return -sigma


@dataclass(frozen=True)
class LCM(ConsistencyFunction):
    """Karras boundary scalings on the flow path ("variance preserving" in Flash-WAM).

    Named as Flash-WAM names it: the boundary function of Karras et al. (arXiv 2206.00364) and of consistency models,
    with `sigma_data`. It is not what diffusers' `LCMScheduler` computes: that one takes a scaled timestep for sigma and
    draws fresh noise between steps, so a student of the one is not to be sampled by the other.

    c_skip = d^2 / (sigma^2 + d^2), c_out = sigma d / sqrt(sigma^2 + d^2), a = c_skip + c_out, b = -c_out sigma.

    Args:
        sigma_data: d, from 1e-3 to 1e3; the published 0.5.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        check_number("sigma_data", self.sigma_data, low=1e-3, high=1e3, hint="0.5 published")
        super().__post_init__()

    @property
    def name(self) -> str:
        return "lcm"

    def c_skip(self, sigma: Tensor) -> Tensor:
        """Karras skip scaling."""
        return self.sigma_data**2 / (sigma**2 + self.sigma_data**2)

    def c_out(self, sigma: Tensor) -> Tensor:
        """Karras output scaling."""
        return sigma * self.sigma_data / torch.sqrt(sigma**2 + self.sigma_data**2)

    def a(self, sigma: Tensor) -> Tensor:
        return self.c_skip(sigma) + self.c_out(sigma)

    def b(self, sigma: Tensor) -> Tensor:
        return -self.c_out(sigma) * sigma


_KNOWN: dict[str, type[ConsistencyFunction]] = {"linear": Linear, "lcm": LCM}


def make_consistency_function(config: str | Mapping[str, Any] | ConsistencyFunction) -> ConsistencyFunction:
    """Builds a consistency function from a name, or from a mapping with "name" and the function's parameters.

    Args:
        config: "linear", "lcm", "package.module:Class", {"name": "lcm", "sigma_data": 0.5}, or a built one.

    Raises:
        ValueError: for an unknown name, an import that fails, a wrong parameter or a broken boundary condition.
    """
    if isinstance(config, ConsistencyFunction):
        return config
    parameters = named_parameters(config, "consistency function")
    name = parameters.pop("name", "")
    kind = find_class(name, ConsistencyFunction, known=_KNOWN, what="consistency function")
    try:
        built: ConsistencyFunction = kind(**parameters)
    except TypeError as error:
        raise InputError(f"consistency function {name!r} does not take {parameters}: {error}") from error
    return built
