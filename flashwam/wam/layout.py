# SPDX-License-Identifier: Apache-2.0
"""The facts that a model states about itself, once: its streams, the shape of a chunk, and how it is drawn.

Letters: C channels, F latent frames of a chunk, H and W the rest of a stream's tokens, L text tokens, D text width.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from numbers import Integral
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from flashwam.system.errors import InputError

__all__ = ["Layout"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """Streams and chunks of a `WorldActionModel`; the first three fields are needed, the others have a default.

    Args:
        streams: Names in generation order, such as ("video", "action"). Steps are written by their first letters.
        shapes: Stream name -> (C, H, W) of its tensors; actions are (A, N, 1) with N actions per latent frame.
        chunk_frames: F, latent frames drawn at a time.
        stages: The streams in generation order, grouped: those of a stage are drawn together and see each other's
            noise; a later stage is drawn given the earlier ones. Left out, every stream is a stage of its own.
        conditions_on_first: How a chunk is told what was observed. False: as clean tokens, frame 0 of an episode in
            its own noisy slot at sigma 0, all later ones as the past. True: frame 0 of every chunk is the latest
            observation, given as a condition (`clean` of that frame); its noisy slot is noised and predicted like the
            others, and nothing older is known.
        execute_frames: Latent frames of a chunk, beyond those observed already, that are executed before the next
            chunk is drawn. Left out, all of them.
        frame_levels: Whether the frames of one stream may stand at different noise levels.
        probes: Streams that are looked at once, from pure noise, and never drawn; whole stages. `velocity` is not
            asked for them and needs `noise` in its context.
        senses: What is observed beside the streams, such as the robot's "state": name -> numbers. It comes with the
            clean tokens, of every frame, as [B, numbers, F, 1, 1]; for a model that `conditions_on_first`.
        predicted: Stream name -> bool, broadcastable to [C, F, H, W] of a chunk: False where nothing is put out, so
            that no loss is taken there. Streams that are put out whole are absent.
        text_shape: (L, D) of the text embeddings that the model is made for; None where any will do.

    Raises:
        ValueError: The facts contradict each other; the sentence names the field, the value and the way out.
    """

    streams: tuple[str, ...]
    shapes: Mapping[str, tuple[int, int, int]]
    chunk_frames: int
    stages: tuple[tuple[str, ...], ...] = ()
    conditions_on_first: bool = False
    execute_frames: int | None = None
    frame_levels: bool = True
    probes: tuple[str, ...] = ()
    senses: Mapping[str, int] = field(default_factory=dict)
    predicted: Mapping[str, Tensor] = field(default_factory=dict)
    text_shape: tuple[int | None, int | None] = (None, None)

    def __post_init__(self) -> None:
        self._settle("streams", _names(self.streams, "streams"))
        _check_streams(self.streams)
        self._settle("shapes", _shapes(self.shapes, self.streams))
        if not _positive(self.chunk_frames):
            raise InputError(
                f"chunk_frames must be a positive integer, frames drawn at a time; got {self.chunk_frames!r}"
            )
        self._settle("stages", _stages(self.stages, self.streams))
        self._settle("execute_frames", self._executed())
        self._settle("probes", _names(self.probes, "probes"))
        self._check_probes()
        self._settle("senses", MappingProxyType(dict(self.senses)))
        self._check_senses()
        self._settle("predicted", MappingProxyType(dict(self.predicted)))
        self._check_predicted()
        self._settle("text_shape", tuple(self.text_shape))
        if len(self.text_shape) != 2 or not all(x is None or _positive(x) for x in self.text_shape):
            raise InputError(f"text_shape must be (tokens, width), each an integer or None; got {self.text_shape}")

    @property
    def observed_shapes(self) -> dict[str, tuple[int, int, int]]:
        """Stream or sense -> (C, H, W) of its tensors: everything that a rollout is told of each frame."""
        return {**self.shapes, **{name: (size, 1, 1) for name, size in self.senses.items()}}

    @property
    def never_imagined(self) -> tuple[str, ...]:
        """Streams of which nothing stands for what is not seen yet, where a chunk is drawn while actions of the one
        before are under way; none for a model that begins its chunk at what was seen last."""
        return () if self.conditions_on_first else tuple(name for name in self.probes if name != "action")

    def whole_stages(self, names: Collection[str]) -> set[str]:
        """Some streams and those that are drawn together with them."""
        return {name for stage in self.stages if not set(stage).isdisjoint(names) for name in stage}

    def __reduce__(self) -> tuple[Callable[[], "Layout"], tuple[()]]:
        # Read-only mappings can be neither copied nor pickled.
        kept: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        plain = {key: dict(x) if isinstance(x, Mapping) else x for key, x in kept.items()}
        return partial(Layout, **plain), ()

    def _settle(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _executed(self) -> int:
        """`execute_frames`, checked; of a chunk that begins with the observation that frame is not executed."""
        most = self.chunk_frames - int(self.conditions_on_first)
        if not most:
            raise InputError(
                "a chunk that begins with the observation (conditions_on_first) has nothing to execute in 1 frame: set "
                "chunk_frames to 2 or more"
            )
        asked = most if self.execute_frames is None else self.execute_frames
        if not _positive(asked) or asked > most:
            raise InputError(
                f"execute_frames must be 1 to {most}, the frames of a chunk that are drawn and not observed already; "
                f"got {asked!r}"
            )
        return int(asked)

    def _check_probes(self) -> None:
        _refuse_unknown("probes", self.probes, self.streams)
        missing = sorted(self.whole_stages(self.probes) - set(self.probes))
        if missing:
            raise InputError(f"probes are whole stages of {self.stages}: {list(self.probes)} leaves out {missing}")
        if set(self.probes) == set(self.streams):
            raise InputError(f"probes are never drawn, and with all of {self.streams} among them nothing would be")

    def _check_senses(self) -> None:
        wrong = {name: size for name, size in self.senses.items() if name in self.streams or not _positive(size)}
        if wrong:
            raise InputError(
                f"senses must be names beside the streams {self.streams}, each with a positive count; got {wrong}"
            )
        if self.senses and not self.conditions_on_first:
            raise InputError(
                f"senses {list(self.senses)} come with the observation that a chunk begins with: set "
                "conditions_on_first too"
            )

    def _check_predicted(self) -> None:
        _refuse_unknown("predicted", self.predicted, self.streams)
        for name, mask in self.predicted.items():
            channels, height, width = self.shapes[name]
            whole = (channels, self.chunk_frames, height, width)
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                raise InputError(f"predicted[{name!r}] must be a bool tensor; got {getattr(mask, 'dtype', mask)!r}")
            if mask.ndim != 4 or any(size not in (1, full) for size, full in zip(mask.shape, whole, strict=True)):
                raise InputError(
                    f"predicted[{name!r}] must be broadcastable to {whole}, channels, frames, height and width of a "
                    f"chunk; got {tuple(mask.shape)}"
                )


def _positive(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) > 0


def _names(given: object, what: str) -> tuple[str, ...]:
    """A sequence of strings as a tuple; a string is none."""
    if isinstance(given, str) or not isinstance(given, Collection) or not all(isinstance(x, str) for x in given):
        raise InputError(f'{what} must be a tuple of names, such as ("video", "action"); got {given!r}')
    return tuple(given)


def _refuse_unknown(what: str, names: Collection[str], streams: tuple[str, ...]) -> None:
    unknown = [name for name in names if name not in streams]
    if unknown:
        raise InputError(f"{what} names {unknown}; the streams are {list(streams)}")


def _check_streams(streams: tuple[str, ...]) -> None:
    if not streams or not all(streams) or len(set(streams)) < len(streams):
        raise InputError(
            f'streams must name at least one stream, each once, such as ("video", "action"); got {streams}'
        )
    if len({name[0] for name in streams}) < len(streams):
        raise InputError(
            f"streams must begin with different letters, by which steps are written (1v/2a); got {streams}"
        )


def _shapes(given: Mapping[str, Any], streams: tuple[str, ...]) -> Mapping[str, tuple[int, int, int]]:
    if not isinstance(given, Mapping):
        raise InputError(f"shapes must give (channels, height, width) by stream, of each of {streams}; got {given!r}")
    missing = [name for name in streams if name not in given]
    if missing:
        raise InputError(f"shapes must give (channels, height, width) of every stream of {streams}; missing {missing}")
    _refuse_unknown("shapes", given, streams)
    return MappingProxyType({name: _shape(name, given[name]) for name in streams})


def _shape(name: str, given: Any) -> tuple[int, int, int]:
    if isinstance(given, Collection) and not isinstance(given, str) and len(given) == 3 and all(map(_positive, given)):
        channels, height, width = map(int, given)
        return channels, height, width
    raise InputError(
        f"shapes[{name!r}] must be three positive integers, (channels, height, width) or (channels, actions per frame, "
        f"1); got {given!r}"
    )


def _stages(given: Any, streams: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """The stages, checked; one per stream where none are given."""
    stages = tuple(_names(stage, "each of stages") for stage in given) or tuple((name,) for name in streams)
    flat = [name for stage in stages for name in stage]
    _refuse_unknown("stages", flat, streams)
    missing, twice = ([n for n in streams if flat.count(n) == 0], [n for n in streams if flat.count(n) > 1])
    if missing or twice:
        wrong = f"{missing} in none" if missing else f"{twice} in more than one"
        raise InputError(f"stages must hold every stream of {streams} once; got {stages}, with {wrong}")
    if flat != list(streams):
        raise InputError(f"stages must group the streams in their order {streams}; got {stages}")
    return stages
