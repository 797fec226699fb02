# SPDX-License-Identifier: Apache-2.0
"""Latency of a chunk in closed loop: the published loop against ours, teacher and student, side by side in one run.

    python benchmarks/rollout.py                          small sizes, CPU; writes analysis/results/rollout
    python benchmarks/rollout.py --sizes real --device cuda --dtype bfloat16 --rollout dynamic graphed
    python benchmarks/rollout.py ... --precision own fp8  students with 8-bit linear layers too, which a CPU emulates
    python benchmarks/rollout.py --sizes "cogvideox 2b" "cogvideox 5b" --device cuda --dtype bfloat16

The transformer alone, at batch 1 with random weights: no pictures, no autoencoder, no text encoder (`serving.py` times
those). The published loop is that of `published_loop.py`. It runs on our blocks and our cache, which copy less than the
original's. Every chunk has the same history: a young one's episode begins anew for each chunk, a full window goes on.
On a CPU all take turns, chunk by chunk, so that a busy machine slows them alike. On a GPU each has the card to itself,
so that the peak of its memory, with the weights, is its own.
"""

import argparse
import gc
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from ceilings import Ceilings
from common import about, keep, progress
from joint_loops import joint_ways
from loops import Loop, Way, our_ways, published_ways
from rollout_table import table
from sizes import JOINT_SIZES, ROBOTWIN, SIZES, STREAMS, random_joint_wam, random_wam
from timing import forget_peak, peak_bytes, spread

from flashwam.core.precision import PRECISIONS

MANY = 20
"""A chunk of more passes has its own number of rounds."""
WARM = 2
"""Chunks before those that are timed; one where a chunk has so many passes."""


