# SPDX-License-Identifier: Apache-2.0
"""Latency of a chunk in closed loop: the published loop against ours, teacher and student, side by side in one run.

    python benchmarks/rollout.py                          small sizes, CPU; writes analysis/results/rollout
    python benchmarks/rollout.py --sizes real --device cuda --dtype bfloat16 --rollout graphed

The published loop is LingBot-VA's server algorithm: N + 1 video and M + 1 action passes (the last of each only writes
the cache), two passes that refresh the cache with what was seen and done, all at batch 2 under guidance, text keys
and values made anew in every pass. It runs on our blocks and our cache, which copy less than the original's.
All contenders take turns, chunk by chunk, so that a busy machine slows them alike; medians over chunks.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from common import about, keep
from torch import Tensor

from flashwam.core.consistency import Linear
from flashwam.core.noise import NoiseSchedule
from flashwam.sampling import Rollout, StreamSampler
from flashwam.wam.lingbot_va import LingBotVA
from flashwam.wam.lingbot_va.cache import BlockCache
from flashwam.wam.lingbot_va.transformer import Segment

STREAMS = ("video", "action")
SHIFT = {"video": 5.0, "action": 1.0}
ROBOTWIN = {"latent_size": (24, 20), "chunk_frames": 2, "actions_per_frame": 16}
SIZES = {
    "6 x 256": {"num_layers": 6, "num_attention_heads": 8, "attention_head_dim": 32, "ffn_dim": 1024, "text_dim": 64},
    "8 x 512": {"num_layers": 8, "num_attention_heads": 16, "attention_head_dim": 32, "ffn_dim": 2048, "text_dim": 64},
    "real": {"text_dim": 4096},
}
TEXT_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way to draw chunks: `chunk()` draws one and observes it, and returns seconds by stage."""

    name: str
    passes: float
    tokens: float
    chunk: Callable[[], dict[str, float]]


class Clock:
    """Seconds since the last call, after the device has finished."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.last = device, 0.0

    def __call__(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        passed, self.last = now - self.last, now
        return passed


class PublishedLoop:
    """The original server's loop.

    Args:
        wam: The model.
        text: [1, L, D].
        null_text: [L, D].
        steps: Stream name -> N or M.
        guided: Whether every pass runs at batch 2.
        seen: Stream name -> a chunk as it really was.
        history: Chunks in the cache before the first.
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
        self.wam, self.steps, self.seen = wam, steps, seen
        self.text = torch.cat([text, null_text[None]]) if guided else text
        config = wam.transformer.config
        self.cache = BlockCache(
            config.num_layers,
            self.text.shape[0],
            heads=config.num_attention_heads,
            head_dim=config.attention_head_dim,
            window=wam.window_chunks,
            dtype=text.dtype,
            device=text.device,
        )
        self.index = 0
        self.clock = Clock(text.device)
        for _ in range(history):
            self.refresh()

    def run(self, stream: str, x: Tensor, sigma: float, *, keep: bool | None = None) -> Tensor:
        """One pass; `keep` says whether its tokens stay as predicted ones (True), as real ones (False), or go."""
        transformer = self.wam.transformer
        x = x.expand(self.text.shape[0], -1, -1, -1, -1)
        index = 2 * self.index + STREAMS.index(stream)
        self.cache.open([(index, x.shape[2] * transformer.tokens_per_frame(stream, x))])
        level = torch.full(x.shape[:1] + x.shape[2:3], 1000 * sigma, device=x.device)
        segment = Segment(stream, x, level, self.index * self.wam.chunk_frames)
        velocity = transformer.cached_pass([segment], text=transformer.text_key_value(self.text), cache=self.cache)
        if keep is not None:
            self.cache.close([(index, keep)])
        if velocity.shape[0] == 1:
            return velocity
        with_text, without = velocity.chunk(2)
        return torch.lerp(without, with_text, 5.0) if stream == "video" else with_text

    def refresh(self) -> None:
        """Puts what was seen and done into the cache."""
        self.cache.drop_predicted()
        for stream in STREAMS:
            self.run(stream, self.seen[stream], 0.0, keep=False)
        self.index += 1
        self.cache.forget(2 * self.index)

    def chunk(self) -> dict[str, float]:
        """Draws a chunk and observes it."""
        seconds = {}
        self.clock()
        for stream in STREAMS:
            x = torch.randn_like(self.seen[stream])
            count = self.steps[stream]
            grid = [*NoiseSchedule(shift=SHIFT[stream]).sampling_grid(count).tolist()]
            for level, following in zip(grid, grid[1:], strict=False):
                x = x + (following - level) * self.run(stream, x, level).to(x.dtype)
            self.run(stream, x, 0.0, keep=True)
            seconds[stream] = self.clock()
        self.refresh()
        seconds["cache"] = self.clock()
        return seconds


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
        samplers = {
            stream: StreamSampler(
                schedule=NoiseSchedule(shift=SHIFT[stream]),
                consistency=Linear(),
                steps=steps[stream],
                guidance_scale=5.0 if guided and stream == "video" else 1.0,
            )
            for stream in STREAMS
        }
        first = {stream: x[:, :, :1] for stream, x in seen.items()}
        self.rollout = Rollout(wam, samplers, text=text, first=first, null_text=null_text)
        self.rollout.session.fused = fused
        self.seen = seen
        self.clock = Clock(text.device)
        for _ in range(history):
            self.rollout.observe(seen)

    def chunk(self) -> dict[str, float]:
        """Draws a chunk and observes it."""
        self.rollout.seconds = dict.fromkeys(STREAMS, 0.0)
        self.clock()
        self.rollout.predict()
        total = self.clock()
        self.rollout.observe(self.seen)
        seconds = dict(self.rollout.seconds)
        rest = total - sum(seconds.values())
        return {**seconds, "cache": self.clock() + rest}


