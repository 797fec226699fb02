# SPDX-License-Identifier: Apache-2.0
"""Action normalisation by quantiles, and the map between a robot's controls and a model's action channels.

Letters: U controls of the robot, A action channels of the model, F latent frames, N actions per latent frame.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["ActionNorm"]

_EPS = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionNorm:
    """Maps controls to [-1, 1] between their 1 % and 99 % quantiles, as LingBot-VA does.

    Attributes:
        q01: 1 % quantile per model channel, length A; 0 for unused channels.
        q99: 99 % quantile per model channel, length A; 0 for unused channels.
        used: Model channel of each control, in the robot's order, length U.
        clip: Normalised actions are clipped to [-clip, clip]; None leaves them (the first release did).
    """

    q01: tuple[float, ...]
    q99: tuple[float, ...]
    used: tuple[int, ...]
    clip: float | None = 1.5

    def __post_init__(self) -> None:
        if len(self.q01) != len(self.q99):
            raise ValueError(f"q01 and q99 must have one entry per channel, got {len(self.q01)} and {len(self.q99)}")
        if len(set(self.used)) != len(self.used) or not all(0 <= u < len(self.q01) for u in self.used):
            raise ValueError(f"used: expected distinct channels below {len(self.q01)}, got {self.used}")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip must be positive or None, got {self.clip}")

    @classmethod
    def fit(cls, actions: np.ndarray, *, clip: float | None = 1.5, least_range: float = 0.2) -> "ActionNorm":
        """Takes the quantiles of controls, one model channel per control.

        Args:
            actions: [T, U].
            clip: See the class.
            least_range: Channels that hardly vary are given this range about their middle, so that a constant is not
                blown up to noise.
        """
        low, high = np.quantile(np.asarray(actions, dtype=np.float64), [0.01, 0.99], axis=0)
        short = np.maximum(0.0, least_range - (high - low)) / 2
        count = actions.shape[1]
        return cls(
            q01=tuple((low - short).tolist()), q99=tuple((high + short).tolist()), used=tuple(range(count)), clip=clip
        )

    @property
    def channels(self) -> int:
        """A."""
        return len(self.q01)

    def _ranges(self, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1, 1, 1, 1)
        low = torch.tensor(self.q01, dtype=like.dtype, device=like.device).view(shape)
        high = torch.tensor(self.q99, dtype=like.dtype, device=like.device).view(shape)
        return low, high - low + _EPS

    def normalise(self, controls: Tensor) -> Tensor:
        """Turns controls into model actions; unused channels are zero.

        Args:
            controls: [U, F, N] or [B, U, F, N], raw units.

        Returns:
            [A, F, N, 1] or [B, A, F, N, 1].
        """
        if controls.shape[-3] != len(self.used):
            raise ValueError(f"expected {len(self.used)} controls in dimension -3, got shape {tuple(controls.shape)}")
        shape = (*controls.shape[:-3], self.channels, *controls.shape[-2:], 1)
        full = controls.new_zeros(shape)
        full[..., list(self.used), :, :, :] = controls.unsqueeze(-1)
        low, extent = self._ranges(full)
        out = (full - low) / extent * 2 - 1
        if self.clip is not None:
            out = out.clamp(-self.clip, self.clip)
        return out * self.mask().to(out)

    def denormalise(self, actions: Tensor) -> Tensor:
        """Turns model actions into controls.

        Args:
            actions: [A, F, N, 1] or [B, A, F, N, 1].

        Returns:
            [U, F, N] or [B, U, F, N], raw units.
        """
        if actions.shape[-4] != self.channels or actions.shape[-1] != 1:
            raise ValueError(f"expected [..., {self.channels}, F, N, 1], got shape {tuple(actions.shape)}")
        low, extent = self._ranges(actions)
        return ((actions + 1) / 2 * extent + low)[..., list(self.used), :, :, 0]

    def mask(self) -> Tensor:
        """True on used channels, bool [A, 1, 1, 1]."""
        out = torch.zeros(self.channels, 1, 1, 1, dtype=torch.bool)
        out[list(self.used)] = True
        return out

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {"q01": list(self.q01), "q99": list(self.q99), "used": list(self.used), "clip": self.clip}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ActionNorm":
        """Reads what `to_dict` gave."""
        try:
            return cls(
                q01=tuple(float(x) for x in values["q01"]),
                q99=tuple(float(x) for x in values["q99"]),
                used=tuple(int(x) for x in values["used"]),
                clip=None if values["clip"] is None else float(values["clip"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"expected q01, q99, used and clip, got {values!r} ({error})") from error