def rows_of(ways: list[Way], *, rounds: int, slow_rounds: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """Measures ways one after the other on a GPU, in turns on a CPU."""
    counts = {way.name: slow_rounds if way.passes > MANY else rounds for way in ways}
    if device.type == "cuda":
        for way in ways:
            yield from together([way], counts, device)
    else:
        yield from together(ways, counts, device)


def together(ways: list[Way], counts: dict[str, int], device: torch.device) -> Iterator[dict[str, Any]]:
    """Warms up, then takes turns; a way that cannot run here says why and stops none of the others."""
    gc.collect()
    forget_peak(device)
    loops: dict[str, Loop] = {}
    warm: dict[str, float] = {}
    failed: dict[str, str] = {}
    for way in ways:
        if way.captured and device.type != "cuda":
            failed[way.name] = "a CPU has no CUDA graphs"
            continue
        progress(way.name)
        began = time.perf_counter()
        try:
            loops[way.name] = way.build()
            for _ in range(WARM if way.passes <= MANY else 1):
                loops[way.name].restart()
                loops[way.name].chunk()
        except Exception as error:
            # Of a few minutes with a GPU, a way that fails must not take the others'.
            traceback.print_exc()
            loops.pop(way.name, None)
            failed[way.name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        warm[way.name] = time.perf_counter() - began
    timed: dict[str, list[dict[str, float]]] = {name: [] for name in loops}
    for number in range(max(counts.values())):
        for name, loop in loops.items():
            if number < counts[name]:
                loop.restart()
                timed[name].append(loop.chunk())
    peak = peak_bytes(device) if len(ways) == 1 else None
    for way in ways:
        row = {"name": way.name, "passes": way.passes, "tokens": round(way.tokens)}
        if way.name in failed:
            yield {**row, "ms": None, "why": failed[way.name]}
        else:
            yield {**row, **summary(timed[way.name]), "warm_up_seconds": warm[way.name], "peak_bytes": peak}


def summary(chunks: list[dict[str, float]]) -> dict[str, Any]:
    """Medians in milliseconds by stage, and the chunk's spread."""
    whole = spread([1000 * sum(seconds.values()) for seconds in chunks])
    stages = {key: spread([1000 * seconds[key] for seconds in chunks])["median"] for key in chunks[0]}
    return {"ms": whole["median"], "spread": whole, "stages": stages}


@torch.no_grad()
def measure(arguments: argparse.Namespace, size: str) -> Iterator[dict[str, Any]]:
    """One size with every history: rows, and the floor of those of ours."""
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    torch.manual_seed(0)
    wam = random_wam(size, ROBOTWIN, device=device, dtype=dtype, rollout="dynamic").eval().requires_grad_(False)
    options = {"steps": dict(zip(STREAMS, arguments.steps, strict=True)), "device": device, "dtype": dtype}
    # The published loop's passes, by which it is found: without it nothing is compared.
    facts = {"size": size, "parameters": sum(p.numel() for p in wam.parameters()), "many": sum(arguments.steps) + 4}
    results: dict[int, dict[str, Any]] = {
        history: {**facts, "history": history, "full": 2 * history > wam.window_chunks, "rows": []}
        for history in arguments.history
    }
    # In place, for the peak of its own memory; so what is exact comes first.
    for precision in sorted(set(arguments.precision), key=PRECISIONS.index):
        wam.choose_precision(precision)
        ceilings = Ceilings(wam, device, dtype)
        ways = {
            history: [
                *(way for name in arguments.rollout for way in our_ways(wam, name, history=history, **options)),
                *(published_ways(wam, history=history, **options) if precision == "own" else []),
            ]
            for history in results
        }
        for history, turn in turns(ways, apart=device.type == "cuda"):
            result = results[history]
            counted = {"rounds": arguments.rounds, "slow_rounds": arguments.slow_rounds}
            floors = {way.name: way.floor and ceilings.seconds(way.floor) for way in turn}
            for row in rows_of(turn, **counted, device=device):
                result["rows"].append({**row, "floor": floors[row["name"]]})
                if device.type == "cuda":
                    yield result
            yield result


def turns(ways: dict[int, list[Way]], *, apart: bool) -> list[tuple[int, list[Way]]]:
    """Ways that are measured together: all of a history. `apart`, for a GPU whose time may end: each way alone, the
    quick ones first, and last of all the published loops that were measured with a shorter history already."""
    if not apart:
        return list(ways.items())
    first = min(ways)

    def late(turn: tuple[int, list[Way]]) -> tuple[bool, bool]:
        history, (way,) = turn
        return history != first and way.floor is None, way.passes > MANY

    return sorted(((history, [way]) for history, all_of in ways.items() for way in all_of), key=late)


@torch.no_grad()
def measure_joint(arguments: argparse.Namespace, size: str) -> Iterator[dict[str, Any]]:
    """One size of the family that draws both streams together, whose chunks are alike from the first one on."""
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    torch.manual_seed(0)
    wam = random_joint_wam(size, device=device, dtype=dtype).eval().requires_grad_(False)
    rows: list[dict[str, Any]] = []
    result = {
        "size": size,
        "parameters": sum(p.numel() for p in wam.parameters()),
        "history": None,
        "rows": rows,
    }
    ways = joint_ways(wam, steps=arguments.joint_steps, device=device, dtype=dtype)
    for row in rows_of(ways, rounds=arguments.rounds, slow_rounds=arguments.slow_rounds, device=device):
        rows.append({**row, "floor": None})
        if device.type == "cuda":
            yield result
    yield result


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=[*SIZES, *JOINT_SIZES], default=["6 x 256", "8 x 512"])
    parser.add_argument(
        "--history", nargs="+", type=int, default=[2, 36], help="chunks in the cache; 36 are a full window"
    )
    parser.add_argument("--steps", nargs=2, type=int, default=[25, 50], help="of the teacher, video and action")
    parser.add_argument("--joint-steps", type=int, default=50, help="of a teacher that draws both together")
    parser.add_argument("--rounds", type=int, default=20, help="chunks that are timed")
    parser.add_argument("--slow-rounds", type=int, default=20, help=f"of a chunk with more than {MANY} passes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument(
        "--rollout", nargs="+", default=["dynamic"], choices=["dynamic", "static", "compiled", "graphed"]
    )
    parser.add_argument("--precision", nargs="+", default=["own"], choices=PRECISIONS, help="of the linear layers")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("analysis/results/rollout"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    run = about(__file__, arguments, device=arguments.device)
    rounded = [each for each in PRECISIONS if each in arguments.precision and each != "own"]
    stem = "_".join([torch.device(arguments.device).type, *arguments.rollout, *rounded])
    results: list[dict[str, Any]] = []
    for size in arguments.sizes:
        for result in (measure_joint if size in JOINT_SIZES else measure)(arguments, size):
            if result not in results:
                results.append(result)
            # After every row, so that a run that is stopped has kept what it measured.
            keep(arguments.out, stem, run, {"dtype": arguments.dtype, "results": results}, table(results))
    print(table(results))


if __name__ == "__main__":
    main()
