# SPDX-License-Identifier: Apache-2.0
"""Seconds and memory of one distillation step: the published step, ours, and ours with low-rank adapters.

    python benchmarks/distill_step.py                     small sizes, CPU; writes analysis/results/distill_step
    python benchmarks/distill_step.py --sizes real --device cuda --precision bf16 --samples 1 \\
        --ways "ours, LoRA 32" "ours, LoRA 32, compiled" "ours, LoRA 32, flex" "ours, LoRA 32, compiled, flex"

The published step keeps three whole copies (teacher, student, target) and runs the teacher once with and once without
text, each over every token; with several teacher sub-steps it does so in each. It runs on our network, which leaves out
tokens that nobody sees; the original does not.
On a CPU time is taken in turns and memory in a process for each; on a GPU each has the card to itself. Three whole
copies of the real model do not fit a card: the low-rank steps do. With a way that has flex attention, attention is
timed alone too, at the lengths of both recipes.
"""

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ceilings import Ceilings
from common import about, keep, progress
from masked_attention import attention_rows, attention_table
from sizes import LIBERO, SIZES, TEXT_TOKENS, random_wam
from timing import NOT_MEASURED, Clock, forget_peak, peak_bytes, shown, spread
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.core.losses import flow_matching_loss, pseudo_huber
from flashwam.core.noise import append_dims
from flashwam.core.streams import StreamSpec
from flashwam.distillation.draws import Draws
from flashwam.distillation.methods import make_method
from flashwam.distillation.methods.base import reduce_elements
from flashwam.distillation.methods.consistency import jump_levels
from flashwam.distillation.methods.states import start_states, training_levels
from flashwam.distillation.roles import ema_update, frozen_copy
from flashwam.distillation.strategy import half_autocast
from flashwam.recipe.sections import LoopConfig, LoraConfig
from flashwam.wam.lingbot_va import LingBotVA

SUBSTEPS = "4 sub-steps"
WAYS = (
    "published",
    "ours",
    "ours, LoRA 32",
    f"published, {SUBSTEPS}",
    f"ours, {SUBSTEPS}",
    f"ours, LoRA 32, {SUBSTEPS}",
)
# Passes of a step, one being the student's forward: see analysis/results/distill_step/floor.md.
PASSES = dict(zip(WAYS, (6.0, 5.83, 4.9, 12.0, 8.71, 7.8), strict=True))
COMPILED, FLEX = "compiled", "flex"
FASTER = {f"{way}, {how}": way for way in ("ours", "ours, LoRA 32") for how in (COMPILED, FLEX, f"{COMPILED}, {FLEX}")}
"""Ways with compiled blocks, with flex attention and with both -> what they do otherwise."""
PASSES |= {way: PASSES[plain] for way, plain in FASTER.items()}
FRAMES = 16
Step = Callable[[int], Tensor]
"""Does the step of a number; its loss."""


def streams(substeps: int = 1) -> dict[str, StreamSpec]:
    """Flash-WAM's published choices, and how many Euler steps the teacher takes over a jump."""
    video = {"shift": 5.0, "consistency": "lcm", "guidance": [2, 10]}
    action = {"shift": 1.0, "consistency": "linear", "regulariser": 0.2}
    return {
        name: StreamSpec.from_config(name, {**config, "teacher_substeps": substeps})
        for name, config in (("video", video), ("action", action))
    }


def sample(wam: LingBotVA, samples: int, device: torch.device) -> Batch:
    """Random data in the sizes of LIBERO."""
    generator = torch.Generator().manual_seed(0)
    clean = {
        name: torch.randn(samples, c, FRAMES, h, w, generator=generator).to(device)
        for name, (c, h, w) in wam.shapes.items()
    }
    given = torch.zeros(samples, FRAMES, dtype=torch.bool, device=device)
    given[:, 0] = True
    width = wam.transformer.config.text_dim
    return Batch(
        clean=clean,
        history=clean,
        mask={name: torch.ones_like(x, dtype=torch.bool) for name, x in clean.items()},
        given=given,
        text=torch.randn(samples, TEXT_TOKENS, width, generator=generator).to(device),
        null_text=torch.randn(TEXT_TOKENS, width, generator=generator).to(device),
        index=torch.arange(samples, device=device),
    )


