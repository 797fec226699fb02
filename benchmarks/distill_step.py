# SPDX-License-Identifier: Apache-2.0
"""Seconds and memory of one distillation step: the published step, ours, and ours with low-rank adapters.

    python benchmarks/distill_step.py                     small sizes, CPU; writes analysis/results/distill_step
    python benchmarks/distill_step.py --sizes real --device cuda --precision bf16 --samples 1

The published step keeps three whole copies (teacher, student, target) and runs the teacher once with and once without
text, each over every token; with several teacher sub-steps it does so in each. It runs on our network, which leaves out
tokens that nobody sees; the original does not.
Time: all in turns in one process, medians. Memory: each alone in a process of its own.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import about, keep
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.core.losses import flow_matching_loss, pseudo_huber
from flashwam.core.noise import append_dims
from flashwam.core.streams import StreamSpec
from flashwam.distillation.draws import Draws
from flashwam.distillation.methods import make_method
from flashwam.distillation.methods.base import reduce_elements, start_states, training_levels
from flashwam.distillation.methods.consistency import jump_levels
from flashwam.distillation.roles import ema_update, frozen_copy
from flashwam.recipe.sections import LoopConfig, LoraConfig
from flashwam.wam.lingbot_va import LingBotVA

LIBERO = {"latent_size": (8, 16), "chunk_frames": 4, "actions_per_frame": 4, "window_chunks": 30}
SIZES = {
    "6 x 256": {"num_layers": 6, "num_attention_heads": 8, "attention_head_dim": 32, "ffn_dim": 1024, "text_dim": 64},
    "8 x 512": {"num_layers": 8, "num_attention_heads": 16, "attention_head_dim": 32, "ffn_dim": 2048, "text_dim": 64},
    "real": {"text_dim": 4096},
}
SUBSTEPS = "4 sub-steps"
WAYS = (
    "published",
    "ours",
    "ours, LoRA 32",
    f"published, {SUBSTEPS}",
    f"ours, {SUBSTEPS}",
    f"ours, LoRA 32, {SUBSTEPS}",
)
FRAMES, TEXT_TOKENS = 16, 512
Step = Callable[[int], None]


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

    def step(number: int) -> None:
        draws = Draws(seed=0, step=number, positions=range(samples), device=device)
        start = training_levels(student, batch, draws, specs, shared=True)
        path = {
            name: jump_levels(spec.schedule, start[name], spec.schedule.jump(start[name], spec.anchors), substeps)
            for name, spec in specs.items()
        }
        noisy, sigma, noise = start_states(batch, {name: levels[0] for name, levels in path.items()}, draws)
        scale = 2 + 8 * draws.shared_uniform("guidance")
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
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

    return step


def ours(wam: LingBotVA, samples: int, device: torch.device, half: bool, *, lora: bool, substeps: int) -> Step:
    """The method as the loop runs it."""
    loop = LoopConfig(method="consistency", lora=LoraConfig(rank=32, alpha=32) if lora else None)
    teacher = wam if lora else frozen_copy(wam, "teacher")
    if half:
        teacher.to(torch.bfloat16)
    method = make_method(loop, streams(substeps), wam, teacher=teacher, seed=0)
    method.roles.place(lambda role, model: model, device)
    batch = sample(wam, samples, device)
    optimizer = optimizer_of([p for p in method.roles.model.parameters() if p.requires_grad])

    def step(number: int) -> None:
        draws = Draws(seed=0, step=number, positions=range(samples), device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss = method.loss(batch, draws).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in method.roles.model.parameters() if p.requires_grad], 2.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.after_step(0.995)

    return step


def build(way: str, arguments: argparse.Namespace, size: str) -> Step:
    """One contender on a model of its own."""
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    with torch.device(device):
        wam = LingBotVA.create(
            **LIBERO, **SIZES[size], attention=arguments.attention, gradient_checkpointing=arguments.checkpointing
        )
    half = arguments.precision == "bf16"
    substeps = 4 if SUBSTEPS in way else 1
    if way.startswith("published"):
        return published(wam, arguments.samples, device, half, substeps=substeps)
    return ours(wam, arguments.samples, device, half, lora="LoRA" in way, substeps=substeps)


def memory_of(way: str, arguments: argparse.Namespace, size: str) -> int:
    """Peak bytes of two steps, in a process of its own; on a CPU of the whole process."""
    given = [f"--{key}={getattr(arguments, key)}" for key in ("device", "precision", "samples", "threads", "attention")]
    given += ["--checkpointing"] if arguments.checkpointing else []
    command = [sys.executable, __file__, *given, "--sizes", size, "--only", way]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def only(way: str, arguments: argparse.Namespace) -> None:
    """Prints the peak bytes of two steps of one contender."""
    step = build(way, arguments, arguments.sizes[0])
    for number in range(2):
        step(number)
    if arguments.device.startswith("cuda"):
        print(torch.cuda.max_memory_allocated())
    else:
        print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def measure(arguments: argparse.Namespace, size: str) -> dict[str, object]:
    """Memory of each alone, then time in turns."""
    memory = {way: memory_of(way, arguments, size) for way in WAYS}
    steps = {way: build(way, arguments, size) for way in WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(arguments.rounds + 1):
        for way, step in steps.items():
            began = time.perf_counter()
            step(number)
            if arguments.device.startswith("cuda"):
                torch.cuda.synchronize()
            if number:
                seconds[way].append(time.perf_counter() - began)
    rows = [{"name": way, "seconds": statistics.median(seconds[way]), "peak_bytes": memory[way]} for way in WAYS]
    return {"size": size, "rows": rows}


def table(results: list[dict]) -> str:
    """All results as Markdown."""
    lines = ["| size | step | seconds | published / it | peak GiB |", "|---|---|---:|---:|---:|"]
    for result in results:
        for row in result["rows"]:
            if row["name"].startswith("published"):
                slow = row["seconds"]
            lines.append(
                f"| {result['size']} | {row['name']} | {row['seconds']:.3f} | {slow / row['seconds']:.2f} | "
                f"{row['peak_bytes'] / 2**30:.2f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["6 x 256", "8 x 512"])
    parser.add_argument("--samples", type=int, default=2, help="a step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="no", choices=["no", "bf16"])
    parser.add_argument("--attention", default="sdpa", choices=["sdpa", "flex"])
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("analysis/results/distill_step"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only:
        only(arguments.only, arguments)
        return
    device = torch.device(arguments.device)
    run = about(__file__, arguments, device=arguments.device)
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = []
    for size in arguments.sizes:
        results.append(measure(arguments, size))
        keep(arguments.out, device.type, run, {"results": results}, table(results))
    print(table(results))


if __name__ == "__main__":
    main()
