# SPDX-License-Identifier: Apache-2.0
"""A rollout as the sampler sees it, and what a model may keep between calls.

Letters: B episodes, C channels, F latent frames, H and W the rest of a stream's tokens.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

from torch import Tensor

from flashwam.system.errors import InputError

__all__ = ["Kept", "RolloutSession"]

logger = logging.getLogger(__name__)


class Kept:
    """A place for what a model makes of its clean tokens and context between calls of `velocity`; empty at first.

    A class of its own, since wrappers of a model rebuild the containers that they are called with.

    Attributes:
        value: The family's own.
    """

    def __init__(self) -> None:
        self.value: Any = None


class RolloutSession(ABC):
    """A cache of what B lock-stepped episodes have seen; `flashwam.sampling` draws chunks through it."""

    frame_index: int
    """Absolute latent frame of the next chunk's first frame."""
    part_seconds: Mapping[str, float] = MappingProxyType({})
    """Part of the model -> seconds spent in it so far, where a family tells its parts apart."""
    clock: Callable[[], float] = time.perf_counter
    """Tells those seconds, as the clock of `flashwam.sampling.Rollout` does, which gives its own."""

    @abstractmethod
    def velocity(self, noisy: Mapping[str, Tensor], sigma: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Guided velocity of the current chunk under the cache, which is left as it was.

        Args:
            noisy: The streams of one of the model's stages -> [B, C, F, H, W].
            sigma: The same streams -> [B, F].
        """

    def features(self, noisy: Mapping[str, Tensor], sigma: Mapping[str, Tensor], *, blocks: Sequence[int]) -> Tensor:
        """`LooksInside.features` of the current chunk under the cache, which these tokens never enter.

        Args:
            noisy, sigma: As in `velocity`, video among them; text is not guided.
            blocks: As in `LooksInside.features`.

        Raises:
            ValueError: The family gives no features.
        """
        raise InputError(
            f"{type(self).__name__} gives no features: a family that derives from `LooksInside` writes `features` of "
            "its session too"
        )

    def probe(self, noise: Mapping[str, Tensor], sigma: Mapping[str, Tensor]) -> None:
        """Looks once at the current chunk's `Layout.probes`; later velocities of the chunk know what it saw.

        Args:
            noise: Every stream of the model -> the noise of its chunk, [B, C, F, H, W], behind frames that are given.
            sigma: The same streams -> [B, F], 1, and 0 for frames that are given.

        Raises:
            ValueError: The model has no probes.
        """
        raise InputError(f"{type(self).__name__} draws every stream: the model has no probes to look at")

    @abstractmethod
    def append(self, stream: str, clean: Tensor, *, predicted: bool) -> None:
        """Puts clean tokens [B, C, F, H, W] of the current chunk into the cache; predicted ones can be dropped.

        A model that `conditions_on_first` begins its next chunk at the last observed frame and needs no other.
        """

    @abstractmethod
    def drop_predicted(self) -> None:
        """Forgets every predicted token."""

    @abstractmethod
    def advance(self, frames: int) -> None:
        """Moves to the next chunk after `frames` latent frames of observed tokens were appended."""

    def amend(self, seen: Mapping[str, Tensor]) -> None:
        """Puts what was really seen in the place of the last frames of the chunk before, which had been imagined.

        Everything that knew them is computed anew, as if they had been seen all along. A family that does not write
        this keeps what it imagined, and a warning says so.

        Args:
            seen: Streams and senses of that chunk -> its last U frames, [B, C, U, H, W].

        Raises:
            ValueError: That chunk has fewer frames, or no such stream.
            RuntimeError: Predicted tokens are there, or observed ones of the current chunk.
        """
        _say_kept(type(self).__name__)


@cache
def _say_kept(name: str) -> None:
    logger.warning("what %s imagined of frames under way stays in its past, since it writes no `amend`", name)
