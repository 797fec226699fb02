# SPDX-License-Identifier: Apache-2.0
"""The data that a run gives its method beside models and options."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flashwam.core.batch import Batch
from flashwam.core.streams import StreamSpec

__all__ = ["Setup", "Source"]


class Source(Protocol):
    """A source of samples: `flashwam.data.dataset.EpisodeDataset` is one."""

    def batch(self, indices: list[int]) -> Batch:
        """The samples of these draws; draw i must depend on nothing but i (and the source's own seed).

        A source that has `describe(index) -> str` too gets its words into error messages. One whose draws take time
        says with `prefetch` how many steps ahead it is read, by a thread of its own, where the recipe does not say.
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
    """

    data: Path
    streams: Mapping[str, StreamSpec]
    seed: int
    teacher: Path | None = None
    init: Path | None = None
    kept: Path | None = None
