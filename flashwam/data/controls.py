# SPDX-License-Identifier: Apache-2.0
"""From the rows of an episode's table to a model's actions, as LingBot-VA's training data has them.

Letters: T rows, U controls, A action channels, F latent frames, N actions per latent frame.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from flashwam.data.actions import ActionNorm
from flashwam.data.poses import relative_poses
from flashwam.system.errors import InputError

__all__ = ["ControlSpace", "FirstActions"]

FirstActions = Literal["raw_zero", "zero"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSpace:
    """The meaning of the rows of actions, and their normalisation.

    Attributes:
        norm: Quantiles, and the model channel of each control.
        relative: The rows are absolute end-effector poses, which the model is given relative to the first of them.
        first: What fills frame 0, whose actions nobody executed. "raw_zero": zeros before normalisation, as the
            published data has it. "zero": zeros after it, as every rollout has it.
    """

    norm: ActionNorm
    relative: bool = False
    first: FirstActions = "raw_zero"

    def __post_init__(self) -> None:
        if self.first not in get_args(FirstActions):
            raise InputError(f"first: expected one of {', '.join(get_args(FirstActions))}, got {self.first!r}")

    def controls(self, rows: np.ndarray) -> np.ndarray:
        """Controls in raw units, float32 [T, U].

        Args:
            rows: [T, U], from the row of the first picture on.

        Raises:
            ValueError: The rows do not fit, or are not finite.
        """
        if rows.ndim != 2 or rows.shape[1] != len(self.norm.used):
            raise InputError(f"expected {len(self.norm.used)} controls a row, got shape {rows.shape}")
        if not np.isfinite(rows).all():
            raise InputError("the actions are not all finite")
        return (relative_poses(rows) if self.relative else rows).astype(np.float32)

    def actions(self, rows: np.ndarray, *, frames: int, per_frame: int) -> Tensor:
        """Model actions of a segment; frame j holds what was executed between latent frames j - 1 and j.

        Args:
            rows: [T, U] from the row of the first picture on, T >= (F - 1) N; further rows are left out.
            frames: F.
            per_frame: N.

        Returns:
            float32 [A, F, N, 1]; frame 0 is padding, see `first`.

        Raises:
            ValueError: There are too few rows, or see `controls`.
        """
        needed = (frames - 1) * per_frame
        if needed < 1 or len(rows) < needed:
            raise InputError(f"{frames} latent frames need at least {max(1, needed)} rows of actions, got {len(rows)}")
        controls = self.controls(rows[:needed])
        padded = np.concatenate([np.zeros((per_frame, controls.shape[1]), np.float32), controls])
        out = self.norm.normalise(torch.from_numpy(padded.reshape(frames, per_frame, -1)).permute(2, 0, 1))
        if self.first == "zero":
            out[:, 0] = 0
        return out
