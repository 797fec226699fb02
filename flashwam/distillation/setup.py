# SPDX-License-Identifier: Apache-2.0
"""The data that a run gives its method beside models and options."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from flashwam.core.batch import Batch
from flashwam.core.streams import StreamSpec
from flashwam.data.histories import Histories
from flashwam.recipe.sections import LoopConfig, Recipe
from flashwam.system.paths import cache_folder

__all__ = ["Beginnings", "Reaching", "Setup", "Source"]


class Source(Protocol):
    """A source of samples: `flashwam.data.dataset.EpisodeDataset` is one."""

    def batch(self, indices: list[int]) -> Batch:
        """The samples of these draws; draw i must depend on nothing but i (and the source's own seed).

        A source that has `describe(index) -> str` too gets its words into error messages. One whose draws take time
        says with `prefetch` how many steps ahead it is read, by a thread of its own, where the recipe does not say.
        """


@runtime_checkable
class Beginnings(Protocol):
    """A source that can tell where episodes begin."""

    def beginnings(self, *, several_ways: int = 1) -> Source:
        """The same samples, each from where its episode begins.

        Args:
            several_ways: Episodes that had several ways to go are drawn so many times as often as others.
        """


@runtime_checkable
class Reaching(Protocol):
    """A source that can tell how far windows lie within their episodes."""

    def reaching(self, frames: int) -> Source:
        """The same samples, of windows that hold more than so many recorded latent frames.

        Raises:
            ValueError: No episode is as long.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The folders, streams and seed that a run gives its method.

    Args:
        data: Folder of the recipe's data.
        streams: The recipe's per-stream choices.
        seed: Of the run.
        teacher: Folder of the teacher; None where there is none.
        init: Folder of the weights that the student starts from; None for the teacher's.
        kept: Where what is made of the data is kept for other runs; None for the data's own folder.
        batch_size: Samples of one batch, over all processes.
        batches: How many batches the run takes; 0 where nobody says.
        cameras: How many make up a picture, one where nobody says.
        layout: The way in which they do, see `flashwam.data.layouts.arrange`.
        histories: The recorded episodes of `Method.histories`; None where there are none.
    """

    data: Path
    streams: Mapping[str, StreamSpec]
    seed: int
    teacher: Path | None = None
    init: Path | None = None
    kept: Path | None = None
    batch_size: int = 1
    batches: int = 0
    cameras: int = 1
    layout: str = "width"
    histories: Histories | None = None

    @classmethod
    def of(cls, recipe: Recipe, loop: LoopConfig, *, histories: Histories | None = None) -> "Setup":
        """The surroundings of a recipe's training or distillation, whose section `loop` is."""
        teacher, init = (None if folder is None else Path(folder) for folder in (recipe.wam.pretrained, loop.init))
        # Episodes that were collected here lie in a folder of ours; others were only given to be read.
        kept = None if recipe.data.simulated else cache_folder()
        return cls(
            data=Path(recipe.data.root),
            streams=recipe.streams,
            seed=recipe.seed,
            teacher=teacher,
            init=init,
            kept=kept,
            batch_size=loop.batch_size,
            batches=loop.steps * loop.accumulation,
            cameras=max(1, len(recipe.data.cameras)),
            layout=recipe.data.layout,
            histories=histories,
        )

    @property
    def rollouts(self) -> Path:
        """Folder of the teacher's draws, see `flashwam.distillation.rollouts`."""
        return (self.kept or self.data) / "rollouts"

    @property
    def device(self) -> torch.device:
        """The device to compute on before anything is placed: every process of a machine has a GPU of its own."""
        return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu")
