# SPDX-License-Identifier: Apache-2.0
"""Looks into a frozen model, made once and learnt from again and again.

Letters: B samples.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from tqdm import tqdm

from flashwam.core.batch import Batch
from flashwam.foresight.source import FutureSource, Windows, pool_number

__all__ = ["LOOK", "LookSource"]

LOOK = "look/"
"""The beginning of the names of a look's tensors in `Batch.extra`."""


class LookSource:
    """A pool of windows, each with one look; draw i takes one of them as (seed, i) says.

    The looks are held in memory, in half precision, and are made in the same groups every time, so that a resumed run
    has the same ones to the bit.

    Args:
        source: Where windows come from: the windows 0, 1, ... of its own pool where it is a `FutureSource`, so that
            each of those is looked at once, and draws 0, 1, ... of any other.
        look: (windows, their numbers) -> name -> [B, ...].
        pool: How many.
        seed: Of the draws from the pool.
        batch_size: Windows looked at together.
        progress: Show a bar with the time left.
    """

    def __init__(
        self,
        source: Windows,
        look: Callable[[Batch, Sequence[int]], dict[str, Tensor]],
        *,
        pool: int,
        seed: int,
        batch_size: int = 16,
        progress: bool = True,
    ) -> None:
        self._source, self._pool, self._seed = source, pool, seed
        self._windows = source.of_pool if isinstance(source, FutureSource) else source.batch
        self.prefetch = getattr(source, "prefetch", 0)
        parts: dict[str, list[Tensor]] = {}
        with tqdm(total=pool, desc="looks", unit="window", disable=not progress) as bar:
            for begin in range(0, pool, batch_size):
                numbers = list(range(begin, min(begin + batch_size, pool)))
                for name, x in look(self._windows(numbers), numbers).items():
                    parts.setdefault(LOOK + name, []).append(x.detach().half().cpu())
                bar.update(len(numbers))
        self._looks = {name: torch.cat(rows) for name, rows in parts.items()}

    def batch(self, indices: list[int]) -> Batch:
        """See `flashwam.distillation.trainer.Source`."""
        numbers = [pool_number(self._seed, i, self._pool) for i in indices]
        batch = self._windows(numbers)
        return replace(batch, extra={**batch.extra, **{name: x[numbers].float() for name, x in self._looks.items()}})

    def describe(self, index: int) -> str:
        """Says which window a draw of the underlying source is, for error messages."""
        return str(getattr(self._source, "describe", str)(index))