def contenders(
    wam: LingBotVA, *, history: int, steps: dict[str, int], device: torch.device, dtype: torch.dtype
) -> list[Contender]:
    """All of them on one model; passes and trunk tokens per chunk counted, not timed."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    width = wam.transformer.config.text_dim
    text, null_text = random(1, TEXT_TOKENS, width), random(TEXT_TOKENS, width)
    seen = {name: random(1, c, wam.chunk_frames, h, w) for name, (c, h, w) in wam.shapes.items()}
    inputs = {"seen": seen, "history": history}
    tokens = {name: wam.chunk_frames * wam.transformer.tokens_per_frame(name, seen[name]) for name in STREAMS}
    one, both = {"video": 1, "action": 1}, sum(tokens.values())
    # Text keys and values of a pass, in tokens through the trunk: two of its matrices on 512 tokens.
    config = wam.transformer.config
    dim = config.num_attention_heads * config.attention_head_dim
    text_cost = TEXT_TOKENS * 2 * dim / (8 * dim + 2 * config.ffn_dim)

    def published(n: dict[str, int], guided: bool) -> Contender:
        rows = 2 if guided else 1
        passes = sum(n.values()) + 4
        cost = rows * (sum((n[name] + 2) * tokens[name] for name in STREAMS) + passes * text_cost)
        loop = PublishedLoop(wam, text, null_text, steps=n, guided=guided, **inputs)
        label = f"published {n['video']}v/{n['action']}a{' guided' if guided else ''}"
        return Contender(name=label, passes=passes, tokens=cost, chunk=loop.chunk)

    def ours(label: str, n: dict[str, int], *, guided: bool, fused: bool = True) -> Contender:
        rows = 2 if guided else 1
        cost = rows * n["video"] * tokens["video"] + n["action"] * tokens["action"]
        cost += rows * both + tokens["video"]
        loop = OurLoop(wam, text, null_text, steps=n, guided=guided, fused=fused, **inputs)
        passes = sum(n.values()) + (0 if fused else 3)
        name = f"{label} {n['video']}v/{n['action']}a{' guided' if guided else ''}"
        return Contender(name=name, passes=passes, tokens=cost, chunk=loop.chunk)

    return [
        published(steps, True),
        published(one, True),
        published(one, False),
        ours("teacher", steps, guided=True),
        ours("student, unfused", one, guided=False, fused=False),
        ours("student", one, guided=False),
    ]


def machine_floor(wam: LingBotVA, tokens: float, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Operations, weight bytes and the seconds they take at the speed of this machine's own matrix products."""
    blocks = sum(p.numel() for p in wam.transformer.blocks.parameters())
    config = wam.transformer.config
    dim = config.num_attention_heads * config.attention_head_dim
    x, weight = torch.randn(272, dim, device=device, dtype=dtype), torch.randn(config.ffn_dim, dim, device=device)
    weight = weight.to(dtype)
    clock, best = Clock(device), float("inf")
    for _ in range(30):
        clock()
        torch.nn.functional.linear(x, weight)
        best = min(best, clock())
    speed = 2 * x.shape[0] * weight.numel() / best
    operations = 2 * blocks * tokens
    return {
        "operations": operations,
        "weight_bytes_per_pass": blocks * torch.finfo(dtype).bits // 8,
        "matmul_operations_per_second": speed,
        "seconds": operations / speed,
    }


