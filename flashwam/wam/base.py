# SPDX-License-Identifier: Apache-2.0
"""The contract every world-action model family fulfils.

A family must say its `streams`, `chunk_frames` and `shapes`, and write `velocity`; everything else has a default that
works, if not always fast: a rollout that runs the whole past again, weights beside the constructor's settings.

Letters: B samples, C channels, F latent frames, H and W the rest of a stream's tokens, L text tokens, D text width.
Stream tensors are [B, C, F, H, W]; actions are [B, A, F, N, 1] with N actions per latent frame.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from flashwam.wam.plain import build_plain, load_weights, save_plain

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
    part_seconds: Mapping[str, float] = MappingProxyType({})
    """Part of the model -> seconds spent in it so far, where a family tells its parts apart."""

    @abstractmethod
    def velocity(self, noisy: Mapping[str, Tensor], sigma: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Guided velocity of the current chunk under the cache, which is left as it was.

        Args:
            noisy: The streams of one of the model's stages -> [B, C, F, H, W].
            sigma: The same streams -> [B, F].
        """

    def features(self, noisy: Mapping[str, Tensor], sigma: Mapping[str, Tensor], *, blocks: Sequence[int]) -> Tensor:
        """`WorldActionModel.features` of the current chunk under the cache, which these tokens never enter.

        Args:
            noisy, sigma: As in `velocity`, video among them; text is not guided.
            blocks: As in `WorldActionModel.features`.
        """
        raise ValueError(f"{type(self).__name__} gives no features: the model's family has to write `features`")

    def probe(self, noise: Mapping[str, Tensor], sigma: Mapping[str, Tensor]) -> None:
        """Looks once at the current chunk's `WorldActionModel.probes`; later velocities of the chunk know what it saw.

        Args:
            noise: Every stream of the model -> the noise of its chunk, [B, C, F, H, W], behind frames that are given.
            sigma: The same streams -> [B, F], 1, and 0 for frames that are given.
        """
        raise ValueError(f"{type(self).__name__} draws every stream: the model has no probes to look at")

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


