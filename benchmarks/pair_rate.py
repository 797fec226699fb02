# SPDX-License-Identifier: Apache-2.0
"""Pairs a second and steps a second of the methods that need them, on the device that is given.

    python benchmarks/pair_rate.py --sizes real --device cuda --precision bf16    RoboTwin's recipes, adapters alone
    python benchmarks/pair_rate.py                                                the miniature, CPU

`pairs` draws its teacher's chunks before it trains, `on_policy` while it does. What is made and trained is what the
recipes say, on random windows and weights; data are not read. Beside the recipe's whole counts at the measured speed
stand the hours that `flashwam plan` says of them without a measurement.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import about, keep, progress
from method_step import RandomWindows
from sizes import SIZES
from timing import Clock, forget_peak, peak_bytes, shown, spread
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.distillation.draws import Draws
from flashwam.distillation.futures import TeacherFuture
from flashwam.distillation.methods import find_method, make_method
from flashwam.distillation.methods.base import Method
from flashwam.distillation.methods.options import option
from flashwam.distillation.pair_source import NOISE
from flashwam.distillation.roles import frozen_copy
from flashwam.distillation.rollouts import RolloutStore
from flashwam.distillation.strategy import half_autocast
from flashwam.plan import plan_training
from flashwam.plan.sizes import text_shape
from flashwam.recipe.load import load_recipe
from flashwam.recipe.sections import Recipe
from flashwam.sampling import samplers_for
from flashwam.wam import family
from flashwam.wam.base import WorldActionModel

_ADAPTERS = ["distill.lora={rank: 64, alpha: 64}", "distill.strategy=single"]
RECIPES: dict[str, dict[str, tuple[str, list[str]]]] = {
    "real": {"pairs": ("robotwin/pairs_lora", []), "on_policy": ("robotwin/on_policy", _ADAPTERS)},
    "tiny": {"pairs": ("metaworld/pairs", []), "on_policy": ("metaworld/on_policy", [])},
}
Row = dict[str, Any]


class Bench:
    """One recipe's method on random data.

    Args:
        recipe: The recipe.
        device: Where.
        half: Under bfloat16, as `precision: bf16` trains.
    """

    def __init__(self, recipe: Recipe, *, device: torch.device, half: bool) -> None:
        self.recipe, self.device, self.half = recipe, device, half
        torch.manual_seed(0)
        with torch.device(device):
            self.wam: WorldActionModel = family(recipe.wam.family).create(**recipe.wam.config)
        lora = recipe.distill.lora is not None
        self.teacher = self.wam if lora else frozen_copy(self.wam, "teacher")
        if half:
            self.teacher.to(torch.bfloat16)
        length, width = text_shape(recipe, self.wam)
        self.windows = RandomWindows(
            self.wam.shapes, recipe.data.window_frames, width or recipe.wam.config["text_dim"], text_tokens=length
        )
        self.clock = Clock(device)

    def autocast(self) -> torch.autocast:
        """As the loop computes."""
        return half_autocast(self.device.type, enabled=self.half)

    def make(self, groups: int, at_once: int) -> list[Row]:
        """Seconds of a pair whose chunk is a window's first, and of one in its middle, which stands for all later."""
        frames = self.wam.chunk_frames
        chunks = self.recipe.data.window_frames // frames
        rows = []
        with tempfile.TemporaryDirectory() as folder:
            future = TeacherFuture(self.teacher, samplers_for(self.recipe.streams, steps=None, teacher=True))
            store = RolloutStore(folder, future, frames=frames, batch_size=at_once)
            for chunk in sorted({0, chunks // 2}):
                seconds = []
                for number in range(groups + 1):
                    first = (chunk * (groups + 1) + number) * at_once
                    numbers = list(range(first, first + at_once))
                    batch = self.windows.batch(numbers).frames_of(slice((chunk + 1) * frames))
                    self.clock()
                    with self.autocast():
                        store.complete([lambda batch=batch, numbers=numbers: (batch, numbers)], progress=False)
                    seconds.append(self.clock() / at_once)
                rows.append({"what": f"a pair after {chunk} chunks", "chunk": chunk, **_measured(seconds[1:])})
        return rows

    def method(self) -> Method:
        """As the loop makes it; after drawing, `pairs` has no teacher."""
        method = make_method(self.recipe.distill, self.recipe.streams, self.wam, teacher=self.teacher, seed=0)
        if not method.keeps_teacher:
            method.roles.teacher = None
        method.roles.place_whole(self.device)
        return method

    def train(self, rounds: int, *, pairs: bool) -> Row:
        """Seconds of a sample: forward and backward pass, and the optimiser's share as often as the recipe steps."""
        method, loop = self.method(), self.recipe.distill
        trained = [p for p in method.roles.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)
        rows = min(loop.batch_size, 8)
        batch = self._batch(rows, pairs=pairs).to(self.device)
        passes, updates = [], []
        for number in range(rounds + 1):
            draws = Draws(seed=0, step=number, positions=range(rows), device=self.device)
            self.clock()
            with self.autocast():
                loss = method.loss(batch, draws).loss
            loss.backward()
            passes.append(self.clock() / rows)
            torch.nn.utils.clip_grad_norm_(trained, 2.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            method.after_step(0.995)
            updates.append(self.clock())
        measured = _measured(passes[1:])
        update = spread(updates[1:])["median"]
        samples = loop.batch_size * loop.accumulation
        step = samples * measured["seconds"] + update
        return {
            "what": "a sample of a step",
            **measured,
            "samples_at_once": rows,
            "update_seconds": update,
            "step_seconds": step,
            "hours": loop.steps * step / 3600,
        }

    def _batch(self, rows: int, *, pairs: bool) -> Batch:
        batch = self.windows.batch(list(range(rows)))
        if not pairs:
            return batch
        frames, chunks = self.wam.chunk_frames, batch.frames // self.wam.chunk_frames
        batch = batch.frames_of(slice((chunks // 2 + 1) * frames))
        noise: dict[str, Tensor] = {
            f"{NOISE}{name}": torch.randn_like(x[:, :, -frames:]) for name, x in batch.clean.items()
        }
        return replace(batch, extra=noise)


def _measured(seconds: list[float]) -> dict[str, Any]:
    whole = spread(seconds)
    return {"seconds": whole["median"], "spread": whole, "per_second": 1 / whole["median"]}


def measure(name: str, arguments: argparse.Namespace) -> Iterator[Row]:
    """One method: what it draws first, then a step of it."""
    device = torch.device(arguments.device)
    path, overrides = RECIPES[arguments.sizes][name]
    chosen_attention = [] if arguments.attention is None else [f"wam.config.attention={arguments.attention}"]
    recipe = load_recipe(path, [*overrides, *chosen_attention])
    plan = plan_training(recipe, gpus=1)
    forget_peak(device)
    progress(f"{name}: the model")
    bench = Bench(recipe, device=device, half=arguments.precision == "bf16")
    told = {"method": name, "recipe": path}
    if plan.drawing is not None:
        progress("draws")
        chosen = partial(option, find_method(name), recipe.distill.options)
        at_once = arguments.at_once or chosen("drawn_at_once")
        rows = bench.make(arguments.groups, at_once)
        rows[-1]["peak_bytes"] = peak_bytes(device)
        share = chosen("first_share")
        share = 1 / (recipe.data.window_frames // bench.wam.chunk_frames) if share is None else share
        each = share * rows[0]["seconds"] + (1 - share) * rows[-1]["seconds"]
        guess = plan.drawing.seconds
        rows.append(
            {
                "what": f"all {plan.drawing.prepared.count:,} pairs",
                "seconds": each,
                "per_second": 1 / each,
                "hours": plan.drawing.prepared.count * each / 3600,
                "planned_hours": None if guess is None else [seconds / 3600 for seconds in guess],
            }
        )
        yield from ({**told, **row} for row in rows)
    progress("steps")
    forget_peak(device)
    trained = bench.train(arguments.rounds, pairs=name == "pairs")
    planned = None if plan.time.seconds is None else [plan.time.seconds / 3600]
    yield {**told, **trained, "planned_hours": planned, "peak_bytes": peak_bytes(device)}


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "Hours are the recipe's whole count on one device of this kind at the measured speed; planned: what `flashwam "
        "plan` says without it. A pair is drawn, checked and written to disk. p5 and p95 in brackets.",
        "",
        "| recipe | what | seconds | a second | hours | planned hours | peak GiB |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        ends = f" ({row['spread']['p5']:.3f}, {row['spread']['p95']:.3f})" if "spread" in row else ""
        planned = row.get("planned_hours")
        cells = [
            f"{row['seconds']:.3f}{ends}",
            f"{row['per_second']:.2f}",
            f"{row['hours']:.2f}" if "hours" in row else "",
            " to ".join(f"{hours:.2f}" for hours in planned) if planned else "",
            shown(row["peak_bytes"], ".2f", scale=2**-30) if "peak_bytes" in row else "",
        ]
        lines.append(f"| {row['recipe']} | {row['what']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", choices=[size for size in SIZES if size in RECIPES], default="tiny")
    parser.add_argument("--methods", nargs="+", choices=RECIPES["real"], default=list(RECIPES["real"]))
    parser.add_argument("--groups", type=int, default=20, help="of pairs that are drawn at once, for each place")
    parser.add_argument("--at-once", type=int, help="pairs of a group (default: the recipe's drawn_at_once)")
    parser.add_argument("--rounds", type=int, default=20, help="steps that are timed")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="no", choices=["no", "bf16"])
    parser.add_argument("--attention", choices=["sdpa", "flex"], help="of training passes (default: the recipe's)")
    parser.add_argument("--out", type=Path, default=Path("analysis/results/pair_rate"))
    arguments = parser.parse_args()
    run = about(__file__, arguments, device=arguments.device)
    rows: list[Row] = []
    failed: list[str] = []

    def page() -> str:
        return "\n".join([table(rows), *failed])

    def kept() -> None:
        # After every row, so that a run that is stopped has kept what it measured.
        keep(arguments.out, torch.device(arguments.device).type, run, {"results": rows, "failed": failed}, page())

    for name in arguments.methods:
        try:
            for row in measure(name, arguments):
                rows.append(row)
                kept()
        except Exception as error:
            # Of a few minutes with a GPU, a method that fails must not take the others'.
            failed.append(f"{name} was not measured: {type(error).__name__}: {error}")
            kept()
    print(page())
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
