# SPDX-License-Identifier: Apache-2.0
"""The loops that `rollout.py` times: the published one, the same captured, and ours as teacher and as student."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from ceilings import Pass
from published_loop import SHIFT, CapturedLoop, PublishedLoop
from sizes import STREAMS, TEXT_TOKENS
from timing import Clock
from torch import Tensor

from flashwam.core.consistency import Linear
from flashwam.core.noise import NoiseSchedule
from flashwam.sampling import Rollout, StreamSampler
from flashwam.wam.lingbot_va import LingBotVA

__all__ = ["Loop", "OurLoop", "Way", "our_ways", "published_ways", "with_rollout"]


class Loop(Protocol):
    """Anything that can be timed."""

    def restart(self) -> None:
        """Goes back to the chunk that is timed, which is not counted."""

    def chunk(self) -> dict[str, float]:
        """Draws a chunk and observes it; gives seconds by stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to draw chunks.

    Args:
        name: Of the row.
        passes: Of a chunk.
        tokens: Of a chunk through the blocks, all rows together.
        build: Makes the loop.
        floor: The passes, for the least that they can take; None where that is not asked.
        captured: Whether it is a CUDA graph, which a CPU has not.
    """

    name: str
    passes: int
    tokens: float
    build: Callable[[], Loop]
    floor: tuple[Pass, ...] | None = None
    captured: bool = False


class OurLoop:
    """`flashwam.sampling.Rollout`; what is seen waits for the next chunk's first pass unless `fused` is False."""

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
        fused: bool = True,
    ) -> None:
        self.samplers = {
            stream: StreamSampler(
                schedule=NoiseSchedule(shift=SHIFT[stream]),
                consistency=Linear(),
                steps=steps[stream],
                guidance_scale=5.0 if guided and stream == "video" else 1.0,
            )
            for stream in STREAMS
        }
        first = {stream: x[:, :, :1] for stream, x in seen.items()}
        self.full = 2 * history > wam.window_chunks
        self.begin = partial(Rollout, wam, text=text, first=first, null_text=null_text)
        self.fused, self.seen, self.history = fused, seen, history
        self.clock = Clock(text.device)
        self.rollout: Rollout | None = None

    def _begun(self) -> Rollout:
        """An episode with its history, drawn in one step a stream, since how it was drawn is not seen later."""
        rollout = self.begin({name: replace(sampler, steps=1) for name, sampler in self.samplers.items()})
        rollout.session.fused = self.fused
        for _ in range(self.history):
            rollout.predict()
            rollout.observe(self.seen)
        rollout.samplers = self.samplers
        return rollout

    def restart(self) -> None:
        """See `Loop.restart`; a full window is as full after another chunk."""
        if self.rollout is None or not self.full:
            # First of all the old one goes, for its place in memory.
            self.rollout = None
            self.rollout = self._begun()

    def chunk(self) -> dict[str, float]:
        """See `Loop.chunk`."""
        if self.rollout is None:
            raise RuntimeError("an episode begins with restart()")
        self.rollout.seconds = dict.fromkeys(STREAMS, 0.0)
        self.clock()
        self.rollout.predict()
        total = self.clock()
        self.rollout.observe(self.seen)
        seconds = dict(self.rollout.seconds)
        rest = total - sum(seconds.values())
        return {**seconds, "cache": self.clock() + rest}


def with_rollout(wam: LingBotVA, rollout: str) -> LingBotVA:
    """A model of the same weights, with a cache and recordings of its own."""
    return LingBotVA(wam.transformer, replace(wam.config, rollout=rollout)).eval()