class WorldActionModel(nn.Module, ABC):
    """A network that predicts flow velocities for several streams.

    Attributes:
        streams: Names in generation order.
        chunk_frames: Latent frames drawn at a time.
        shapes: Stream name -> (C, H, W) of its tensors.
        conditions_on_first: How a chunk is told what was observed. False: as clean tokens, frame 0 of an episode in
            its own noisy slot at sigma 0, all later ones as the past. True: frame 0 of every chunk is the latest
            observation, given as a condition (`clean` of that frame); its noisy slot is noised and predicted like the
            others, and nothing older is known.
        frame_levels: Whether the frames of one stream may stand at different noise levels.
        probes: Streams that are looked at once, from pure noise, and never drawn; whole stages. `velocity` is not asked
            for them and needs `noise` in its context.
        senses: What is observed beside the streams, such as the robot's "state": name -> numbers. It comes with the
            clean tokens, of every frame, as [B, numbers, F, 1, 1]; for a model that `conditions_on_first`.
        feature_blocks: How many blocks `features` can be taken after; 0 for a family without `features`.
        settings: Keywords that `create` was given, for a family that saves as `save_plain` does.
        adapter_targets: Linear layers that low-rank adapters go to by default, by the ends of their names.
        compute_options: Keywords of `create` that say how the network computes, not what it is; `from_pretrained`
            takes them too.
    """

    conditions_on_first: bool = False
    frame_levels: bool = True
    probes: tuple[str, ...] = ()
    senses: Mapping[str, int] = MappingProxyType({})
    adapter_targets: ClassVar[tuple[str, ...]] = ()
    compute_options: ClassVar[tuple[str, ...]] = ()
    streams: tuple[str, ...]
    chunk_frames: int
    shapes: Mapping[str, tuple[int, int, int]]
    settings: Mapping[str, Any] = MappingProxyType({})

    @classmethod
    def create(cls, **settings: Any) -> Self:
        """A model with fresh weights; the keywords are the constructor's and plain values."""
        model = cls(**settings)
        model.settings = settings
        return model

    @classmethod
    def keywords(cls) -> dict[str, bool]:
        """Keywords of `create` -> whether it cannot do without; recipes are checked against them before any work."""
        found = inspect.signature(cls.create).parameters
        if any(p.kind is p.VAR_KEYWORD for p in found.values()):
            found = {**found, **inspect.signature(cls).parameters}
        named = (p for p in found.values() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD))
        return {p.name: p.default is p.empty for p in named}

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        """The streams in generation order, grouped: those of a stage are drawn together and see each other's noise; a
        later stage is drawn given the earlier ones. One stream a stage unless a family says otherwise."""
        return tuple((name,) for name in self.streams)

    def whole_stages(self, names: Collection[str]) -> set[str]:
        """Some streams and those that are drawn together with them."""
        return {name for stage in self.stages if not set(stage).isdisjoint(names) for name in stage}

    @property
    def execute_frames(self) -> int:
        """Latent frames of a chunk, beyond those observed already, that are executed before the next chunk is drawn."""
        return self.chunk_frames

    @abstractmethod
    def velocity(
        self,
        noisy: Mapping[str, Tensor],
        sigma: Mapping[str, Tensor],
        clean: Mapping[str, Tensor],
        context: Mapping[str, Any],
    ) -> dict[str, Tensor]:
        """One joint, teacher-forced pass, as if every chunk were being drawn at once.

        The noisy tokens of a chunk see each other within a stage, the clean tokens of every earlier chunk, and the
        clean tokens of their own chunk's earlier stages; nothing else, since nothing else is there when a chunk is
        drawn. An observed frame stands in its noisy slot at sigma 0 (or see `conditions_on_first`).

        No stage sees another one's noisy tokens, so its velocities are the same whichever others are asked for.

        Args:
            noisy: Stream name -> [B, C, F', H, W], the last F' <= F frames; a stream of another stage may be left
                out and takes part with its clean tokens alone.
            sigma: Stream name -> [B, F'] in [0, 1], one level per latent frame.
            clean: Stream name -> [B, C, F, H, W].
            context: "text" [B, L, D]; for a model with `probes`, "noise" and "noise_sigma" (every stream ->
                [B, C, F', H, W] and [B, F'], what they are looked at from, as in `RolloutSession.probe`); optional
                "clean_sigma" (stream name -> [B, F], the clean slots' own level), "chunk_frames" and "window_chunks"
                (ints that replace the model's own), and "kept" (a `Kept`, the same
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

    @property
    def feature_blocks(self) -> int:
        """How many blocks `features` can be taken after."""
        return 0

    def feature_width(self, blocks: Sequence[int]) -> int:
        """Channels of `features` of these blocks."""
        raise self._no_features()

    def features(
        self,
        noisy: Mapping[str, Tensor],
        sigma: Mapping[str, Tensor],
        clean: Mapping[str, Tensor],
        context: Mapping[str, Any],
        *,
        blocks: Sequence[int],
    ) -> Tensor:
        """Hidden states of the video's noisy tokens in the pass that `velocity` makes, which ends after the deepest.

        Args:
            noisy, sigma, clean, context: As in `velocity`; streams that are not drawn together with the video may be
                left out.
            blocks: After which blocks, from 0, ascending.

        Returns:
            [B, D, F', h, w] for tokens on a grid of h x w, float32 or better: of every block the hidden states,
            normalised over channels without weights, one after the other.

        Raises:
            ValueError: the family gives no features, or lacks a block.
        """
        raise self._no_features()

    def _no_features(self) -> ValueError:
        return ValueError(
            f"{type(self).__name__} gives no hidden states: to be looked into, a family writes `feature_blocks`, "
            "`feature_width`, `features`, and `features` of its session"
        )

    def feature_parameters(self, blocks: Sequence[int]) -> int:
        """Parameters that `feature_session` runs for these blocks; all of the model's unless a family knows better."""
        return sum(p.numel() for p in self.parameters())

    def feature_session(self, text: Tensor, *, blocks: Sequence[int]) -> RolloutSession:
        """A rollout that is asked for nothing but `features` of these blocks; a family may run no deeper ones."""
        return self.session(text)

    def deployed_parameters(self) -> dict[str, int]:
        """Part -> parameters that are there when the model acts."""
        return {"model": sum(p.numel() for p in self.parameters())}

    def session(
        self, text: Tensor, *, null_text: Tensor | None = None, guidance: Mapping[str, float] | None = None
    ) -> RolloutSession:
        """Opens a rollout of B episodes: text [B, L, D]; a guidance scale other than 1 needs null_text [L, D].

        By default every velocity is a pass over the whole past, see `flashwam.wam.replay`.
        """
        from flashwam.wam.replay import ReplaySession

        return ReplaySession(self, text, null_text=null_text, guidance=guidance)

    def pass_tokens(self, frames: int) -> int | None:
        """Tokens of one sample in `velocity` over F = `frames`, text aside; None if a family cannot say."""
        return None

    @property
    def predicted(self) -> Mapping[str, Tensor]:
        """Stream name -> bool, broadcastable to [C, F, H, W] of a chunk: False where nothing is put out, so that no
        loss is taken there. Streams that are put out whole are absent."""
        return {}

    @property
    def text_shape(self) -> tuple[int | None, int | None]:
        """(L, D) of the text embeddings it is made for; None where any will do or a family cannot say."""
        return None, None

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the weights in the family's own layout, or as `flashwam.wam.plain` does."""
        save_plain(self, self.settings, folder)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
    ) -> Self:
        """Loads what `save_pretrained` wrote; missing, unexpected or misshapen keys are an error that lists them."""
        model = build_plain(folder, lambda settings: cls.create(**settings))
        load_weights(model, folder, device=device)
        return model.to(device=device, dtype=dtype)