def optimizer_of(parameters: list[Tensor]) -> torch.optim.Optimizer:
    """As the loop makes it."""
    return torch.optim.AdamW(parameters, lr=5e-6, betas=(0.9, 0.999), weight_decay=0.0, fused=True)


def published(wam: LingBotVA, samples: int, device: torch.device, half: bool, *, substeps: int) -> Step:
    """Three copies, separate forwards over all tokens."""
    student = wam.requires_grad_(True).train()
    teacher, target = frozen_copy(wam, "teacher"), frozen_copy(wam, "target")
    if half:
        teacher.to(torch.bfloat16)
    batch, specs = sample(wam, samples, device), streams(substeps)
    optimizer = optimizer_of([p for p in student.parameters() if p.requires_grad])

    def step(number: int) -> Tensor:
        draws = Draws(seed=0, step=number, positions=range(samples), device=device)
        start = training_levels(student, batch, draws, specs, shared=True)
        path = {
            name: jump_levels(spec.schedule, start[name], spec.schedule.jump(start[name], spec.anchors), substeps)
            for name, spec in specs.items()
        }
        noisy, sigma, noise = start_states(batch, {name: levels[0] for name, levels in path.items()}, draws)
        scale = 2 + 8 * draws.shared_uniform("guidance")
        with half_autocast(device.type, enabled=half):
            with torch.no_grad():
                end, end_sigma = noisy, sigma
                for k in range(substeps):
                    with_text = teacher(end, end_sigma, batch.history, {"text": batch.text})
                    without = teacher(end, end_sigma, batch.history, {"text": batch.null_text.expand_as(batch.text)})
                    velocity = dict(with_text, video=torch.lerp(without["video"], with_text["video"], scale))
                    following = {name: levels[k + 1].masked_fill(batch.given, 0.0) for name, levels in path.items()}
                    end = {
                        name: x + append_dims(following[name] - end_sigma[name], x) * velocity[name]
                        for name, x in end.items()
                    }
                    end_sigma = following
                aimed = target(end, end_sigma, batch.history, {"text": batch.text})
            out = student(noisy, sigma, batch.history, {"text": batch.text})
            loss = torch.zeros((), device=device)
            for name, spec in specs.items():
                one = spec.consistency(noisy[name], sigma[name], out[name])
                other = spec.consistency(end[name], end_sigma[name], aimed[name])
                loss = loss + reduce_elements(pseudo_huber(one, other, c=spec.huber_c), batch.mask[name])[0].mean()
                if spec.regulariser:
                    matching = flow_matching_loss(out[name], batch.clean[name], noise[name])
                    loss = loss + spec.regulariser * reduce_elements(matching, batch.mask[name])[0].mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 2.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema_update(target, student, decay=0.995)
        return loss.detach()

    return step


def ours(
    wam: LingBotVA, samples: int, device: torch.device, half: bool, *, lora: bool, compiled: bool, substeps: int
) -> Step:
    """The method as the loop runs it."""
    loop = LoopConfig(method="consistency", lora=LoraConfig(rank=32, alpha=32) if lora else None)
    teacher = wam if lora else frozen_copy(wam, "teacher")
    if half:
        teacher.to(torch.bfloat16)
    method = make_method(loop, streams(substeps), wam, teacher=teacher, seed=0)
    if compiled:
        method.roles.compile_training()
    method.roles.place_whole(device)
    batch = sample(wam, samples, device)
    optimizer = optimizer_of([p for p in method.roles.model.parameters() if p.requires_grad])

    def step(number: int) -> Tensor:
        draws = Draws(seed=0, step=number, positions=range(samples), device=device)
        with half_autocast(device.type, enabled=half):
            loss = method.loss(batch, draws).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in method.roles.model.parameters() if p.requires_grad], 2.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.after_step(0.995)
        return loss.detach()

    return step


