# SPDX-License-Identifier: Apache-2.0
"""Training samples that are pairs: the noise of a chunk, and what a teacher draws from it.

Letters: B samples, C channels, F latent frames, H and W the rest of a stream's tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.distillation.draws import keyed_seed
from flashwam.distillation.futures import stacked_noise
from flashwam.distillation.rollouts import RolloutStore
from flashwam.distillation.setup import Source
from flashwam.wam.base import WorldActionModel

__all__ = ["NOISE", "PairSource", "Pool", "pair_counts", "parts_in_turn"]

NOISE = "noise/"
"""Before a stream's name: its noise, in the samples' `extra`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Pairs whose chunk stands at the same place of its window.

    Args:
        source: Windows; pair n is that of draw n.
        chunk: Place of the chunk in its window, from 0.
        share: Share of the batches that are taken from here.
    """

    source: Source
    chunk: int
    share: float


_SHUFFLED = 20
"""Batches of a run that keep the shares between them and stand in no order."""


def parts_in_turn(shares: Sequence[float], batches: int) -> np.ndarray:
    """Chooses the pool of every batch, [batches] int64: the one that is furthest behind its share, then shuffled among
    neighbours, since what happens at every n-th step must meet every pool: a student's turn, a line of the log."""
    wanted = np.asarray(shares, dtype=np.float64) / sum(shares)
    taken = np.zeros(len(wanted))
    order = np.empty(batches, dtype=np.int64)
    for number in range(batches):
        order[number] = choice = int(np.argmax(wanted * (number + 1) - taken))
        taken[choice] += 1
    for begin in range(0, batches, _SHUFFLED):
        generator = np.random.Generator(np.random.Philox(key=begin))
        generator.shuffle(order[begin : begin + _SHUFFLED])
    return order


def pair_counts(shares: Sequence[float], *, batches: int, batch_size: int, reuse: float) -> list[int]:
    """Counts the distinct pairs of every pool, so that each is used `reuse` times."""
    taken = np.bincount(parts_in_turn(shares, batches), minlength=len(shares))
    return [math.ceil(int(count) * batch_size / reuse) for count in taken]


class PairSource:
    """Every batch is of one pool, and every pair of a pool is used as often before it is used again.

    Samples are windows cut behind the chunk that was drawn. Their clean tensors hold the draw in that chunk, with the
    true past before it; so does their history in the streams of all stages but the last, as later stages see them.
    `extra` has the chunk's noise, `NOISE` before the stream's name, [B, C, F, H, W].

    Args:
        pools: Where pairs come from.
        store: Of chunks of `model`; completed here.
        model: Says how chunks and stages follow each other.
        batch_size: Samples of a batch over all processes: draw numbers n k ... n k + k - 1 are of one pool.
        batches: How many batches will be taken.
        reuse: How often a pair is used.
        seed: Of noise and order.
        progress: Show progress bars.

    Attributes:
        pairs: How many distinct pairs each pool has.
        store: Holds them.
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        store: RolloutStore,
        model: WorldActionModel,
        *,
        batch_size: int,
        batches: int,
        reuse: float,
        seed: int,
        progress: bool = True,
    ) -> None:
        self._pools, self.store, self._seed, self._size = list(pools), store, seed, batch_size
        self._length, self._conditions = model.chunk_frames, model.conditions_on_first
        self._earlier = [name for stage in model.stages[:-1] for name in stage]
        self.prefetch = max(getattr(pool.source, "prefetch", 0) for pool in pools)
        shares = [pool.share for pool in pools]
        self._order = parts_in_turn(shares, batches)
        # How many batches before this one were of the same pool.
        self._ordinal = np.zeros(batches, dtype=np.int64)
        for number in range(len(pools)):
            self._ordinal[self._order == number] = np.arange((self._order == number).sum())
        self.pairs = pair_counts(shares, batches=batches, batch_size=batch_size, reuse=reuse)
        self._permutation = lru_cache(maxsize=2 * len(pools))(self._permuted)
        self._keys: list[list[str]] = []
        groups = [
            (number, list(range(begin, min(begin + store.batch_size, count))))
            for number, count in enumerate(self.pairs)
            for begin in range(0, count, store.batch_size)
        ]
        keys = store.complete([partial(self._group, *group) for group in groups], progress=progress)
        for number in range(len(pools)):
            self._keys.append([k for group, made in zip(groups, keys, strict=True) if group[0] == number for k in made])

    def batch(self, indices: list[int]) -> Batch:
        """See `flashwam.distillation.setup.Source`."""
        return replace(self.of_pool(*self._chosen(indices)), index=torch.tensor(indices))

    def of_pool(self, pool: int, numbers: list[int]) -> Batch:
        """Pairs of one pool by their numbers, below `pairs[pool]`."""
        batch = self._windows(pool, numbers)
        rollouts = [self.store.read(self._keys[pool][number]) for number in numbers]
        begin = self._pools[pool].chunk * self._length
        drawn = {name: torch.stack([one.drawn[name] for one in rollouts]) for name in batch.clean}
        seeds = [self._noise_seed(pool, number) for number in numbers]
        noise = stacked_noise(seeds, {name: x[0] for name, x in drawn.items()})
        # What is an observation at rollout is not the teacher's to draw, unless the model predicts it too; a later
        # stage is told it either way.
        observed = batch.given[:, begin:]
        given = observed & (not self._conditions)
        return replace(
            batch,
            clean={name: _ending(x, drawn[name], given) for name, x in batch.clean.items()},
            history={
                name: _ending(x, drawn[name], observed) if name in self._earlier else x
                for name, x in batch.history.items()
            },
            extra={f"{NOISE}{name}": x for name, x in noise.items()},
        )

    def describe(self, index: int) -> str:
        """Says which window a pair is of, for error messages."""
        pool, (number,) = self._chosen([index])
        source = self._pools[pool].source
        told: Any = getattr(source, "describe", str)
        return f"pair {number}, chunk {self._pools[pool].chunk} of {told(number)}"

    def _chosen(self, indices: Sequence[int]) -> tuple[int, list[int]]:
        """The pool of some draws of one batch, and the number of each draw's pair."""
        part = indices[0] // self._size
        pool = int(self._order[part])
        count, numbers = self.pairs[pool], []
        for index in indices:
            epoch, place = divmod(int(self._ordinal[part]) * self._size + index % self._size, count)
            numbers.append(int(self._permutation(pool, epoch)[place]))
        return pool, numbers

    def _permuted(self, pool: int, epoch: int) -> np.ndarray:
        seed = keyed_seed(self._seed, "order", pool, epoch)
        return np.random.Generator(np.random.Philox(key=seed)).permutation(self.pairs[pool])

    def _noise_seed(self, pool: int, number: int) -> int:
        return keyed_seed(self._seed, "pair", pool, number)

    def _windows(self, pool: int, numbers: list[int]) -> Batch:
        chosen = self._pools[pool]
        return chosen.source.batch(numbers).frames_of(slice((chosen.chunk + 1) * self._length))

    def _group(self, pool: int, numbers: list[int]) -> tuple[Batch, list[int]]:
        return self._windows(pool, numbers), [self._noise_seed(pool, number) for number in numbers]


def _ending(x: Tensor, chunk: Tensor, given: Tensor) -> Tensor:
    """A window with a chunk at its end, but for frames that are given."""
    begin = x.shape[2] - chunk.shape[2]
    return torch.cat([x[:, :, :begin], torch.where(given[:, None, :, None, None], x[:, :, begin:], chunk.to(x))], 2)