def measure(ways: list[Contender], *, rounds: int) -> list[dict[str, object]]:
    """Medians over `rounds` chunks of each contender, in turns; the first round warms up."""
    seen: dict[str, list[dict[str, float]]] = {way.name: [] for way in ways}
    for number in range(rounds + 1):
        for way in ways:
            seconds = way.chunk()
            if number:
                seen[way.name].append(seconds)
    rows = []
    for way in ways:
        stages = {key: 1000 * statistics.median(s[key] for s in seen[way.name]) for key in seen[way.name][0]}
        total = 1000 * statistics.median(sum(s.values()) for s in seen[way.name])
        rows.append(
            {"name": way.name, "passes": way.passes, "tokens": round(way.tokens), "ms": total, "stages": stages}
        )
    return rows


def table(results: list[dict]) -> str:
    """All results as Markdown."""
    lines = []
    for result in results:
        rows = result["rows"]
        slow, fast = rows[0]["ms"], rows[-1]["ms"]
        lines += [
            f"### {result['size']} ({result['parameters']:,} parameters), {result['history']} chunks of history",
            "",
            "| loop | passes | tokens | video ms | action ms | cache ms | chunk ms | published / it | it / student |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            stages = " | ".join(f"{row['stages'][key]:.1f}" for key in (*STREAMS, "cache"))
            lines.append(
                f"| {row['name']} | {row['passes']} | {row['tokens']:,} | {stages} | {row['ms']:.1f} | "
                f"{slow / row['ms']:.1f} | {row['ms'] / fast:.1f} |"
            )
        floor = result["floor"]
        lines += [
            "",
            f"Floor of the student: {floor['operations'] / 1e9:.2f} Gop in the blocks, "
            f"{1000 * floor['seconds']:.1f} ms at this machine's matrix product "
            f"({floor['matmul_operations_per_second'] / 1e9:.0f} Gop/s); it takes "
            f"{fast / 1000 / floor['seconds']:.1f} times that.",
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["6 x 256", "8 x 512"])
    parser.add_argument("--history", nargs="+", type=int, default=[2, 16], help="chunks in the cache")
    parser.add_argument("--steps", nargs=2, type=int, default=[25, 50], help="of the teacher, video and action")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rollout", default="dynamic", choices=["dynamic", "static", "compiled", "graphed"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("analysis/results/rollout"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    steps = dict(zip(STREAMS, arguments.steps, strict=True))
    run = about(__file__, arguments, device=arguments.device)
    stem = f"{device.type}_{arguments.rollout}"
    results = []
    for size in arguments.sizes:
        torch.manual_seed(0)
        config = {**ROBOTWIN, **SIZES[size], "rollout": arguments.rollout}
        with torch.device(device):
            wam = LingBotVA.create(window_chunks=71, **config).to(dtype).eval().requires_grad_(False)
        for history in arguments.history:
            with torch.no_grad():
                ways = contenders(wam, history=history, steps=steps, device=device, dtype=dtype)
                rows = measure(ways, rounds=arguments.rounds)
            result = {
                "size": size,
                "parameters": sum(p.numel() for p in wam.parameters()),
                "history": history,
                "rows": rows,
                "floor": machine_floor(wam, ways[-1].tokens, device, dtype),
            }
            results.append(result)
            print(table([result]), flush=True)
            # After every setting, so that a run that is stopped has kept what it measured.
            keep(arguments.out, stem, run, {"results": results}, table(results))


if __name__ == "__main__":
    main()