def inputs_of(wam: LingBotVA, history: int, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Text and a chunk of noise in place of what was seen: keywords of every loop."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    width = wam.transformer.config.text_dim
    return {
        "text": random(1, TEXT_TOKENS, width),
        "null_text": random(TEXT_TOKENS, width),
        "seen": {name: random(1, c, wam.chunk_frames, h, w) for name, (c, h, w) in wam.shapes.items()},
        "history": history,
    }


def published_ways(
    wam: LingBotVA, *, history: int, steps: dict[str, int], device: torch.device, dtype: torch.dtype
) -> list[Way]:
    """The original's loop as it runs and captured, with many steps and with one."""
    inputs = inputs_of(wam, history, device, dtype)
    tokens = {name: wam.draw_tokens((name,)) for name in STREAMS}
    # Text keys and values of a pass, in tokens through the trunk: two of its matrices on 512 tokens.
    config = wam.transformer.config
    dim = config.num_attention_heads * config.attention_head_dim
    text_cost = TEXT_TOKENS * 2 * dim / (8 * dim + 2 * config.ffn_dim)

    def way(n: dict[str, int], *, guided: bool, captured: bool = False) -> Way:
        rows, passes = 2 if guided else 1, sum(n.values()) + 4
        loop = CapturedLoop if captured else PublishedLoop
        return Way(
            name=f"published{' captured' if captured else ''} {_steps(n)}{' guided' if guided else ''}",
            passes=passes,
            tokens=rows * (sum((n[name] + 2) * tokens[name] for name in STREAMS) + passes * text_cost),
            build=partial(loop, wam, steps=n, guided=guided, **inputs),
            captured=captured,
        )

    one = {"video": 1, "action": 1}
    return [
        way(steps, guided=True),
        way(steps, guided=True, captured=True),
        way(one, guided=True),
        way(one, guided=False),
        way(one, guided=False, captured=True),
    ]


def our_ways(
    wam: LingBotVA, rollout: str, *, history: int, steps: dict[str, int], device: torch.device, dtype: torch.dtype
) -> list[Way]:
    """Ours, by one kind of rollout: students of one and two action steps, and the teacher; of a rounded model the
    students alone."""
    inputs = inputs_of(wam, history, device, dtype)
    tokens = {name: wam.draw_tokens((name,)) for name in STREAMS}
    exact = wam.precision == "own"
    label = ("" if rollout == "dynamic" else f" {rollout}") + ("" if exact else f" {wam.precision}")

    def way(kind: str, n: dict[str, int], *, guided: bool = False, fused: bool = True) -> Way:
        passes = our_passes(tokens, n, history=history, window=wam.window_chunks, guided=guided, fused=fused)
        return Way(
            name=f"{kind}{label} {_steps(n)}{' guided' if guided else ''}",
            passes=len(passes),
            tokens=sum(each.rows * each.tokens for each in passes),
            build=lambda: OurLoop(with_rollout(wam, rollout), steps=n, guided=guided, fused=fused, **inputs),
            floor=passes,
        )

    one, two = {"video": 1, "action": 1}, {"video": 1, "action": 2}
    ways = [way("student", one), way("student", two)]
    if not exact:
        return ways
    ways.append(way("teacher", steps, guided=True))
    return [*ways, way("student, unfused", one, fused=False)] if rollout == "dynamic" else ways


def our_passes(
    tokens: dict[str, int], n: dict[str, int], *, history: int, window: int, guided: bool, fused: bool
) -> tuple[Pass, ...]:
    """The passes of a chunk: what was seen, and what was imagined, goes with the first pass that needs it."""
    video, action = (tokens[name] for name in STREAMS)
    chunk, rows = video + action, 2 if guided else 1
    past = min(history, window // 2) * chunk
    seen = [Pass(rows, video, past), Pass(rows, action, past)]
    draws = [Pass(rows, video, past + video)] * n["video"]
    acts = [Pass(1, action, past + chunk)] * n["action"]
    if not fused:
        return (*draws, Pass(1, video, past + video), *acts, *seen)
    first = Pass(rows, chunk + video, past + video)
    return (first, *draws[1:], Pass(1, chunk, past + chunk), *acts[1:])


def _steps(n: dict[str, int]) -> str:
    return f"{n['video']}v/{n['action']}a"
