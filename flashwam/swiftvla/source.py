# SPDX-License-Identifier: Apache-2.0
"""Windows with what training alone is told: auxiliary tokens of the first frame, and where the hand is going.

Letters: B samples, m tokens, C channels, P points of a trajectory, T control steps, K cache entries.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.data.dataset import EpisodeDataset
from flashwam.data.episodes import episode_path, read_table
from flashwam.swiftvla.streaming import draw_capacity
from flashwam.swiftvla.tokens import TokenStore
from flashwam.system.errors import InputError

__all__ = ["PrivilegedSource", "Trajectories"]

_COORDINATES = 3


class Trajectories:
    """The hand's path after a window's first frame, standardised over all episodes.

    Args:
        dataset: Whose episodes.
        points: P, spread evenly over the horizon.
        horizon: Control steps from the first frame to the last point.

    Raises:
        ValueError: There are more points than control steps.
    """

    coordinates = _COORDINATES

    def __init__(self, dataset: EpisodeDataset, *, points: int, horizon: int) -> None:
        if not 1 <= points <= horizon:
            raise InputError(f"points must be in 1..{horizon}, the control steps ahead; got {points}")
        self._ahead = torch.linspace(horizon / points, horizon, points).round().long()
        self._paths: dict[tuple[Path, int], Tensor] = {}
        for repo, episode in dataset.listed:
            state = read_table(episode_path(repo, episode), ["observation.state"]).get("observation.state")
            if state is None:
                raise InputError(
                    f"{episode_path(repo, episode)} has no column 'observation.state' to take the hand from"
                )
            self._paths[repo, episode] = torch.from_numpy(state[:, :_COORDINATES])
        every = torch.cat(list(self._paths.values()))
        self._mean, self._std = every.mean(0), every.std(0).clamp(min=1e-6)

    def read(self, repo: Path, episode: int, row: int) -> tuple[Tensor, Tensor]:
        """Points [P, 3] after a control step, and bool [P], False beyond the episode's end."""
        path, rows = self._paths[repo, episode], row + self._ahead
        return (path[rows.clamp(max=len(path) - 1)] - self._mean) / self._std, rows < len(path)


class PrivilegedSource:
    """A dataset's batches with `Batch.extra`: "auxiliary" [B, m, C], "trajectory" [B, P, 3], "trajectory_mask" [B, P].

    Args:
        dataset: The windows.
        tokens: Auxiliary tokens; None for none. K is drawn anew for every sample from those there are.
        trajectories: None for none.
        seed: Of the draws of K.
        capacities: Values of K to draw from; all there are if None.
    """

    def __init__(
        self,
        dataset: EpisodeDataset,
        *,
        tokens: TokenStore | None = None,
        trajectories: Trajectories | None = None,
        seed: int = 0,
        capacities: Sequence[int] | None = None,
    ) -> None:
        self.dataset, self.tokens, self.trajectories, self.seed = dataset, tokens, trajectories, seed
        known = () if tokens is None else tokens.capacities
        self.capacities = known if capacities is None else tuple(capacities)
        if not set(self.capacities) <= set(known):
            raise InputError(f"there are tokens for caches of {known}; asked for {self.capacities}")

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, indices: Sequence[int]) -> Batch:
        """See `flashwam.distillation.trainer.Source`."""
        extra: dict[str, list[Tensor]] = {}
        for index in indices:
            window = self.dataset.locate(int(index))
            if self.tokens is not None:
                capacity = draw_capacity(np.random.default_rng([self.seed, int(index), 1]), self.capacities)
                row = self.tokens.read(window.repo, window.episode, window.frame, capacity)
                extra.setdefault("auxiliary", []).append(row)
            if self.trajectories is not None:
                points, known = self.trajectories.read(window.repo, window.episode, window.row)
                extra.setdefault("trajectory", []).append(points)
                extra.setdefault("trajectory_mask", []).append(known)
        base = self.dataset.batch(indices)
        return replace(base, extra={**base.extra, **{name: torch.stack(rows) for name, rows in extra.items()}})

    def describe(self, index: int) -> str:
        """See `EpisodeDataset.describe`."""
        return self.dataset.describe(index)
