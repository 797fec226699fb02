# SPDX-License-Identifier: Apache-2.0
"""Training samples whose future was drawn by a teacher from a known seed, with what vision models see in it.

Letters: B samples, C channels, F latent frames, H and W the rest of a stream's tokens, T channels of a vision model, h
and w of the grid.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from flashwam.core.batch import Batch
from flashwam.distillation.futures import stacked_noise
from flashwam.distillation.rollouts import RolloutStore
from flashwam.foresight.drawn_pictures import PICTURES
from flashwam.system.errors import InputError
from flashwam.system.files import one_at_a_time
from flashwam.system.tensor_file import load_tensors, write_tensors

__all__ = ["FutureSource", "Target", "Windows", "noise_seed", "pool_number"]

logger = logging.getLogger(__name__)

_LEAST_STD = 1e-4


class Windows(Protocol):
    """A source of training samples by draw number, see `flashwam.distillation.trainer.Source`."""

    def batch(self, indices: list[int]) -> Batch:
        """The samples of these draws."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One vision model's view of drawn videos.

    Args:
        fingerprint: Of the model and of how its view is brought to the grid.
        extract: Pictures uint8 [n, P, height, width, 3] of F latent frames -> [n, T, F, h, w].
    """

    fingerprint: str
    extract: Callable[[Tensor, int], Tensor]


class FutureSource:
    """Windows of a pool, each with one rollout; draw i takes one of them as (seed, i) says.

    Batches carry in `extra` "noise/<stream>" [B, C, F, H, W], what the rollout was drawn from, and per target
    "target/<name>" [B, T, F, h, w], as the vision model gives it.

    Args:
        source: Where windows come from; the pool is its draws 0, 1, ...
        store: Where rollouts are kept.
        pool: How many windows.
        seed: Of the pool's noise and of the draws from it.
        targets: Name -> vision model.
        actions: Whether the teacher's own actions take the place of the demonstrated ones.
        progress: Show progress bars.

    Attributes:
        statistics: Target -> mean and standard deviation per channel, [T] each, over the frames that have a loss.
    """

    def __init__(
        self,
        source: Windows,
        store: RolloutStore,
        *,
        pool: int,
        seed: int,
        targets: Mapping[str, Target],
        actions: bool = False,
        progress: bool = True,
    ) -> None:
        if pool < 1:
            raise InputError(f"a pool needs at least 1 window; got {pool}")
        self._source, self._store, self._seed, self._actions = source, store, seed, actions
        self.prefetch = getattr(source, "prefetch", 0)
        self._seeds = [noise_seed(seed, number) for number in range(pool)]
        self._folders = {name: store.folder / f"target_{target.fingerprint}" for name, target in targets.items()}
        size = store.batch_size
        groups = [list(range(pool))[begin : begin + size] for begin in range(0, pool, size)]
        # Of the windows, which would fill the memory, what the statistics need is kept from when they are read.
        masks: dict[int, Tensor] = {}
        made = store.complete([partial(self._group, group, masks) for group in groups], progress=progress)
        self._keys = [key for keys in made for key in keys]
        counted = torch.cat([masks[group[0]] for group in groups])
        with one_at_a_time(store.folder):
            self.statistics = {
                name: self._complete(name, target, counted, progress=progress) for name, target in targets.items()
            }

    def batch(self, indices: list[int]) -> Batch:
        """See `flashwam.distillation.trainer.Source`."""
        return self.of_pool([pool_number(self._seed, i, len(self._seeds)) for i in indices])

    def of_pool(self, numbers: list[int]) -> Batch:
        """Windows of the pool by their numbers, from 0 and again from its beginning after the last: not draws, which
        take a number at random."""
        numbers = [number % len(self._seeds) for number in numbers]
        batch = self._source.batch(numbers)
        like = {name: x[0] for name, x in batch.clean.items()}
        noise = stacked_noise([self._seeds[number] for number in numbers], like)
        extra = {f"noise/{name}": x for name, x in noise.items()}
        for name in self._folders:
            extra[f"target/{name}"] = torch.stack([self._target(name, self._keys[n]) for n in numbers])
        clean = dict(batch.clean)
        if self._actions:
            drawn = torch.stack([self._store.read(self._keys[n], only=("action",)).drawn["action"] for n in numbers])
            # Slots that nobody acts in stay what they are.
            clean["action"] = torch.where(batch.loss_mask("action"), drawn, clean["action"])
        return replace(batch, clean=clean, extra=extra)

    def describe(self, index: int) -> str:
        """Says which window a draw of the underlying source is, for error messages."""
        told: Any = getattr(self._source, "describe", str)
        return str(told(index))

    def _group(self, numbers: list[int], masks: dict[int, Tensor]) -> tuple[Batch, list[int]]:
        """Windows and their seeds; notes which of their frames have a loss, bool [B, F], under the first number."""
        batch = self._source.batch(numbers)
        masks[numbers[0]] = batch.loss_mask("video").any(1).flatten(1)
        return batch, [self._seeds[number] for number in numbers]

    def _target(self, name: str, key: str) -> Tensor:
        return load_tensors(self._folders[name] / f"{key}.safetensors")["seen"].float()

    def _complete(self, name: str, target: Target, counted: Tensor, *, progress: bool) -> tuple[Tensor, Tensor]:
        """Makes the missing targets; mean and standard deviation over all, which are kept beside them."""
        folder = self._folders[name]
        missing = [key for key in self._keys if not (folder / f"{key}.safetensors").is_file()]
        for key in tqdm(missing, desc=f"targets {name}", unit="window", disable=not progress):
            rollout = self._store.read(key)
            seen = target.extract(rollout.extra[PICTURES][None], rollout.drawn["video"].shape[1])[0]
            write_tensors(folder / f"{key}.safetensors", {"seen": seen.half()})
        path = folder / f"statistics_{_pool_hash(self._keys)}.safetensors"
        if not path.is_file():
            write_tensors(path, self._measure(name, counted))
        held = load_tensors(path)
        return held["mean"], held["std"]

    def _measure(self, name: str, counted: Tensor) -> dict[str, Tensor]:
        total = square = count = 0
        for key, frames in zip(self._keys, counted, strict=True):
            seen = self._target(name, key)[:, frames].double().flatten(1)
            total, square, count = total + seen.sum(1), square + (seen**2).sum(1), count + seen.shape[1]
        mean = total / count
        std = (square / count - mean**2).clamp(min=_LEAST_STD**2).sqrt()
        return {"mean": mean.float(), "std": std.float()}


def pool_number(seed: int, index: int, pool: int) -> int:
    """Chooses the window of a pool that a draw takes."""
    return int(np.random.Generator(np.random.Philox(key=[seed, index])).integers(pool))


def noise_seed(seed: int, number: int) -> int:
    """Seeds the noise of window `number` of a pool, see `flashwam.distillation.futures.seeded_noise`."""
    digest = hashlib.blake2b(f"rollout {seed} {number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _pool_hash(keys: Sequence[str]) -> str:
    return hashlib.sha256("".join(keys).encode()).hexdigest()[:16]
