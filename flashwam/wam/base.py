# SPDX-License-Identifier: Apache-2.0
"""The contract every world-action model family fulfils.

A family states one `Layout` and writes `velocity`; everything else has a default that works, if not always fast: a
rollout that runs the whole past again, weights beside the constructor's settings. A family that can be looked into
derives from `flashwam.wam.features.LooksInside`.

Letters: B samples, C channels, F latent frames, H and W the rest of a stream's tokens, L text tokens, D text width.
Stream tensors are [B, C, F, H, W]; actions are [B, A, F, N, 1] with N actions per latent frame.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Self, TypeVar, overload

import torch
from torch import Tensor, nn

from flashwam.core.precision import check_precision
from flashwam.system.errors import InputError
from flashwam.wam.layout import Layout
from flashwam.wam.plain import build_plain, differing, load_weights, save_plain
from flashwam.wam.replay import ReplaySession
from flashwam.wam.rounded_linear import is_rounded, round_layers
from flashwam.wam.session import RolloutSession
from flashwam.wam.velocities import check_velocities

__all__ = ["WorldActionModel"]

T = TypeVar("T")


class _Stated(Generic[T]):
    """A fact of the model's layout, read under its own name and never set beside it."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, model: None, owner: type) -> Self: ...
    @overload
    def __get__(self, model: "WorldActionModel", owner: type) -> T: ...
    def __get__(self, model: "WorldActionModel | None", owner: type) -> Self | T:
        return self if model is None else getattr(model.layout, self._name)

    def __set__(self, model: "WorldActionModel", value: T) -> None:
        raise InputError(_by_hand(type(model), [self._name]))


