# SPDX-License-Identifier: Apache-2.0
"""Action normalisation by quantiles, and the map between a robot's controls and a model's action channels.

Letters: U controls of the robot, A action channels of the model, F latent frames, N actions per latent frame.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flashwam.core.checks import check_number
from flashwam.system.errors import InputError
from flashwam.system.json_file import read_mapping

__all__ = ["ActionNorm", "quantiles", "rare", "read_norm"]

_EPS = 1e-6
_RARE = 0.05
_GAP = 0.4
_MOST = 1e9
_FARTHEST = 10.0
_ULPS = 4


def quantiles(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 1 % and 99 % quantile of controls, each [U].

    Between neighbours they are interpolated, but not over a gap of two fifths of the whole range, as a gripper
    of -1 and 1 has: there the outer neighbour is taken, since nothing lies between.

    Args:
        values: [T, U].
    """
    low, high = np.quantile(values, [0.01, 0.99], axis=0)
    gap = _GAP * (values.max(axis=0) - values.min(axis=0))
    ends = []
    for share, middle in ((0.01, low), (0.99, high)):
        below, above = (np.quantile(values, share, axis=0, method=method) for method in ("lower", "higher"))
        ends.append(np.where(above - below > gap, below if share < 0.5 else above, middle))
    return ends[0], ends[1]


