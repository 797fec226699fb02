# SPDX-License-Identifier: Apache-2.0
"""LingBot-VA's own server loop, as it runs and with every pass captured, on our blocks.

N + 1 video and M + 1 action passes (the last of each only writes the cache), two passes that refresh the cache with
what was seen and done, all at batch 2 under guidance, text keys and values made anew in every pass. A full window keeps
what the original's cache holds, see eviction "permanent" of `LingBotConfig`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from sizes import STREAMS
from timing import Clock, Replayed
from torch import Tensor
from torch.nn import functional

from flashwam.core.noise import NoiseSchedule
from flashwam.wam.lingbot_va import LingBotVA
from flashwam.wam.lingbot_va.cache import BlockCache, RolloutCache
from flashwam.wam.lingbot_va.transformer import Segment

__all__ = ["SHIFT", "CapturedLoop", "PublishedLoop", "SlotCache"]

SHIFT = {"video": 5.0, "action": 1.0}


class PublishedLoop:
    """The original server's loop.

    Args:
        wam: The model.
        text: [1, L, D].
        null_text: [L, D].
        steps: Stream name -> N or M.
        guided: Whether every pass runs at batch 2.
        seen: Stream name -> a chunk as it really was.
        history: Chunks in the cache before each that is drawn; a full window goes on, and stays as full.
    """

    def __init__(
        self,
        wam: LingBotVA,
        text: Tensor,
        null_text: Tensor,
        *,
        steps: dict[str, int],
        guided: bool,
        seen: dict[str, Tensor],
        history: int,
    ) -> None:
        self.wam, self.steps, self.seen, self.history = wam, steps, seen, history
        self.text = torch.cat([text, null_text[None]]) if guided else text
        self.tokens = {name: wam.chunk_frames * wam.transformer.tokens_per_frame(name, seen[name]) for name in STREAMS}
        self.cache = self.make_cache()
        self.index = self.evicted = 0
        self.drawn: dict[str, Tensor] = {}
        self.clock = Clock(text.device)
        for _ in range(history):
            self.refresh()

    def make_cache(self) -> RolloutCache:
        """An empty one."""
        return BlockCache(self.wam.transformer.config.num_layers, self.text.shape[0], **self.cache_options())

    def cache_options(self) -> dict[str, Any]:
        """Keywords that every cache has."""
        config = self.wam.transformer.config
        return {
            "heads": config.num_attention_heads,
            "head_dim": config.attention_head_dim,
            "window": self.wam.window_chunks,
            "dtype": self.text.dtype,
            "device": self.text.device,
        }

    def restart(self) -> None:
        """Goes back to the chunk that is timed; a full window is as full after another."""
        if 2 * self.history > self.wam.window_chunks:
            return
        self.cache.blocks.clear()
        self.index = self.evicted = 0
        for _ in range(self.history):
            self.refresh()

    def run(self, stream: str, x: Tensor, sigma: float, *, keep: bool | None = None) -> Tensor:
        """One pass; `keep` says whether its tokens stay as predicted ones (True), as real ones (False), or go."""
        x = x.expand(self.text.shape[0], -1, -1, -1, -1)
        index = 2 * self.index + STREAMS.index(stream)
        self.evicted = max(self.evicted, index - self.wam.window_chunks)
        self.cache.open([(index, self.tokens[stream])], first=[self.evicted])
        level = torch.full(x.shape[:1] + x.shape[2:3], 1000 * sigma, device=x.device)
        velocity = self.velocity(stream, x, level)
        if keep is not None:
            self.cache.close([(index, keep)])
        if velocity.shape[0] == 1:
            return velocity
        with_text, without = velocity.chunk(2)
        return torch.lerp(without, with_text, 5.0) if stream == "video" else with_text

    def velocity(self, stream: str, x: Tensor, level: Tensor) -> Tensor:
        """Of the opened pass."""
        transformer = self.wam.transformer
        segment = Segment(stream, x, level, self.index * self.wam.chunk_frames)
        return transformer.cached_pass([segment], text=transformer.text_key_value(self.text), cache=self.cache)

    def refresh(self) -> None:
        """Puts what was seen and done into the cache."""
        self.cache.drop_predicted()
        for stream in STREAMS:
            self.run(stream, self.seen[stream], 0.0, keep=False)
        self.index += 1
        self.cache.forget(2 * self.index)

    def chunk(self) -> dict[str, float]:
        """Draws a chunk and observes it; gives seconds by stage."""
        seconds = {}
        self.clock()
        for stream in STREAMS:
            x = torch.randn_like(self.seen[stream])
            grid = NoiseSchedule(shift=SHIFT[stream]).sampling_grid(self.steps[stream]).tolist()
            for level, following in zip(grid, grid[1:], strict=False):
                x = x + (following - level) * self.run(stream, x, level).to(x.dtype)
            self.run(stream, x, 0.0, keep=True)
            self.drawn[stream] = x
            seconds[stream] = self.clock()
        self.refresh()
        seconds["cache"] = self.clock()
        return seconds


class SlotCache(RolloutCache):
    """A window's keys and values at fixed addresses: every block overwrites the one that leaves as it comes.

    Args:
        layers: See `RolloutCache`.
        rows: See `RolloutCache`.
        window: Odd, so that whole chunks are held.
        tokens: Stream name -> tokens of one chunk.
        options: Further arguments of `RolloutCache`.
    """

    fixed_shapes = True

    def __init__(self, layers: int, rows: int, *, window: int, tokens: dict[str, int], **options: Any) -> None:
        if window % 2 == 0:
            raise ValueError(f"a ring holds whole chunks, so the window must be odd; got {window}")
        self.slots = window + 1
        sizes = [tokens[name] for name in STREAMS] * (self.slots // 2)
        self.places = [(sum(sizes[:slot]), sum(sizes[: slot + 1])) for slot in range(self.slots)]
        super().__init__(layers, rows, window=window, capacity=sum(sizes), **options)
        self.held: dict[int, tuple[int, bool]] = {}
        """Slot -> block id and whether it is predicted."""
        self.own = 0
        self.seen: tuple[int, ...] = ()
        """Slots that the opened block sees, its own among them."""
        self._masks: dict[tuple[int, ...], Tensor] = {}

    def open(
        self, blocks: Sequence[tuple[int, int]], *, first: Sequence[int] | None = None, rows: int | None = None
    ) -> None:
        """See `RolloutCache.open`; one block at a time."""
        ((index, _),), (lowest,) = blocks, self._first(blocks, first)
        self.own = index % self.slots
        self.held.pop(self.own, None)
        seen = {slot for slot, (block, _) in self.held.items() if lowest <= block < index}
        self.seen = tuple(sorted(seen | {self.own}))

    def begin(self) -> None:
        """See `RolloutCache.begin`; there is nothing."""

    def attend(self, layer: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """See `RolloutCache.attend`."""
        begin, end = self.places[self.seen[0]][0], self.places[self.seen[-1]][1]
        mask = None if len(self.seen) == self.seen[-1] - self.seen[0] + 1 else self._mask()

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.write(layer, k, v)
            keys, values = self.buffer[0, layer, :, :, begin:end], self.buffer[1, layer, :, :, begin:end]
            return functional.scaled_dot_product_attention(q, keys, values, attn_mask=mask)

        return attend

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """See `RolloutCache.write`."""
        begin, end = self.places[self.own]
        self.buffer[0, layer, :, :, begin:end] = k
        self.buffer[1, layer, :, :, begin:end] = v

    def close(self, blocks: Sequence[tuple[int, bool]]) -> None:
        """See `RolloutCache.close`."""
        for index, predicted in blocks:
            self.held[index % self.slots] = (index, predicted)

    def drop_predicted(self) -> None:
        """See `RolloutCache.drop_predicted`."""
        self.held = {slot: block for slot, block in self.held.items() if not block[1]}

    def forget(self, index: int) -> None:
        """See `RolloutCache.forget`: a block is overwritten by the one that takes its place."""

    def _mask(self) -> Tensor:
        """[1, places]: what is seen, where that is not one stretch; made once, for graphs know it by its address."""
        if self.seen not in self._masks:
            begin, end = self.places[self.seen[0]][0], self.places[self.seen[-1]][1]
            mask = torch.zeros(1, end - begin, dtype=torch.bool)
            for slot in self.seen:
                mask[:, self.places[slot][0] - begin : self.places[slot][1] - begin] = True
            self._masks[self.seen] = mask.to(self.buffer.device)
        return self._masks[self.seen]


class CapturedLoop(PublishedLoop):
    """The same loop with every pass recorded, text and all; it draws one chunk of an episode again and again."""

    cache: SlotCache

    def __init__(self, *args: Any, **options: Any) -> None:
        self._recorded: dict[tuple[int, str, tuple[int, ...]], Replayed] = {}
        self._recording = False
        super().__init__(*args, **options)
        self._recording = True
        begin, end = self._own_places()
        self._before = (self.index, self.evicted, dict(self.cache.held), self.cache.buffer[..., begin:end, :].clone())

    def make_cache(self) -> SlotCache:
        """See `PublishedLoop.make_cache`."""
        layers = self.wam.transformer.config.num_layers
        return SlotCache(layers, self.text.shape[0], tokens=self.tokens, **self.cache_options())

    def restart(self) -> None:
        """See `PublishedLoop.restart`; what the chunk overwrote comes back."""
        self.index, self.evicted, held, overwritten = self._before
        self.cache.held = dict(held)
        begin, end = self._own_places()
        self.cache.buffer[..., begin:end, :] = overwritten

    def velocity(self, stream: str, x: Tensor, level: Tensor) -> Tensor:
        """See `PublishedLoop.velocity`."""
        if not self._recording:
            return super().velocity(stream, x, level)
        key = (self.index, stream, self.cache.seen)
        if key not in self._recorded:
            # The tables of rotations are made on the host, the first time.
            super().velocity(stream, x, level)
            self._recorded[key] = Replayed(lambda *given: PublishedLoop.velocity(self, stream, *given), (x, level))
        return self._recorded[key](x, level)

    def _own_places(self) -> tuple[int, int]:
        """Begin and end of the chunk's places in the ring."""
        slot = 2 * self.index % self.cache.slots
        return self.cache.places[slot][0], self.cache.places[slot + 1][1]