def build(way: str, arguments: argparse.Namespace, size: str) -> Step:
    """One contender on a model of its own."""
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    attention = FLEX if way.endswith(FLEX) else arguments.attention
    options = {"attention": attention, "gradient_checkpointing": arguments.checkpointing}
    wam = random_wam(size, LIBERO, device=device, dtype=torch.float32, **options)
    half = arguments.precision == "bf16"
    substeps = 4 if SUBSTEPS in way else 1
    if way.startswith("published"):
        return published(wam, arguments.samples, device, half, substeps=substeps)
    return ours(wam, arguments.samples, device, half, lora="LoRA" in way, compiled=COMPILED in way, substeps=substeps)


def memory_of(way: str, arguments: argparse.Namespace, size: str) -> int:
    """Peak bytes of two steps on a CPU: of a whole process that does nothing else."""
    given = [f"--{key}={getattr(arguments, key)}" for key in ("device", "precision", "samples", "threads", "attention")]
    given += ["--checkpointing"] if arguments.checkpointing else []
    command = [sys.executable, __file__, *given, "--sizes", size, "--only", way]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def only(way: str, arguments: argparse.Namespace) -> None:
    """Prints the peak bytes of this process after two steps of one contender."""
    step = build(way, arguments, arguments.sizes[0])
    for number in range(2):
        step(number)
    print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def measure(arguments: argparse.Namespace, size: str) -> Iterator[dict[str, Any]]:
    """A row for each way: on a GPU one after the other, each with the card to itself; on a CPU time in turns."""
    device = torch.device(arguments.device)
    floors = floor_seconds(arguments, size)
    ways: list[str] = arguments.ways
    if device.type == "cuda":
        for way in ways:
            forget_peak(device)
            yield from timed([way], arguments, size, floors, memory=lambda _: peak_bytes(device))
    else:
        memory = {} if arguments.no_memory else {way: memory_of(way, arguments, size) for way in ways}
        yield from timed(ways, arguments, size, floors, memory=memory.get)


def timed(
    ways: Sequence[str],
    arguments: argparse.Namespace,
    size: str,
    floors: Mapping[str, float],
    *,
    memory: Callable[[str], int | None],
) -> Iterator[dict[str, Any]]:
    """Builds some ways and times their steps in turns; one that cannot run here says why."""
    clock = Clock(torch.device(arguments.device))
    steps: dict[str, Step] = {}
    first: dict[str, float] = {}
    losses: dict[str, float] = {}
    failed: dict[str, str] = {}
    for way in ways:
        progress(f"{size}: {way}")
        try:
            step = build(way, arguments, size)
            progress("first step")
            clock()
            loss = step(0)
            first[way], steps[way] = clock(), step
            losses[way] = float(loss)
        except Exception as error:
            # Of a few minutes with a GPU, a way that fails must not take the others'.
            failed[way] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    seconds: dict[str, list[float]] = {way: [] for way in steps}
    for number in range(1, arguments.rounds + 1):
        for way, step in steps.items():
            clock()
            step(number)
            seconds[way].append(clock())
    for way in ways:
        row = {"size": size, "name": way, "samples": arguments.samples, "floor_seconds": floors[way]}
        if way in failed:
            yield {**row, "seconds": None, "why": failed[way]}
        else:
            whole = spread(seconds[way])
            numbers = {"seconds": whole["median"], "spread": whole, "first_seconds": first[way], "loss": losses[way]}
            numbers["samples_per_second"] = arguments.samples / whole["median"]
            if way in FASTER:
                numbers["compile_seconds"] = max(0.0, first[way] - whole["median"])
            yield {**row, **numbers, "peak_bytes": memory(way)}


