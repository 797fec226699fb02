# SPDX-License-Identifier: Apache-2.0
"""Passes of a rollout that are recorded once and replayed: `rollout: graphed`.

A session runs in a lane: a cache, the text's keys and values and the inputs of every kind of pass, all at fixed
addresses, and a recording for every kind of pass over them. A lane outlives its session and serves the next one, so
what one episode has recorded is there for all that follow.

Shapes: R rows (episodes; twice as many under guidance), d head dimension.
"""

import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from flashwam.wam.lingbot_va.cached_blocks import Trunk, cached_trunk
from flashwam.wam.lingbot_va.compiled_blocks import CompiledTrunk
from flashwam.wam.lingbot_va.layers import KeyValue
from flashwam.wam.lingbot_va.ring_cache import RingCache
from flashwam.wam.lingbot_va.transformer import Segment, WanTransformer3DModel
from flashwam.wam.recording import CannotRecordError, Recorder, Recording, Recordings, casts, tensors_of

__all__ = ["MOST_LANES", "Lane", "Lanes"]

logger = logging.getLogger(__name__)

MOST_LANES = 2
"""Sessions at a time that run in graphs; each has a cache for the whole window to itself."""


@dataclass(frozen=True, slots=True)
class _RecordedPass:
    """One kind of pass: inputs at fixed addresses, and its recording."""

    segments: tuple[Segment, ...]
    rotary: Tensor
    recording: Recording

    def __call__(self, segments: Sequence[Segment], rotary: Tensor) -> Tensor | None:
        for own, given in zip(self.segments, segments, strict=True):
            own.x.copy_(given.x)
            own.timestep.copy_(given.timestep)
        self.rotary.copy_(rotary)
        self.recording.replay()
        result = self.recording.result
        return None if result is None else result.clone()


class Lanes:
    """The lanes of one model.

    Args:
        recorder: Records passes; CUDA graphs if None, which need the model on a GPU.
        most: Sessions at a time.
        compiled: Whether the blocks are compiled too.
        options: For `torch.compile`.

    Attributes:
        most: Sessions at a time.
    """

    def __init__(
        self, recorder: Recorder | None = None, *, most: int = MOST_LANES, compiled: bool = True, **options: Any
    ) -> None:
        self._compiled = CompiledTrunk(tuple(sorted(options.items()))) if compiled else None
        self._made = (recorder, most, compiled, options)
        self._recordings = Recordings(recorder)
        self.most = most
        self._taken = 0
        self._free: list[Lane] = []

    def __deepcopy__(self, memo: Any) -> "Lanes":
        """None of the lanes: they run the model that this was made for."""
        recorder, most, compiled, options = self._made
        return Lanes(recorder, most=most, compiled=compiled, **options)

    @property
    def recorded(self) -> int:
        """Passes recorded so far."""
        return self._recordings.count

    def open(
        self,
        session: object,
        transformer: WanTransformer3DModel,
        text: Sequence[KeyValue],
        *,
        window: int,
        tokens: Mapping[str, int],
    ) -> "Lane":
        """Gives a session a lane, for as long as it lives.

        Args:
            session: It.
            transformer: The network.
            text: Keys and values of its text for every block, [R, heads, L, d] each.
            window: See `RolloutCache`.
            tokens: See `RingCache`.

        Raises:
            CannotRecordError: There is no lane for it, or none can be.
        """
        if len(text) < len(transformer.blocks):
            raise CannotRecordError("it looks at features and runs a part of the blocks alone")
        keys = text[0][0]
        self._recordings.check(keys.device, transformer.blocks)
        kind = (window, tuple(sorted(tokens.items())), keys.shape, keys.dtype, keys.device)
        weights = tuple(p.data_ptr() for p in transformer.parameters())
        # Of a model that has moved nothing that was recorded is of use.
        self._free = [lane for lane in self._free if lane.weights == weights]
        fitting = [lane for lane in self._free if lane.kind == kind]
        lane = max(fitting, key=lambda lane: lane.recorded, default=None)
        if lane is not None:
            self._free.remove(lane)
        elif self._recordings.failed:
            raise CannotRecordError(self._recordings.failed)
        elif self._taken >= self.most:
            raise CannotRecordError(f"{self._taken} sessions run in graphs already, as many as have room")
        else:
            del self._free[: max(0, len(self._free) + self._taken + 1 - self.most)]
            try:
                lane = Lane(self, transformer, text, kind=kind, window=window, tokens=tokens)
            except torch.OutOfMemoryError as error:
                raise CannotRecordError("the device has no memory for the cache of its whole window") from error
        lane.begin(text)
        self._taken += 1
        weakref.finalize(session, self._give_back, lane).atexit = False
        return lane

    def say(self, reason: object) -> None:
        """See `Recordings.say`."""
        self._recordings.say(reason)

    def record(self, work: Callable[[Trunk], Tensor | None]) -> Recording | None:
        """Records one kind of pass and says what had to be left out; None if nothing can be recorded.

        Args:
            work: The pass, with its blocks run by what it is given.
        """
        compiled = None if self._compiled is None else partial(work, self._compiled)
        return self._recordings.record(partial(work, cached_trunk), compiled=compiled)

    def _give_back(self, lane: "Lane") -> None:
        self._taken -= 1
        # One that nothing could be recorded in has a cache for the whole window, and nothing to show for it.
        if lane.recorded or not self._recordings.failed:
            self._free.append(lane)


