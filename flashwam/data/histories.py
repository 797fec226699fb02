# SPDX-License-Identifier: Apache-2.0
"""Training samples from where a model stood in closed loop: recorded pasts, and room for the chunk that follows.

Letters: B samples, F latent frames of a window.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.data.dataset import EpisodeDataset
from flashwam.data.samples import to_batch

__all__ = ["Histories", "Standing"]


class Histories:
    """Recorded episodes, cut where chunks were drawn.

    Args:
        episodes: What was recorded, all of it; its window is of no account.
        seed: Of the draws.
    """

    def __init__(self, episodes: EpisodeDataset, *, seed: int) -> None:
        self._episodes, self._seed = episodes, seed

    def fingerprint(self) -> str:
        """See `EpisodeDataset.fingerprint`."""
        return self._episodes.fingerprint()

    @property
    def longest(self) -> int:
        """Latent frames of the longest episode."""
        return int(self._episodes.episodes[:, 4].max())

    def standing(self, *, frames: int, drawn: int, starts: Sequence[int]) -> "Standing":
        """Windows of which all but the frames to be drawn were lived through.

        Args:
            frames: F.
            drawn: So many of a window's last frames are to be drawn, the first of a whole window as observed.
            starts: Latent frames of an episode at which a window may begin.
        """
        lived = max(1, frames - drawn)
        found = [
            (number, int(row[0]), start)
            for number, row in enumerate(self._episodes.episodes)
            for start in starts
            if start + lived <= int(row[4])
        ]
        return Standing(self._episodes, found, frames=frames, drawn=drawn, seed=self._seed)


class Standing:
    """See `Histories.standing`. Draw i is a function of (seed, i) alone; every task is drawn equally often.

    Losses are taken of all that is drawn, also where the recorded episode ended.

    Args:
        episodes: Of the recording.
        windows: Of each its number in `episodes`, its task and its first latent frame.
        frames, drawn: See `Histories.standing`.
        seed: Of the draws.
    """

    def __init__(
        self, episodes: EpisodeDataset, windows: Sequence[tuple[int, int, int]], *, frames: int, drawn: int, seed: int
    ) -> None:
        self._episodes, self._frames, self._drawn, self._seed = episodes, frames, drawn, seed
        tasks = sorted({task for _, task, _ in windows})
        self._tables = [[one for one in windows if one[1] == task] for task in tasks]

    def __len__(self) -> int:
        return sum(map(len, self._tables))

    def _draw(self, index: int) -> tuple[int, int, int]:
        rng = np.random.Generator(np.random.Philox(key=[self._seed, index]))
        table = self._tables[int(rng.integers(len(self._tables)))]
        return table[int(rng.integers(len(table)))]

    def batch(self, indices: Sequence[int] | Tensor) -> Batch:
        """Draws a `Batch` that a method can be given."""
        numbers = [int(i) for i in indices]
        episode, _, start = torch.tensor([self._draw(i) for i in numbers]).unbind(1)
        samples = self._episodes.windows(episode, start, torch.tensor(numbers), frames=self._frames)
        samples["video_mask"][:, :, -self._drawn :] = True
        samples["action_mask"][:, :, -self._drawn :] = self._episodes.norm.mask()
        return to_batch(samples, self._episodes.null_text)

    def describe(self, index: int) -> str:
        """Says which window draw `index` is, for error messages."""
        number, task, start = self._draw(int(index))
        episode = int(self._episodes.episodes[number, 1])
        return f"{self._episodes.tasks[task]}/episode_{episode:06d} as recorded, from latent frame {start}"
