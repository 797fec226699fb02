# SPDX-License-Identifier: Apache-2.0
"""Kernels of one captured chunk by kind of work, young and with a full window.

    python benchmarks/chunk_profile.py --device cuda --dtype bfloat16
    python benchmarks/chunk_profile.py --sizes tiny --rollout dynamic --history 2        shows on a CPU that it runs

By torch's profiler: the device's own time, and launches, of a student's chunk of 1v/1a; beside it the chunk's
milliseconds by the host's clock, unprofiled. On a CPU the times are of calls of torch.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from common import about, keep
from loops import our_ways
from sizes import ROBOTWIN, SIZES, random_wam
from timing import spread
from torch.profiler import ProfilerActivity, profile

from flashwam.core.precision import PRECISIONS

KINDS = {
    "norms, rotations, gates, GELU": ("triton_",),
    "attention": ("_attend", "_join", "sdpa", "flash", "fmha", "attention"),
    "keys and values into the ring": ("_write", "index_copy", "index_elementwise"),
    "products": ("nvjet", "gemm", "cutlass", "addmm", "aten::mm", "_scaled_mm"),
}
"""Kind of work -> parts of its kernels' names; the first one that fits."""
OTHERS = "copies and others"


def by_kind(found: Iterable[tuple[str, float, int]]) -> dict[str, dict[str, float]]:
    """Sums kernels (name, microseconds, launches) by kind of work."""
    sums = {kind: {"ms": 0.0, "launches": 0} for kind in (*KINDS, OTHERS)}
    for name, microseconds, launches in found:
        fitting = (kind for kind, parts in KINDS.items() if any(part in name for part in parts))
        one = sums[next(fitting, OTHERS)]
        one["ms"] += microseconds / 1000
        one["launches"] += launches
    return {kind: one for kind, one in sums.items() if one["launches"]}


@torch.no_grad()
def measure(wam: Any, history: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One student with one history."""
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    steps = {"video": 1, "action": 1}
    way = our_ways(wam, arguments.rollout, history=history, steps=steps, device=device, dtype=dtype)[0]
    loop, chunks = way.build(), []
    for _ in range(arguments.rounds + 2):
        loop.restart()
        chunks.append(1000 * sum(loop.chunk().values()))
    loop.restart()
    cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiled:
        loop.chunk()
    events = profiled.key_averages()
    kernels = [(e.key, e.self_device_time_total if cuda else e.self_cpu_time_total, e.count) for e in events]
    kinds = by_kind(sorted((one for one in kernels if one[1]), key=lambda one: -one[1]))
    return {"name": way.name, "history": history, "chunk_ms": spread(chunks[2:]), "kinds": kinds}


def table(results: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = ["| loop | history | chunk ms | work | ms | launches |", "|---|---:|---:|---|---:|---:|"]
    for one in results:
        head = f"| {one['name']} | {one['history']} | {one['chunk_ms']['median']:.1f}"
        for kind, sums in one["kinds"].items():
            lines.append(f"{head} | {kind} | {sums['ms']:.2f} | {sums['launches']} |")
        total = sum(sums["ms"] for sums in one["kinds"].values())
        launches = sum(sums["launches"] for sums in one["kinds"].values())
        lines.append(f"{head} | all | {total:.2f} | {launches} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", choices=SIZES, default="real")
    parser.add_argument("--history", nargs="+", type=int, default=[2, 36])
    parser.add_argument("--rollout", default="graphed", choices=["dynamic", "static", "compiled", "graphed"])
    parser.add_argument("--precision", nargs="+", default=["own"], choices=PRECISIONS)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--out", type=Path, default=Path("runs/chunk_profile"))
    arguments = parser.parse_args()
    run = about(__file__, arguments, device=arguments.device)
    made = {"device": torch.device(arguments.device), "dtype": getattr(torch, arguments.dtype), "rollout": "dynamic"}
    torch.manual_seed(0)
    wam = random_wam(arguments.sizes, ROBOTWIN, **made).eval().requires_grad_(False)
    results: list[dict[str, Any]] = []
    for precision in sorted(set(arguments.precision), key=PRECISIONS.index):
        wam.choose_precision(precision)
        for history in arguments.history:
            results.append(measure(wam, history, arguments))
            keep(arguments.out, torch.device(arguments.device).type, run, {"results": results}, table(results))
    print(table(results))


if __name__ == "__main__":
    main()
