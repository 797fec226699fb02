# SPDX-License-Identifier: Apache-2.0
"""Seconds and memory of a step of three methods on the miniature: consistency, on-policy, stored pairs.

    python benchmarks/method_step.py          writes analysis/results/method_step

Each as its recipe in recipes/metaworld says, on random windows and weights. Time: all in turns in one process, medians.
Memory: what the method's models, their gradients and AdamW hold while it trains, counted; and the peak of a process
that does nothing else, with the draws before training in it.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import about, keep

from flashwam.core.batch import Batch
from flashwam.distillation.draws import Draws
from flashwam.distillation.methods import Method, make_method
from flashwam.distillation.roles import frozen_copy
from flashwam.distillation.setup import Setup
from flashwam.recipe.load import load_recipe
from flashwam.wam import family

RECIPES = ("flash_wam", "on_policy", "pairs")
TEXT_TOKENS = 8


class RandomWindows:
    """Windows of noise; draw i depends on i alone."""

    def __init__(
        self, shapes: dict[str, tuple[int, int, int]], frames: int, width: int, *, text_tokens: int = TEXT_TOKENS
    ) -> None:
        self.shapes, self.frames, self.width, self.text_tokens = shapes, frames, width, text_tokens

    def beginnings(self, *, several_ways: int = 1) -> "RandomWindows":
        """See `flashwam.distillation.setup.Beginnings`."""
        return self

    def batch(self, indices: list[int]) -> Batch:
        """See `flashwam.distillation.setup.Source`."""
        generator = torch.Generator().manual_seed(indices[0])
        rows = len(indices)
        clean = {
            n: torch.randn(rows, c, self.frames, h, w, generator=generator) for n, (c, h, w) in self.shapes.items()
        }
        given = torch.zeros(rows, self.frames, dtype=torch.bool)
        given[:, 0] = True
        return Batch(
            clean=clean,
            history=clean,
            mask={name: torch.ones_like(x, dtype=torch.bool) for name, x in clean.items()},
            given=given,
            text=torch.randn(rows, self.text_tokens, self.width, generator=generator),
            null_text=torch.zeros(self.text_tokens, self.width),
            index=torch.tensor(indices),
        )


def build(name: str, arguments: argparse.Namespace) -> tuple[Callable[[int], None], Callable[[], int]]:
    """One method: its step, and the bytes that it holds after one."""
    recipe = load_recipe(f"metaworld/{name}")
    torch.manual_seed(0)
    wam = family(recipe.wam.family).create(**recipe.wam.config)
    method = make_method(recipe.distill, recipe.streams, wam, teacher=frozen_copy(wam, "teacher"))
    windows = RandomWindows(wam.shapes, recipe.data.window_frames, recipe.wam.config["text_dim"])
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(
            data=Path(folder),
            streams=recipe.streams,
            seed=0,
            batch_size=arguments.samples,
            batches=arguments.rounds + 1,
        )
        source = method.source(windows, setup)
        places = [range(k * arguments.samples, (k + 1) * arguments.samples) for k in range(arguments.rounds + 1)]
        batches = [source.batch(list(place)) for place in places]
    method.roles.place_whole("cpu")
    optimizer = torch.optim.AdamW(method.roles.model.parameters(), lr=1e-3, fused=True)

    def step(number: int) -> None:
        draws = Draws(seed=0, step=number, positions=range(arguments.samples))
        method.loss(batches[number], draws).loss.backward()
        torch.nn.utils.clip_grad_norm_(method.roles.model.parameters(), 2.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.after_step(0.995)

    return step, lambda: held_bytes(method, optimizer)


def held_bytes(method: Method, optimizer: torch.optim.Optimizer) -> int:
    """Weights of all models, the student's gradients and the optimiser's moments."""
    roles = method.roles
    models = [model for model in (roles.model, roles.teacher, roles.target, roles.reference) if model is not None]
    count = sum(p.numel() for model in models for p in model.parameters())
    count += sum(p.numel() for p in roles.model.parameters())
    moments = [x for state in optimizer.state.values() for x in state.values() if x.ndim]
    return 4 * (count + sum(x.numel() for x in moments))


def peak_of(name: str, arguments: argparse.Namespace) -> int:
    """Peak bytes of a process that takes two steps of one method."""
    given = [f"--{key}={getattr(arguments, key)}" for key in ("samples", "threads")]
    command = [sys.executable, __file__, *given, "--rounds=1", "--only", name]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def measure(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Memory of each alone, then time in turns."""
    peaks = {name: peak_of(name, arguments) for name in RECIPES}
    built = {name: build(name, arguments) for name in RECIPES}
    seconds: dict[str, list[float]] = {name: [] for name in RECIPES}
    for number in range(arguments.rounds + 1):
        for name, (step, _) in built.items():
            # Of the process alone: others on the machine take no part in it.
            began = time.process_time()
            step(number)
            if number:
                seconds[name].append(time.process_time() - began)
    return [
        {
            "recipe": name,
            "cpu_seconds": statistics.median(seconds[name]),
            "held_bytes": built[name][1](),
            "peak_bytes": peaks[name],
        }
        for name in RECIPES
    ]


def table(rows: list[dict]) -> str:
    """The rows as Markdown, with ratios to the first."""
    lines = ["| recipe | CPU seconds a step | of flash_wam | held MiB | of flash_wam | peak of the process, MiB |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for row in rows:
        slower = row["cpu_seconds"] / rows[0]["cpu_seconds"]
        larger = row["held_bytes"] / rows[0]["held_bytes"]
        lines.append(
            f"| {row['recipe']} | {row['cpu_seconds']:.3f} | {slower:.2f} | {row['held_bytes'] / 2**20:.1f} | "
            f"{larger:.2f} | {row['peak_bytes'] / 2**20:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=8, help="a step")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=RECIPES, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("analysis/results/method_step"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only:
        step, _ = build(arguments.only, arguments)
        for number in range(2):
            step(number)
        print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    run = about(__file__, arguments)
    rows = measure(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    keep(arguments.out, "cpu", run, {"results": rows}, table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
