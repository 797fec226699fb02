# SPDX-License-Identifier: Apache-2.0
"""The scaling of a distillation step: over processes and strategies, and with the length of a sample.

    python benchmarks/scaling.py                          small size, CPU; writes analysis/results/scaling

Every strategy trains the same model on the same global batch; one process is the reference. On CPU the processes share
the machine's cores, one thread each, so that two processes can at best halve a step.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from common import about, keep
from distill_step import sample, streams

from flashwam.core.batch import Batch
from flashwam.distillation.methods import make_method
from flashwam.distillation.roles import frozen_copy
from flashwam.distillation.trainer import train
from flashwam.recipe.sections import LoopConfig
from flashwam.system.files import write_whole
from flashwam.system.processes import end_process
from flashwam.wam.lingbot_va import LingBotVA

MODEL = {
    "latent_size": (8, 16),
    "chunk_frames": 4,
    "actions_per_frame": 4,
    "window_chunks": 30,
    "num_layers": 6,
    "num_attention_heads": 8,
    "attention_head_dim": 32,
    "ffn_dim": 1024,
    "text_dim": 64,
}
RUNS = (("single", 1), ("ddp", 2), ("zero2", 2), ("zero3", 2), ("fsdp", 2), ("fsdp, teacher sharded", 2))


class Rows:
    """A data source: the same samples for every strategy."""

    def __init__(self, whole: Batch) -> None:
        self.whole = whole
        self.began: list[float] = []

    def batch(self, indices: list[int]) -> Batch:
        """Rows of the whole batch by draw number."""
        self.began.append(time.perf_counter())
        rows = [index % self.whole.size for index in indices]

        def take(parts: dict) -> dict:
            return {name: x[rows] for name, x in parts.items()}

        whole = self.whole
        return Batch(
            clean=take(whole.clean),
            history=take(whole.history),
            mask=take(whole.mask),
            given=whole.given[rows],
            text=whole.text[rows],
            null_text=whole.null_text,
            index=torch.tensor(indices),
        )


def worker(strategy: str, steps: int, batch: int, folder: Path) -> None:
    """Trains; the first process writes median seconds of a step and the peak bytes of a process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    name, _, sharded = strategy.partition(", ")
    loop = LoopConfig(
        method="consistency",
        strategy=name,
        shard_teacher=bool(sharded),
        steps=steps,
        batch_size=batch,
        save_every=10 * steps,
        diagnose_every=0,
        log_every=steps,
    )
    student = LingBotVA.create(**MODEL)
    source = Rows(sample(student, batch, torch.device("cpu")))
    method = make_method(loop, streams(), student, teacher=frozen_copy(student, "teacher"), seed=0)
    train(method, source, loop, run_dir=folder / "run", seed=0)
    if os.environ.get("RANK", "0") == "0":
        # A step begins where its samples are asked for; the first ones warm up.
        seconds = [b - a for a, b in zip(source.began[2:], source.began[3:], strict=False)]
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        write_whole(folder / "result.json", json.dumps({"seconds": statistics.median(seconds), "peak_bytes": peak}))


def over_processes(steps: int, batch: int, scratch: Path) -> list[dict[str, object]]:
    """Every strategy in processes of its own."""
    rows = []
    for strategy, processes in RUNS:
        folder = scratch / strategy.replace(", ", "_")
        folder.mkdir(parents=True, exist_ok=True)
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        mine = [__file__, "--worker", strategy, f"--steps={steps}", f"--batch={batch}", f"--scratch={folder}"]
        command = [sys.executable, *(launcher if processes > 1 else []), *mine]
        done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{strategy} failed:\n{done.stderr[-2000:]}")
        measured = json.loads((folder / "result.json").read_text())
        rows.append({"strategy": strategy, "processes": processes, **measured})
        print(rows[-1], flush=True)
    return rows


def over_length(rounds: int) -> list[dict[str, object]]:
    """A joint pass without gradient against latent frames."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    wam = LingBotVA.create(**MODEL).eval()
    rows = []
    with torch.no_grad():
        for frames in (4, 8, 16, 32, 64):
            clean = {name: torch.randn(1, c, frames, h, w) for name, (c, h, w) in wam.shapes.items()}
            sigma = {name: torch.rand(1, frames) for name in clean}
            context = {"text": torch.randn(1, 512, MODEL["text_dim"])}
            seconds = []
            for _ in range(rounds + 1):
                began = time.perf_counter()
                wam.velocity(clean, sigma, clean, context)
                seconds.append(time.perf_counter() - began)
            rows.append(
                {"frames": frames, "tokens": wam.pass_tokens(frames), "seconds": statistics.median(seconds[1:])}
            )
            print(rows[-1], flush=True)
    return rows


def table(result: dict) -> str:
    """Both tables as Markdown."""
    lines = [
        "| strategy | processes | seconds a step | one process / it | peak GiB a process |",
        "|---|---:|---:|---:|---:|",
    ]
    one = result["processes"][0]["seconds"]
    for row in result["processes"]:
        lines.append(
            f"| {row['strategy']} | {row['processes']} | {row['seconds']:.3f} | {one / row['seconds']:.2f} | "
            f"{row['peak_bytes'] / 2**30:.2f} |"
        )
    lines += ["", "| latent frames | tokens of a joint pass | ms | us a token |", "|---:|---:|---:|---:|"]
    for row in result["length"]:
        lines.append(
            f"| {row['frames']} | {row['tokens']} | {1000 * row['seconds']:.1f} | "
            f"{1e6 * row['seconds'] / row['tokens']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4, help="samples of a step, of all processes together")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, default=Path("runs/scaling"), help="folder of the runs")
    parser.add_argument("--out", type=Path, default=Path("analysis/results/scaling"))
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker, arguments.steps, arguments.batch, arguments.scratch)
        end_process(0)
    scratch = arguments.scratch / str(int(time.time()))
    result = {
        "processes": over_processes(arguments.steps, arguments.batch, scratch),
        "length": over_length(arguments.rounds),
    }
    keep(arguments.out, "cpu", about(__file__, arguments), result, table(result))
    print(table(result))


if __name__ == "__main__":
    main()