def rare(low: np.ndarray, high: np.ndarray, least: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Finds controls that lie at one value but for rows too few for the quantiles to see, bool [U]: a rare turn, an
    arm that is seldom used, a gripper that closes once.

    Clipped at 1.5, a normalised control keeps 1.5 times the distance of its quantiles. Where that distance is less than
    a twentieth of the whole range, more than nine tenths of the range would be cut off. Taking minimum and maximum
    instead costs resolution within that twentieth alone.

    Args:
        low, high: 1 % and 99 % quantile, [U].
        least, most: Minimum and maximum, [U].
    """
    return high - low < _RARE * (most - least)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionNorm:
    """Maps controls to [-1, 1] between their 1 % and 99 % quantiles, as LingBot-VA does.

    Attributes:
        q01: 1 % quantile per model channel, length A; 0 for unused channels.
        q99: 99 % quantile per model channel, length A; 0 for unused channels.
        used: Model channel of each control, in the robot's order, length U.
        clip: Normalised actions are clipped to [-clip, clip]; None leaves them (the first release did).

    Raises:
        ValueError: A quantile is not finite or absurd, a channel that is used has no range, or the rest does not fit;
            it names field and channel.
    """

    q01: tuple[float, ...]
    q99: tuple[float, ...]
    used: tuple[int, ...]
    clip: float | None = 1.5

    def __post_init__(self) -> None:
        if len(self.q01) != len(self.q99):
            raise InputError(f"q01 and q99 must have one entry per channel, got {len(self.q01)} and {len(self.q99)}")
        if len(set(self.used)) != len(self.used) or not all(0 <= u < len(self.q01) for u in self.used):
            raise InputError(f"used: expected distinct channels below {len(self.q01)}, got {self.used}")
        if self.clip is not None:
            check_number("clip", self.clip, low=1e-3, high=1e3, hint="or null for none")
        for name, values in (("q01", self.q01), ("q99", self.q99)):
            for channel, value in enumerate(values):
                check_number(f"{name} of channel {channel}", value, low=-_MOST, high=_MOST)
        for channel in self.used:
            low, high = self.q01[channel], self.q99[channel]
            # As the controls are computed with.
            if not (high - low >= _EPS and np.float32(high) > np.float32(low)):
                raise InputError(
                    f"q99 of channel {channel} must lie above its q01 by {_EPS:g} or more, for a control uses it; got "
                    f"q01 {low!r} and q99 {high!r}"
                )

    @classmethod
    def of_settings(cls, data: Any) -> "ActionNorm":
        """The quantiles that a recipe's `data` section says; it must say them."""
        used = data.used_channels or tuple(range(data.action_channels))
        return cls(q01=data.q01 or (), q99=data.q99 or (), used=used, clip=data.action_clip)

    @classmethod
    def fit(cls, actions: np.ndarray, *, clip: float | None = 1.5, least_range: float = 0.2) -> "ActionNorm":
        """Takes the quantiles of controls, one model channel per control; minimum and maximum of a control that is
        `rare`, since between its quantiles next to nothing lies.

        Args:
            actions: [T, U].
            clip: See the class.
            least_range: Channels that hardly vary are given this range about their middle, so that a constant is not
                blown up to noise, and at least what float32 tells apart.
        """
        values = np.asarray(actions, dtype=np.float64)
        low, high = quantiles(values)
        least, most = values.min(axis=0), values.max(axis=0)
        # A clip below 1 would cut the ends of the range off again.
        more = (most - least) * (1 / min(clip or 1.0, 1.0) - 1) / 2
        seldom = rare(low, high, least, most)
        low, high = np.where(seldom, least - more, low), np.where(seldom, most + more, high)
        short = np.maximum(0.0, least_range - (high - low)) / 2
        low, high = low - short, high + short
        # As the controls are computed with, a great constant has no numbers so near to it.
        lost = np.float32(high) <= np.float32(low)
        more = np.where(lost, _ULPS * np.spacing(np.abs(low).astype(np.float32)).astype(np.float64), 0.0)
        low, high = np.where(lost, low - more, low), np.where(lost, high + more, high)
        return cls(q01=tuple(low.tolist()), q99=tuple(high.tolist()), used=tuple(range(values.shape[1])), clip=clip)

    @property
    def channels(self) -> int:
        """A."""
        return len(self.q01)

    @property
    def limit(self) -> float:
        """The greatest normalised action that a model can mean by a control: 10, or the clip if it lies beyond.

        Unclipped controls lie far outside of their quantiles where they are rare (a full turn in LIBERO at 7), and a
        one-step student may overshoot the clip of its data. Nothing that was measured or learned lies at 10, five times
        the range between the quantiles.
        """
        return _FARTHEST if self.clip is None else max(_FARTHEST, self.clip)

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

    def executed(self, controls: np.ndarray, per_frame: int) -> Tensor:
        """Executed controls [B, F * N, U] -> model actions [B, A, F, N, 1], where N is `per_frame`."""
        rows = torch.from_numpy(np.ascontiguousarray(controls, dtype=np.float32))
        return self.normalise(rows.unflatten(1, (-1, per_frame)).permute(0, 3, 1, 2))

    def mask(self) -> Tensor:
        """True on used channels, bool [A, 1, 1, 1]."""
        out = torch.zeros(self.channels, 1, 1, 1, dtype=torch.bool)
        out[list(self.used)] = True
        return out

    def to_dict(self) -> dict[str, Any]:
        """Gives JSON-ready values."""
        return {"q01": list(self.q01), "q99": list(self.q99), "used": list(self.used), "clip": self.clip}

    @classmethod
    def from_dict(cls, values: dict[str, Any], *, path: Path | None = None) -> "ActionNorm":
        """Reads what `to_dict` gave.

        Args:
            values: What it gave.
            path: The file it comes from, for messages.

        Raises:
            ValueError: It is something else, or makes no sense.
        """
        try:
            return cls(
                q01=tuple(_number(x) for x in values["q01"]),
                q99=tuple(_number(x) for x in values["q99"]),
                used=tuple(_whole(x) for x in values["used"]),
                clip=None if values["clip"] is None else _number(values["clip"]),
            )
        except (KeyError, TypeError) as error:
            where = "" if path is None else f"{path}: "
            raise InputError(f"{where}expected q01, q99, used and clip, got {str(values)[:200]} ({error})") from error
        except ValueError as error:
            if path is None:
                raise
            raise InputError(f"{path}: {error}") from error


def read_norm(path: Path) -> ActionNorm:
    """The normalisation of actions that a JSON file holds.

    Raises:
        FileNotFoundError, ValueError: There is none, or it holds something else; the message names the file.
    """
    return ActionNorm.from_dict(read_mapping(path), path=path)


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"used must be whole numbers, got {value!r}")
    return value
