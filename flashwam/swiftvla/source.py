# SPDX-License-Identifier: Apache-2.0
"""Windows with what training alone is told: auxiliary tokens of the first frame, and where the hand is going.

Letters: B samples, m tokens, C channels, P points of a trajectory, X their coordinates, K cache entries.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.data.dataset import EpisodeDataset
from flashwam.data.lerobot import SegmentDataset
from flashwam.data.samples import Window
from flashwam.swiftvla.streaming import draw_capacity
from flashwam.swiftvla.trajectories import Trajectories
from flashwam.system.errors import InputError

__all__ = ["AuxiliaryTokens", "PrivilegedSource"]


class AuxiliaryTokens(Protocol):
    """The modality's tokens of a data set, wherever they are kept."""

    @property
    def tokens(self) -> int:
        """m."""

    @property
    def channels(self) -> int:
        """C."""

    @property
    def capacities(self) -> tuple[int, ...]:
        """Values of K that there are."""

    def of(self, window: Window, capacity: int) -> Tensor:
        """[m, C], standardised, at a window's first frame."""


class PrivilegedSource:
    """A dataset's batches with `Batch.extra`: "auxiliary" [B, m, C], "trajectory" [B, P, X], "trajectory_mask" [B, P].

    Args:
        dataset: The windows.
        tokens: Auxiliary tokens; None for none. K is drawn anew for every sample from those there are.
        trajectories: None for none.
        seed: Of the draws of K.
        capacities: Values of K to draw from; all there are if None.
    """

    def __init__(
        self,
        dataset: EpisodeDataset | SegmentDataset,
        *,
        tokens: AuxiliaryTokens | None = None,
        trajectories: Trajectories | None = None,
        seed: int = 0,
        capacities: Sequence[int] | None = None,
    ) -> None:
        self.dataset, self.tokens, self.trajectories, self.seed = dataset, tokens, trajectories, seed
        self.prefetch: int = getattr(dataset, "prefetch", 0)
        known = () if tokens is None else tokens.capacities
        self.capacities = known if capacities is None else tuple(capacities)
        if not set(self.capacities) <= set(known):
            raise InputError(f"there are tokens for caches of {known}; asked for {self.capacities}")

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, indices: Sequence[int]) -> Batch:
        """See `flashwam.distillation.trainer.Source`."""
        # First, so that a data set which reads files has them no further time for the places of its draws.
        base = self.dataset.batch(indices)
        extra: dict[str, list[Tensor]] = {}
        for index in indices:
            window = self.dataset.locate(int(index))
            if self.tokens is not None:
                capacity = draw_capacity(np.random.default_rng([self.seed, int(index), 1]), self.capacities)
                extra.setdefault("auxiliary", []).append(self.tokens.of(window, capacity))
            if self.trajectories is not None:
                points, known = self.trajectories.read(window)
                extra.setdefault("trajectory", []).append(points)
                extra.setdefault("trajectory_mask", []).append(known)
        return replace(base, extra={**base.extra, **{name: torch.stack(rows) for name, rows in extra.items()}})

    def describe(self, index: int) -> str:
        """See `EpisodeDataset.describe`."""
        return self.dataset.describe(index)