def floor_seconds(arguments: argparse.Namespace, size: str) -> dict[str, float]:
    """Least seconds of a step's matrix products: its passes at the speed that this device reaches in one pass."""
    device, dtype = torch.device(arguments.device), torch.bfloat16 if arguments.precision == "bf16" else torch.float32
    wam = random_wam(size, LIBERO, device=device, dtype=dtype).requires_grad_(False)
    tokens = wam.pass_tokens(FRAMES)
    one = Ceilings(wam, device, dtype).linear(arguments.samples * tokens)
    return {way: passes * one for way, passes in PASSES.items()}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "A step: teacher, target and student on random samples of LIBERO's sizes, backward pass, clipping, optimiser "
        "and average; no data are read. Medians; p5 and p95 in brackets. First loss: of the first step, the same for "
        "all ways of one method but for rounding. Compiling: what that step took longer than a later one. Floor: the "
        "matrix products of a step's passes at the speed that this device reached with them in this run. Peak: on a "
        "GPU of its tensors, on a CPU of the whole process.",
        "",
        "| size | step | samples | seconds | samples a second | steps | first loss | compiling, s | published / it | "
        "floor, s | it / floor | peak GiB |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    slow: dict[tuple[str, bool], float] = {}
    for row in rows:
        first, several = f"| {row['size']} | {row['name']} | {row['samples']} ", SUBSTEPS in row["name"]
        floor = row["floor_seconds"]
        if row["seconds"] is None:
            lines.append(f"{first}| {NOT_MEASURED}: {row['why']} | | | | | | {floor:.3f} | | |")
            continue
        if row["name"].startswith("published"):
            slow[row["size"], several] = row["seconds"]
        against = slow.get((row["size"], several))
        cells = [
            f"{row['seconds']:.3f} ({row['spread']['p5']:.3f}, {row['spread']['p95']:.3f})",
            f"{row['samples_per_second']:.2f}",
            str(row["spread"]["count"]),
            f"{row['loss']:.5f}",
            f"{row['compile_seconds']:.1f}" if "compile_seconds" in row else "",
            shown(against and against / row["seconds"], ".2f"),
            f"{floor:.3f}",
            f"{row['seconds'] / floor:.1f}",
            shown(row["peak_bytes"], ".2f", scale=2**-30),
        ]
        lines.append(f"{first}| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["6 x 256", "8 x 512"])
    parser.add_argument("--ways", nargs="+", choices=[*WAYS, *FASTER], default=list(WAYS))
    parser.add_argument("--samples", type=int, default=2, help="a step")
    parser.add_argument("--rounds", type=int, default=20, help="steps that are timed")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="no", choices=["no", "bf16"])
    parser.add_argument("--attention", default="sdpa", choices=["sdpa", "flex"])
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--no-memory", action="store_true", help="on a CPU, where it takes a process for each way")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=[*WAYS, *FASTER], help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("analysis/results/distill_step"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only:
        only(arguments.only, arguments)
        return
    run = about(__file__, arguments, device=arguments.device)
    device = torch.device(arguments.device)
    dtype = torch.bfloat16 if arguments.precision == "bf16" else torch.float32
    rows: list[dict[str, Any]] = []
    attention: list[dict[str, Any]] = []

    def page() -> str:
        return table(rows) + (f"\n{attention_table(attention)}" if attention else "")

    def kept() -> None:
        # After every row, so that a run that is stopped has kept what it measured.
        keep(arguments.out, device.type, run, {"results": rows, "attention": attention}, page())

    for size in arguments.sizes:
        if any(way.endswith(FLEX) for way in arguments.ways):
            attention += attention_rows(size, device, dtype, rounds=arguments.rounds)
            kept()
        for row in measure(arguments, size):
            rows.append(row)
            kept()
    print(page())


if __name__ == "__main__":
    main()