class WorldActionModel(nn.Module, ABC):
    """A network that predicts flow velocities for several streams.

    Args:
        layout: The family's facts; left out where the class states them, `layout = Layout(...)`.

    Attributes:
        layout: Those facts; each is an attribute of the model too, such as `streams`.
        settings: Keywords that `create` was given, for a family that saves as `save_plain` does.
        adapter_targets: Linear layers that low-rank adapters go to by default, and that `choose_precision` rounds, by
            the ends of their names.
        compute_options: Keywords of `create` that say how the network computes, not what it is; `from_pretrained`
            takes them too.
        built_on: Attribute that holds the world-action model which this one is built on, saved in a folder of that
            name; a recipe may name the family of either. None for a model that stands alone.
        text_in_blocks: Whether text goes through the blocks beside the other tokens, instead of being attended to.

    Raises:
        ValueError: The family states no layout, or a fact of it by hand.
    """

    layout: Layout
    streams = _Stated[tuple[str, ...]]()
    shapes = _Stated[Mapping[str, tuple[int, int, int]]]()
    chunk_frames = _Stated[int]()
    stages = _Stated[tuple[tuple[str, ...], ...]]()
    conditions_on_first = _Stated[bool]()
    execute_frames = _Stated[int]()
    frame_levels = _Stated[bool]()
    probes = _Stated[tuple[str, ...]]()
    senses = _Stated[Mapping[str, int]]()
    predicted = _Stated[Mapping[str, Tensor]]()
    text_shape = _Stated[tuple[int | None, int | None]]()

    adapter_targets: ClassVar[tuple[str, ...]] = ()
    compute_options: ClassVar[tuple[str, ...]] = ()
    built_on: ClassVar[str | None] = None
    text_in_blocks: ClassVar[bool] = False
    settings: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, layout: Layout | None = None) -> None:
        super().__init__()
        stated = getattr(type(self), "layout", None) if layout is None else layout
        if not isinstance(stated, Layout):
            raise InputError(
                f"{type(self).__name__} states no layout: write `layout = Layout(streams=..., shapes=..., "
                "chunk_frames=...)` in the class, or give one to super().__init__(); Layout is in flashwam.wam.layout"
            )
        self.layout = stated

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        named = [f.name for f in fields(Layout) if not isinstance(getattr(cls, f.name), _Stated)]
        if named:
            raise InputError(_by_hand(cls, named))

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

    @classmethod
    def adopt(
        cls,
        folder: str | Path,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        **settings: Any,
    ) -> Self | None:
        """Reads another tool's weights under settings of one's own; None for a family that knows no other tool's.

        Args:
            folder: What the other tool wrote.
            dtype: Of the parameters; that of the files by default.
            device: Where they go.
            settings: Keywords of `create`.

        Raises:
            FileNotFoundError, ValueError: A file is missing, or holds another network than the settings describe.
        """
        return None

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
        """`velocity`, for wrappers that hook the forward call.

        Raises:
            ValueError: What it put out are no velocities of `noisy`.
        """
        found = self.velocity(noisy, sigma, clean, context)
        check_velocities(found, noisy, self)
        return found

    @property
    def used_channels(self) -> tuple[int, ...] | None:
        """Channels of the action stream that the network meets, the others being zero to it; None for all."""
        return None

    @property
    def drawn_with(self) -> Mapping[str, Any]:
        """Settings that decide its draws and that no weight shows, as plain values: those that neither are a family's
        defaults nor were said by the folder of the weights."""
        return {}

    @property
    def decided_by(self) -> Mapping[str, Any]:
        """All settings that decide its draws and that no weight shows, wherever they were said."""
        return {}

    def differences(self, config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Finds keywords of `create` that would make another model, `compute_options` aside, as far as it is known what
        this one was made with: keyword -> (as given, as this one has it)."""
        if not self.settings:
            return {}
        found = {**inspect.signature(type(self)).parameters, **inspect.signature(self.create).parameters}
        usual = {name: each.default for name, each in found.items() if each.default is not each.empty}
        return differing(config, {**usual, **self.settings}, but=self.compute_options)

    def deployed_parameters(self) -> dict[str, int]:
        """Part -> parameters that are there when the model acts."""
        return {"model": sum(p.numel() for p in self.parameters())}

    def session(
        self, text: Tensor, *, null_text: Tensor | None = None, guidance: Mapping[str, float] | None = None
    ) -> RolloutSession:
        """Opens a rollout of B episodes: text [B, L, D]; a guidance scale other than 1 needs null_text [L, D].

        By default every velocity is a pass over the whole past, see `flashwam.wam.replay`.
        """
        return ReplaySession(self, text, null_text=null_text, guidance=guidance)

    def compile_training(self, **options: Any) -> None:
        """Lets `velocity` compile what it is made of, at its first call with each shape, for a family that can.

        Args:
            options: For `torch.compile`, such as backend="inductor".

        Raises:
            ValueError: The family cannot.
        """
        raise InputError(f"{type(self).__name__} has no passes that are compiled; leave compile out, or set it false")

    def choose_rollout(self, rollout: str) -> None:
        """Chooses how sessions opened from now on compute, for a family that knows several ways.

        Raises:
            ValueError: The family does not know this one.
        """
        raise InputError(f"{type(self).__name__} computes a rollout in one way; got rollout {rollout!r}: leave it out")

    @property
    def precision(self) -> str:
        """One of `flashwam.core.precision.PRECISIONS`: how its blocks multiply."""
        if self.built_on is not None:
            return getattr(self, self.built_on).precision
        return "fp8" if is_rounded(self) else "own"

    def choose_precision(self, precision: str) -> None:
        """Chooses how the linear layers of the blocks (`adapter_targets`) multiply in rollouts from now on; of what is
        built on another model (`built_on`), that one's.

        Args:
            precision: "own", in the numbers of the weights, or "fp8", which rounds the weights where they are: a model
                that was rounded is neither trained nor saved.

        Raises:
            ValueError: It is no precision, the family names no layers, adapters are not merged, the device has no fp8,
                or the model has been rounded and is to be as it was.
        """
        check_precision(precision)
        if precision == self.precision:
            return
        if precision == "own":
            raise InputError("the weights have been rounded to fp8, and what they were is gone: load the model again")
        if self.built_on is not None:
            getattr(self, self.built_on).choose_precision(precision)
            return
        targets = [
            target for each in self.modules() if isinstance(each, WorldActionModel) for target in each.adapter_targets
        ]
        round_layers(self, targets)

    @property
    def warm_up_chunks(self) -> int:
        """Chunks of an episode that meets every kind of pass, where kinds have to be compiled or recorded; else 0."""
        return 0

    @property
    def warm_up_sessions(self) -> int:
        """Sessions at a time that have to be made ready, where each has recordings of its own."""
        return 1

    def pass_tokens(self, frames: int) -> int | None:
        """Tokens of one sample in `velocity` over F = `frames`, text aside; None if a family cannot say."""
        return None

    def draw_tokens(self, stage: tuple[str, ...]) -> int | None:
        """Tokens of one sample in a rollout's pass that draws the streams of a stage, past and text aside; None if a
        family cannot say."""
        return None

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


def _by_hand(kind: type, names: Sequence[str]) -> str:
    stated = ", ".join(f"{name}=..." for name in names)
    return f"{kind.__name__} sets {list(names)} by hand: a family states them in its layout, Layout({stated}, ...)"
