# SPDX-License-Identifier: Apache-2.0
"""The contract every world-action model family fulfils.

Letters: B samples, C channels, F latent frames, H and W the rest of a stream's tokens, L text tokens, D text width.
Stream tensors are [B, C, F, H, W]; actions are [B, A, F, N, 1] with N actions per latent frame.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

__all__ = ["Kept", "RolloutSession", "WorldActionModel"]


class Kept:
    """What a model keeps of its clean tokens and context between calls of `velocity`; empty at first.

    A class of its own, since wrappers of a model rebuild the containers that they are called with.

    Attributes:
        held: The family's own.
    """

    def __init__(self) -> None:
        self.held: Any = None


class RolloutSession(ABC):
    """A cache of what B lock-stepped episodes have seen; `flashwam.sampling` draws chunks through it."""

    frame_index: int
    """Absolute latent frame of the next chunk's first frame."""

    @abstractmethod
    def velocity(self, stream: str, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Guided velocity of the current chunk's tokens of one stream under the cache, which is left as it was.

        Args:
            stream: Name of the stream.
            noisy: [B, C, F, H, W].
            sigma: [B, F].
        """

    @abstractmethod
    def append(self, stream: str, clean: Tensor, *, predicted: bool) -> None:
        """Puts clean tokens [B, C, F, H, W] of the current chunk into the cache; predicted ones can be dropped."""

    @abstractmethod
    def drop_predicted(self) -> None:
        """Forgets every predicted token."""

    @abstractmethod
    def advance(self, frames: int) -> None:
        """Moves to the next chunk after `frames` latent frames of observed tokens were appended."""


class WorldActionModel(nn.Module, ABC):
    """A network that predicts flow velocities for several streams.

    Attributes:
        streams: Names in generation order; a later stream is drawn given the earlier ones.
        chunk_frames: Latent frames drawn at a time.
        shapes: Stream name -> (C, H, W) of its tensors.
        adapter_targets: Linear layers that low-rank adapters go to by default, by the ends of their names.
        compute_options: Keywords of `create` that say how the network computes, not what it is; `from_pretrained`
            takes them too.
    """

    adapter_targets: ClassVar[tuple[str, ...]] = ()
    compute_options: ClassVar[tuple[str, ...]] = ()
    streams: tuple[str, ...]
    chunk_frames: int
    shapes: Mapping[str, tuple[int, int, int]]

    @abstractmethod
    def velocity(
        self,
        noisy: Mapping[str, Tensor],
        sigma: Mapping[str, Tensor],
        clean: Mapping[str, Tensor],
        context: Mapping[str, Any],
    ) -> dict[str, Tensor]:
        """One joint, teacher-forced pass: the noisy tokens of a chunk see the clean tokens of their past.

        No stream sees another one's noisy tokens, so its velocity is the same whichever others are asked for.

        Args:
            noisy: Stream name -> [B, C, F', H, W], the last F' <= F frames; a stream left out takes part with its
                clean tokens alone.
            sigma: Stream name -> [B, F'] in [0, 1], one level per latent frame.
            clean: Stream name -> [B, C, F, H, W].
            context: "text" [B, L, D]; optional "clean_sigma" (stream name -> [B, F], the clean slots' own level),
                "chunk_frames" and "window_chunks" (ints that replace the model's own), and "kept" (a `Kept`, the same
                for calls without gradient that share weights, `clean` and the rest of the context: a family may keep
                there what these alone determine, or ignore it).

        Returns:
            Stream name -> eps - x0, shaped like `noisy`.
        """

    def forward(
        self,
        noisy: Mapping[str, Tensor],
        sigma: Mapping[str, Tensor],
        clean: Mapping[str, Tensor],
        context: Mapping[str, Any],
    ) -> dict[str, Tensor]:
        """`velocity`, for wrappers that hook the forward call."""
        return self.velocity(noisy, sigma, clean, context)

    @abstractmethod
    def session(
        self, text: Tensor, *, null_text: Tensor | None = None, guidance: Mapping[str, float] | None = None
    ) -> RolloutSession:
        """Opens a rollout of B episodes: text [B, L, D]; a guidance scale other than 1 needs null_text [L, D]."""

    def pass_tokens(self, frames: int) -> int | None:
        """Tokens of one sample in `velocity` over F = `frames`, text aside; None if a family cannot say."""
        return None

    @abstractmethod
    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the weights in the family's own layout."""

    @classmethod
    @abstractmethod
    def from_pretrained(cls, folder: str | Path) -> "WorldActionModel":
        """Loads what `save_pretrained` wrote; missing, unexpected or misshapen keys are an error that lists them."""
