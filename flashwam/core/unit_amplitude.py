# SPDX-License-Identifier: Apache-2.0
"""A consistency function brought to the amplitude of the data, to tell a gain of the sampler from what it draws."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flashwam.core.consistency import ConsistencyFunction, make_consistency_function
from flashwam.system.errors import InputError

__all__ = ["UnitAmplitude"]

_LEAST_GAIN = 1e-3


@dataclass(frozen=True)
class UnitAmplitude(ConsistencyFunction):
    """f divided by its gain, so that the data keep their amplitude at every level.

    With the exact velocity f = g x0 + (a sigma + b) eps, where g(sigma) = a (1 - sigma) - b. `linear` has g = 1 and is
    left as it is. `lcm` has g(1) = c_out(1), 0.447 at its published constant, so from pure noise this is 2.236 f.
    Plain Euler differs from it by 0.447 eps: what Euler gains over f, and this gains too, is a larger amplitude before
    controls are clipped, and no benefit of Euler's.

    Args:
        function: f, as `make_consistency_function` takes it.

    Raises:
        ValueError: f loses the data's amplitude altogether at some level.
    """

    function: ConsistencyFunction | str | Mapping[str, Any] = "lcm"

    def __post_init__(self) -> None:
        object.__setattr__(self, "function", make_consistency_function(self.function))
        super().__post_init__()
        least = float(self.gain(torch.linspace(0, 1, 101, dtype=torch.float64)).min())
        if least < _LEAST_GAIN:
            raise InputError(
                f"{self.inner.name} keeps {least:.2g} of the data's amplitude at some level, so none can be restored"
            )

    @property
    def inner(self) -> ConsistencyFunction:
        """f itself."""
        return make_consistency_function(self.function)

    @property
    def config(self) -> dict[str, Any]:
        return {"name": self.name, "function": self.inner.config}

    def gain(self, sigma: Tensor) -> Tensor:
        """Amplitude g of the data in f at level sigma, of any shape."""
        return self.inner.a(sigma) * (1 - sigma) - self.inner.b(sigma)

    def a(self, sigma: Tensor) -> Tensor:
        return self.inner.a(sigma) / self.gain(sigma)

    def b(self, sigma: Tensor) -> Tensor:
        return self.inner.b(sigma) / self.gain(sigma)
