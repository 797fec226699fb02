# SPDX-License-Identifier: Apache-2.0
"""The steps of `gpu_check.py`, and how one is run within its time."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from preloaded import start

__all__ = ["Step", "all_steps", "missing_packages", "run_step"]

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ("torch", "numpy", "safetensors", "diffusers", "accelerate", "omegaconf", "scipy", "transformers", "tqdm")
"""Imported by whatever runs a model."""
ENDED = 5
"""Seconds between asking a process to end and ending it."""
EVERY = 5
"""Seconds between looks at what a step has written."""
PART = "FLASHWAM_TEST_PART"
LINES = 32
"""Last lines of a step's output that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command.

    Args:
        name: Of the step.
        command: What follows the interpreter.
        limit: Seconds after which it is ended.
        needs: Modules without which it is not begun.
        environment: Variables of its own.
        parts: Processes that do it together, each told which it is in FLASHWAM_TEST_PART.
    """

    name: str
    command: tuple[str, ...]
    limit: float
    needs: tuple[str, ...] = PACKAGE
    environment: Mapping[str, str] = field(default_factory=dict)
    parts: int = 1


def all_steps(*, tiny: bool, device: str, out: Path) -> list[Step]:
    """The steps in their order.

    Args:
        tiny: Tiny sizes and few rounds.
        device: "cuda" or "cpu".
        out: Folder in which every step has one of its own for its results.
    """
    size = "tiny" if tiny else "real"
    # What was never measured comes first, since a step may end with its time.
    joint = ("cogvideox tiny",) if tiny else ("cogvideox 5b", "cogvideox 2b")
    sizes = {"joint": joint, "serving": (size, joint[0])}

    def benchmark(step: str, name: str) -> tuple[str, ...]:
        script = (f"benchmarks/{name}.py", "--sizes", *sizes.get(step, (size,)), "--device", device)
        return (*script, "--out", str(out / step), *(TINY if tiny else FULL)[step])

    tests = ("tests/gpu/test_gpu_passes.py",) if tiny else ("tests/gpu",)
    steps = [
        Step(
            name="tests",
            command=("-m", "pytest", "-q", "-p", "no:cacheprovider", *tests),
            limit=45,
            needs=(*PACKAGE, "pytest", "tokenizers"),
            environment={"FLASHWAM_TEST_DEVICE": device},
            # Compiling is most of it, on a core each.
            parts=1 if tiny else 4,
        ),
        Step(name="rollout", command=benchmark("rollout", "rollout"), limit=125),
        Step(name="8-bit rollout", command=benchmark("8-bit rollout", "rollout"), limit=50),
        Step(name="joint", command=benchmark("joint", "rollout"), limit=45),
        Step(name="training", command=benchmark("training", "distill_step"), limit=110),
        Step(
            name="serving",
            command=benchmark("serving", "serving"),
            limit=75,
            needs=(*PACKAGE, "websockets", "msgpack"),
        ),
        Step(name="pairs", command=benchmark("pairs", "pair_rate"), limit=30),
    ]
    # A CPU that others use too may take many times as long.
    return [replace(step, limit=10 * step.limit) for step in steps] if tiny else steps


FASTER = ("ours, LoRA 32", "ours, LoRA 32, compiled", "ours, LoRA 32, compiled, flex")
FULL = {
    "rollout": ("--dtype", "bfloat16", "--rollout", "graphed", "dynamic", "--slow-rounds", "1"),
    "8-bit rollout": ("--dtype", "bfloat16", "--rollout", "graphed", "--precision", "fp8", "--history", "36"),
    "joint": ("--dtype", "bfloat16", "--slow-rounds", "1"),
    "training": ("--precision", "bf16", "--samples", "2", "--rounds", "10", "--ways", *FASTER),
    "serving": ("--dtype", "bfloat16", "--rollout", "graphed", "--encoder", "graphed", "plain"),
    "pairs": ("--precision", "bf16", "--attention", "sdpa", "--groups", "1", "--rounds", "3"),
}
TINY = {
    "rollout": ("--rounds", "2", "--steps", "2", "2", "--history", "2"),
    "8-bit rollout": ("--rounds", "2", "--steps", "2", "2", "--history", "2", "--precision", "fp8"),
    "joint": ("--rounds", "2", "--joint-steps", "2"),
    "training": ("--rounds", "1", "--no-memory", "--ways", FASTER[0], FASTER[2]),
    "serving": ("--rounds", "2"),
    "pairs": ("--groups", "1", "--at-once", "2", "--rounds", "1"),
}


def missing_packages(names: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Names those modules that a process with this environment cannot find."""
    ask = "import importlib.util, sys; print(*[n for n in sys.argv[1:] if importlib.util.find_spec(n) is None])"
    done = subprocess.run(
        [sys.executable, "-c", ask, *names], env=dict(environment), capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def run_step(
    step: Step,
    *,
    environment: Mapping[str, str],
    folder: Path,
    limit: float,
    told: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Runs a step, and ends it and what it started when its time is over.

    Args:
        step: What to run.
        environment: Of the process, beside the step's own.
        folder: Where it leaves what it measured, as JSON with a table of the same name beside it.
        limit: Seconds.
        told: Is given what there is so far, every few seconds.

    Returns:
        state ("done", "failed", "timed out"), seconds, output (its last lines, where they say more than
        the results), results and tables.
    """
    began = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    outputs = [folder / f"output_{part}.txt" for part in range(step.parts)]
    processes = [
        start(
            step.command,
            environment={**environment, **step.environment, PART: f"{part}/{step.parts}"},
            output=output,
        )
        for part, output in enumerate(outputs)
    ]
    state = "running"
    while state == "running":
        left = limit - (time.monotonic() - began)
        wait([process.sentinel for process in processes if process.is_alive()], timeout=max(min(EVERY, left), 0))
        alive = [process for process in processes if process.is_alive()]
        if not alive:
            state = "failed" if any(process.exitcode for process in processes) else "done"
        elif left <= 0:
            _end(alive)
            state = "timed out"
        else:
            told(_found(folder, state, began, outputs))
    return _found(folder, state, began, outputs)


def _found(folder: Path, state: str, began: float, outputs: Sequence[Path]) -> dict[str, Any]:
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    lines: list[str] = []
    if state in ("failed", "timed out") or not results:
        for path in outputs:
            text = path.read_text(errors="replace") if path.is_file() else ""
            lines += text.splitlines()[-LINES // len(outputs) :]
    return {
        "state": state,
        "seconds": round(time.monotonic() - began, 1),
        "output": "\n".join(lines),
        "results": results,
        "tables": [path.read_text() for path in sorted(folder.glob("*.md"))],
    }


def _end(processes: Sequence[BaseProcess]) -> None:
    """Ends processes and their children."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid or 0, sent)
        for process in processes:
            process.join(ENDED)
