# SPDX-License-Identifier: Apache-2.0
"""Cached rollout of B episodes in lock-step.

Shapes: B episodes, C channels, F latent frames, H, W the rest of a stream's tokens, L text tokens, D text width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flashwam.system.errors import InputError
from flashwam.wam.lingbot_va.cache import BlockCache, RolloutCache
from flashwam.wam.lingbot_va.cached_blocks import Trunk
from flashwam.wam.lingbot_va.config import check_eviction
from flashwam.wam.lingbot_va.graphed import Lane, Lanes
from flashwam.wam.lingbot_va.masks import STREAM_OFFSET
from flashwam.wam.lingbot_va.patches import keep_used
from flashwam.wam.lingbot_va.ring_cache import RingCache
from flashwam.wam.lingbot_va.transformer import Segment, WanTransformer3DModel
from flashwam.wam.recording import CannotRecordError
from flashwam.wam.session import RolloutSession
from flashwam.wam.taps import FeatureTap

__all__ = ["LingBotSession"]


@dataclass(frozen=True, slots=True)
class _Clean:
    """Clean tokens on their way into the cache."""

    index: int
    stream: str
    x: Tensor
    sigma: Tensor
    start: int
    predicted: bool
    first: int
    """Lowest block that these tokens see."""


class LingBotSession(RolloutSession):
    """A rollout that computes what the masked pass does, one chunk at a time.

    Appended tokens wait for the next velocity and go through the network in the same pass, so a chunk of N video and
    M action steps takes N + M passes, two for a one-step student. A stream whose guidance scale is not 1 runs every
    row twice, with and without text; both halves have their own past in the cache. Everything runs without gradients.

    Args:
        transformer: The network.
        text: Text embeddings, [B, L, D].
        null_text: Embedding of the empty prompt, [L, D]; needed where a guidance scale is not 1.
        guidance: Stream name -> scale w of v = v_null + w (v_text - v_null); 1 where absent.
        window: Reach of attention in blocks, as in the training mask.
        eviction: What of a full window a token still sees, see `LingBotConfig`.
        fused: False runs a pass of its own for appended tokens, which is what fusion is measured against.
        chunk_tokens: Stream name -> tokens of one chunk, for a cache of fixed shapes (`RingCache`); None for one that
            grows with what is in it, which is faster where shapes may change.
        lanes: Where to run in recorded passes; where that cannot be, a growing cache is used, with a warning.
        trunk: Runs the blocks of passes that are not recorded; as the network has it if None.
        used_channels: See `LingBotConfig`.
        depth: Blocks to run and keep; fewer than all for a rollout that is asked for `features` alone.
    """

    def __init__(
        self,
        transformer: WanTransformer3DModel,
        text: Tensor,
        *,
        null_text: Tensor | None = None,
        guidance: Mapping[str, float] | None = None,
        window: int,
        eviction: str = "mask",
        fused: bool = True,
        chunk_tokens: Mapping[str, int] | None = None,
        lanes: Lanes | None = None,
        trunk: Trunk | None = None,
        used_channels: tuple[int, ...] | None = None,
        depth: int | None = None,
    ) -> None:
        guidance = dict(guidance or {})
        unknown = set(guidance) - set(STREAM_OFFSET)
        if unknown:
            raise InputError(f"guidance names unknown streams {sorted(unknown)}; streams are {sorted(STREAM_OFFSET)}")
        self.guidance = {stream: float(guidance.get(stream, 1.0)) for stream in STREAM_OFFSET}
        guided = any(scale != 1.0 for scale in self.guidance.values())
        if guided and null_text is None:
            raise InputError(f"guidance {guidance} needs null_text, the embedding of the empty prompt, [L, D]")
        if guided and null_text.shape != text.shape[1:]:
            raise ValueError(f"null_text must be {tuple(text.shape[1:])} as text is, got {tuple(null_text.shape)}")
        self.frame_index = self._chunk = self._evicted = 0
        self.fused = fused
        self._permanent = check_eviction(eviction) == "permanent"
        self._transformer = transformer
        self._trunk = trunk
        self._used_channels = used_channels
        self._batch = text.shape[0]
        self._observed: list[_Clean] = []
        self._before: list[_Clean] = []
        self._waiting: list[_Clean] = []
        self._imagined: list[_Clean] = []
        self._imagined_rows = 0
        with torch.no_grad():
            if guided:
                text = torch.cat([text, null_text.to(text).expand(self._batch, -1, -1)])
            self._text = transformer.text_key_value(text, depth=depth)
        self._cache: RolloutCache
        self._lane = self._lane_in(lanes, window, chunk_tokens)
        if self._lane is not None:
            self._text, self._cache = self._lane.text, self._lane.cache
            return
        config = transformer.config
        options = {
            "heads": config.num_attention_heads,
            "head_dim": config.attention_head_dim,
            "window": window,
            "dtype": self._text[0][0].dtype,
            "device": self._text[0][0].device,
        }
        if chunk_tokens is None or lanes is not None:
            self._cache = BlockCache(self.depth, text.shape[0], **options)
        else:
            self._cache = RingCache(self.depth, text.shape[0], tokens=chunk_tokens, **options)

    def _lane_in(self, lanes: Lanes | None, window: int, chunk_tokens: Mapping[str, int] | None) -> Lane | None:
        if lanes is None or chunk_tokens is None:
            return None
        try:
            return lanes.open(self, self._transformer, self._text, window=window, tokens=chunk_tokens)
        except CannotRecordError as error:
            lanes.say(error)
            return None

    @property
    def depth(self) -> int:
        """Blocks that are run and kept."""
        return len(self._text)

    @property
    def blocks(self) -> tuple[tuple[int, int, bool], ...]:
        """(block id, tokens, predicted) of everything that the current chunk can see, oldest first."""
        held = [(block.index, block.end - block.begin, block.predicted) for block in self._cache.blocks]
        held += [(part.index, self._tokens(part), part.predicted) for part in self._waiting]
        first = self._evicted if self._permanent else 2 * self._chunk - self._cache.window
        return tuple(block for block in held if block[0] >= first)

    @torch.no_grad()
    def velocity(self, noisy: Mapping[str, Tensor], sigma: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `RolloutSession.velocity`."""
        if len(noisy) != 1:
            raise ValueError(f"one stream is drawn at a time; got {sorted(noisy)}")
        if self.depth < len(self._transformer.blocks):
            raise RuntimeError(f"this session runs {self.depth} blocks, for features alone: open one with session()")
        ((stream, x),) = noisy.items()
        self._check(stream, x)
        x, level = keep_used(stream, x, self._used_channels), sigma[stream]
        scale = self.guidance[stream]
        if scale == 1.0:
            return {stream: self._pass(stream, x, level, rows=self._batch)}
        both = self._pass(stream, _twice(x), _twice(level), rows=2 * self._batch)
        with_text, without = both.chunk(2)
        return {stream: torch.lerp(without, with_text, scale)}

    @torch.no_grad()
    def features(self, noisy: Mapping[str, Tensor], sigma: Mapping[str, Tensor], *, blocks: Sequence[int]) -> Tensor:
        """See `RolloutSession.features`; needs the video alone."""
        if "video" not in noisy:
            raise ValueError(f"features are of noisy video; got {sorted(noisy)}")
        tap = FeatureTap(blocks, self.depth)
        x = noisy["video"]
        self._check("video", x)
        if self._lane is not None:
            self._lane.say("features are looked at in passes of their own, which are not recorded")
        if tap.depth < self.depth:
            # What waits must be kept of every block.
            self._write_waiting()
        self._pass("video", x, sigma["video"], rows=self._batch, tap=tap)
        return tap.maps(self._transformer.video_grid(x))

    @torch.no_grad()
    def append(self, stream: str, clean: Tensor, *, predicted: bool, sigma: Tensor | None = None) -> None:
        """See `RolloutSession.append`; `sigma` [B, F] is the level these tokens are embedded at, 0 by default."""
        self._check(stream, clean)
        clean = keep_used(stream, clean, self._used_channels)
        if not predicted and (self._imagined or any(part.predicted for part in self._waiting)):
            raise RuntimeError("the cache holds predicted tokens: call drop_predicted() before observed ones")
        if not predicted and any(part.stream == stream for part in self._observed):
            raise RuntimeError(f"{stream} of this chunk was appended already: call advance(frames) first")
        if not predicted and self._cache.fixed_shapes and any(p.index < 2 * self._chunk for p in self._waiting):
            self._write_waiting()
        if sigma is None:
            sigma = clean.new_zeros(self._batch, clean.shape[2], dtype=torch.float32)
        part = self._part(stream, clean, sigma, predicted=predicted)
        self._waiting.append(part)
        if not predicted:
            self._observed.append(part)
        if not self.fused:
            self._write_waiting()

    def drop_predicted(self) -> None:
        """See `RolloutSession.drop_predicted`."""
        self._cache.drop_predicted()
        self._imagined.clear()
        self._waiting = [part for part in self._waiting if not part.predicted]

    def advance(self, frames: int) -> None:
        """See `RolloutSession.advance`."""
        wrong = {part.stream: part.x.shape[2] for part in self._observed if part.x.shape[2] != frames}
        if wrong or frames < 1:
            raise ValueError(f"advance({frames}) does not fit the latent frames appended in this chunk: {wrong}")
        self.frame_index += frames
        self._chunk += 1
        self._before, self._observed = self._observed, []

    @torch.no_grad()
    def amend(self, seen: Mapping[str, Tensor]) -> None:
        """See `RolloutSession.amend`: the chunk's blocks from the first amended one on see again what they saw."""
        if self._imagined or any(part.predicted for part in self._waiting):
            raise RuntimeError("the cache holds predicted tokens: call drop_predicted() before what was really seen")
        if self._observed:
            raise RuntimeError("what was seen of the chunk before comes before this chunk's own")
        for stream, x in seen.items():
            self._check(stream, x)
            held = sum(part.x.shape[2] for part in self._before if part.stream == stream)
            if x.shape[2] > held:
                raise ValueError(f"got {x.shape[2]} frames of {stream}; the chunk before has {held}")
        self._before = [self._amended(part, seen) for part in self._before]
        lowest = min((part.index for part in self._before if part.stream in seen), default=2 * self._chunk)
        self._cache.drop_from(lowest)
        self._waiting = [part for part in self._waiting if part.index < lowest]
        self._waiting += [part for part in self._before if part.index >= lowest]
        if not self.fused:
            self._write_waiting()

    def _amended(self, part: _Clean, seen: Mapping[str, Tensor]) -> _Clean:
        if part.stream not in seen:
            return part
        x = keep_used(part.stream, seen[part.stream].to(part.x), self._used_channels)
        return replace(part, x=torch.cat([part.x[:, :, : part.x.shape[2] - x.shape[2]], x], 2))

    @property
    def _rows(self) -> int:
        """Rows of the cache: B, or 2B where some stream is guided."""
        return self._text[0][0].shape[0]

    def _pass(
        self, stream: str, noisy: Tensor, sigma: Tensor, *, rows: int, tap: FeatureTap | None = None
    ) -> Tensor | None:
        """Velocity of noisy tokens; None where a tap takes their hidden states."""
        if self._imagined and rows > self._imagined_rows:
            # Written for the rows that an unguided stream needed; a guided one wants its other half too.
            self._cache.drop_predicted()
            self._waiting = self._imagined + self._waiting
            self._imagined = []
        if rows < self._rows and any(not part.predicted for part in self._waiting):
            self._write_waiting()
        current = self._part(stream, noisy, sigma, predicted=True)
        return self._run([*self._waiting, current], rows=rows, velocity=True, tap=tap)

    def _part(self, stream: str, x: Tensor, sigma: Tensor, *, predicted: bool) -> _Clean:
        """A stream's tokens of this chunk, that come now."""
        index = 2 * self._chunk + STREAM_OFFSET[stream]
        return _Clean(
            index=index,
            stream=stream,
            x=x,
            sigma=sigma,
            start=self.frame_index,
            predicted=predicted,
            first=self._first(index),
        )

    def _first(self, index: int) -> int:
        """Lowest block that tokens of block `index` see, if they come now."""
        first = index - self._cache.window
        if self._permanent:
            first = self._evicted = max(self._evicted, first)
        return first

    def _write_waiting(self) -> None:
        if self._waiting:
            self._run(self._waiting, rows=self._rows, velocity=False)

    def _run(self, parts: list[_Clean], *, rows: int, velocity: bool, tap: FeatureTap | None = None) -> Tensor | None:
        """One pass; the waiting tokens in it stay in the cache, a velocity's do not."""
        # This chunk's video may still come, and the chunk before may come again as it really was.
        self._cache.forget(min(parts[0].index, 2 * self._chunk - 2))
        self._cache.open(
            [(part.index, self._tokens(part)) for part in parts], first=[part.first for part in parts], rows=rows
        )
        text = self._text
        if rows < self._rows:
            text = [(k[:rows], v[:rows]) for k, v in text]
        segments = [
            Segment(part.stream, _rows_of(part.x, rows), 1000.0 * _rows_of(part.sigma, rows), part.start)
            for part in parts
        ]
        if tap is None and self._lane is not None:
            out = self._lane.cached_pass(segments, text=text, cache=self._lane.cache, velocity=velocity)
        else:
            out = self._transformer.cached_pass(
                segments, text=text, cache=self._cache, velocity=velocity, tap=tap, trunk=self._trunk
            )
        self._cache.close([(part.index, part.predicted) for part in self._waiting])
        imagined = [part for part in self._waiting if part.predicted]
        if imagined:
            self._imagined_rows = min(rows, self._imagined_rows) if self._imagined else rows
            self._imagined += imagined
        self._waiting = []
        return out

    def _tokens(self, part: _Clean) -> int:
        return part.x.shape[2] * self._transformer.tokens_per_frame(part.stream, part.x)

    def _check(self, stream: str, x: Tensor) -> None:
        if stream not in STREAM_OFFSET:
            raise ValueError(f"stream must be one of {sorted(STREAM_OFFSET)}, got {stream!r}")
        if x.shape[0] != self._batch:
            raise ValueError(f"this session runs {self._batch} episodes in lock-step, got a batch of {x.shape[0]}")


def _twice(x: Tensor) -> Tensor:
    return torch.cat([x, x])


def _rows_of(x: Tensor, rows: int) -> Tensor:
    """[B, ...] as [rows, ...] with rows B or 2B."""
    return x if x.shape[0] == rows else _twice(x)