class Lane:
    """Buffers of one session at a time at fixed addresses, and the passes recorded over them.

    Args:
        lanes: All of the model's.
        transformer: The network.
        text: As in `Lanes.open`; just its shapes are taken.
        kind: See the attribute.
        window: See `RolloutCache`.
        tokens: See `RingCache`.

    Attributes:
        kind: What sessions have to agree on to run in it.
        weights: Where the network's parameters lie.
        cache: The session's past.
        text: Keys and values of its text.
    """

    def __init__(
        self,
        lanes: Lanes,
        transformer: WanTransformer3DModel,
        text: Sequence[KeyValue],
        *,
        kind: object,
        window: int,
        tokens: Mapping[str, int],
    ) -> None:
        self.kind = kind
        # Before anything is recorded: weights that are joined lie elsewhere from then on.
        self._fused = [block.fuse() for block in transformer.blocks[: len(text)]]
        if text[0][0].is_cuda:
            # The places that they left are of other sizes than what comes next.
            torch.cuda.empty_cache()
        self.weights = tuple(p.data_ptr() for p in transformer.parameters())
        # Held, so that what a recording reads is never someone else's memory after a model has moved.
        self._held = tensors_of(transformer)
        self._transformer = transformer
        self._lanes = lanes
        self._passes: dict[object, _RecordedPass | None] = {}
        keys = text[0][0]
        with torch.inference_mode(False):
            self.text = [(torch.empty_like(k), torch.empty_like(v)) for k, v in text]
            self.cache = RingCache(
                len(text),
                keys.shape[0],
                heads=keys.shape[1],
                head_dim=keys.shape[3],
                window=window,
                tokens=tokens,
                dtype=keys.dtype,
                device=keys.device,
            )

    @property
    def recorded(self) -> int:
        """Kinds of passes that it replays."""
        return sum(each is not None for each in self._passes.values())

    def begin(self, text: Sequence[KeyValue]) -> None:
        """Makes ready for another episode."""
        self.cache.reset()
        for own, given in zip(self.text, text, strict=True):
            own[0].copy_(given[0])
            own[1].copy_(given[1])

    def say(self, reason: str) -> None:
        """See `Lanes.say`."""
        self._lanes.say(reason)

    def cached_pass(
        self, segments: Sequence[Segment], *, text: Sequence[KeyValue], cache: RingCache, velocity: bool = True
    ) -> Tensor | None:
        """`WanTransformer3DModel.cached_pass` by a recording, which the first pass of a kind makes.

        Args:
            segments: The opened blocks.
            text: This lane's, or its first rows.
            cache: This lane's.
            velocity: As there.
        """
        shapes = ((part.stream, part.x.shape) for part in segments)
        key = (cache.plan, cache.rows, velocity, casts(cache.buffer.device), *shapes)
        rotary = self._transformer.pass_rotary(segments)
        if key not in self._passes:
            with torch.inference_mode(False), torch.no_grad():
                self._passes[key] = self._record(segments, rotary, text=text, cache=cache, velocity=velocity)
        recorded = self._passes[key]
        if recorded is None:
            return self._transformer.cached_pass(segments, text=text, cache=cache, velocity=velocity)
        return recorded(segments, rotary)

    def _record(
        self, segments: Sequence[Segment], rotary: Tensor, *, cache: RingCache, **how: Any
    ) -> _RecordedPass | None:
        # Whatever dtype the next pass of the kind comes in; the embedders round to the weights' own.
        wide = torch.promote_types(cache.buffer.dtype, torch.float32)
        own = tuple(
            replace(part, x=part.x.to(wide, copy=True), timestep=part.timestep.to(torch.float32, copy=True))
            for part in segments
        )
        turned = rotary.clone()
        recording = self._lanes.record(
            lambda trunk: self._transformer.cached_pass(
                own, rotary=turned, trunk=partial(trunk, fused=self._fused), cache=cache, **how
            )
        )
        return None if recording is None else _RecordedPass(own, turned, recording)
