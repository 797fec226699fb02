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
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["Step", "all_steps", "missing_packages", "run_step"]

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ("torch", "numpy", "safetensors", "diffusers", "accelerate", "omegaconf", "scipy", "transformers", "tqdm")
"""Imported by whatever runs a model."""
ENDED = 5
"""Seconds between asking a process to end and ending it."""
EVERY = 5
"""Seconds between looks at what a step has written."""
LINES = 30
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
    """

    name: str
    command: tuple[str, ...]
    limit: float
    needs: tuple[str, ...] = PACKAGE
    environment: Mapping[str, str] = field(default_factory=dict)


def all_steps(*, tiny: bool, device: str, out: Path) -> list[Step]:
    """The steps in their order.

    Args:
        tiny: Tiny sizes and few rounds.
        device: "cuda" or "cpu".
        out: Folder in which every step has one of its own for its results.
    """
    size = "tiny" if tiny else "real"
    joint = ("cogvideox tiny",) if tiny else ("cogvideox 2b", "cogvideox 5b")
    sizes = {"joint": joint, "serving": (size, joint[-1])}

    def benchmark(step: str, name: str) -> tuple[str, ...]:
        script = (f"benchmarks/{name}.py", "--sizes", *sizes.get(step, (size,)), "--device", device)
        return (*script, "--out", str(out / step), *(TINY if tiny else FULL)[step])

    tests = ("tests/gpu/test_gpu_passes.py",) if tiny else ("tests/gpu",)
    # Compiling is most of it, on a core each.
    tests += ("-n", "4") if find_spec("xdist") and not tiny else ()
    steps = [
        Step(
            name="tests",
            command=("-m", "pytest", "-q", "-p", "no:cacheprovider", *tests),
            limit=100,
            needs=(*PACKAGE, "pytest", "tokenizers"),
            environment={"FLASHWAM_TEST_DEVICE": device},
        ),
        Step(name="rollout", command=benchmark("rollout", "rollout"), limit=180),
        Step(name="8-bit rollout", command=benchmark("8-bit rollout", "rollout"), limit=45),
        Step(name="joint", command=benchmark("joint", "rollout"), limit=30),
        Step(name="training", command=benchmark("training", "distill_step"), limit=25),
        Step(
            name="serving",
            command=benchmark("serving", "serving"),
            limit=80,
            needs=(*PACKAGE, "websockets", "msgpack"),
        ),
        Step(name="pairs", command=benchmark("pairs", "pair_rate"), limit=20),
        # The last one, which gets no more than what the others leave of the whole time.
        Step(name="compiled training", command=benchmark("compiled training", "distill_step"), limit=240),
    ]
    # A CPU that others use too may take many times as long.
    return [replace(step, limit=10 * step.limit) for step in steps] if tiny else steps


FASTER = ("ours, LoRA 32", "ours, LoRA 32, flex", "ours, LoRA 32, compiled, flex", "ours, LoRA 32, compiled")
FULL = {
    "rollout": ("--dtype", "bfloat16", "--rollout", "graphed", "dynamic", "--slow-rounds", "1"),
    "8-bit rollout": ("--dtype", "bfloat16", "--rollout", "graphed", "--precision", "fp8"),
    "joint": ("--dtype", "bfloat16", "--slow-rounds", "1"),
    "training": ("--precision", "bf16", "--samples", "1", "--rounds", "5", "--ways", "ours, LoRA 32"),
    "serving": ("--dtype", "bfloat16", "--rollout", "graphed", "--encoder", "plain", "graphed"),
    "pairs": ("--precision", "bf16", "--attention", "sdpa", "--groups", "1", "--rounds", "3"),
    "compiled training": ("--precision", "bf16", "--samples", "2", "--rounds", "10", "--ways", *FASTER),
}
TINY = {
    "rollout": ("--rounds", "2", "--steps", "2", "2", "--history", "2"),
    "8-bit rollout": ("--rounds", "2", "--steps", "2", "2", "--history", "2", "--precision", "fp8"),
    "joint": ("--rounds", "2", "--joint-steps", "2"),
    "training": ("--rounds", "1", "--no-memory"),
    "serving": ("--rounds", "2"),
    "pairs": ("--groups", "1", "--at-once", "2", "--rounds", "1"),
    "compiled training": ("--rounds", "1", "--no-memory", "--ways", *FASTER[:2]),
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
    process = subprocess.Popen(
        [sys.executable, *step.command],
        cwd=ROOT,
        env={**environment, **step.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    state = "running"
    while state == "running":
        left = limit - (time.monotonic() - began)
        try:
            output, _ = process.communicate(timeout=max(min(EVERY, left), 0))
            state = "failed" if process.returncode else "done"
        except subprocess.TimeoutExpired:
            if left <= EVERY:
                output, state = _end(process), "timed out"
            else:
                told(_found(folder, state, began, output=""))
    return _found(folder, state, began, output=output)


def _found(folder: Path, state: str, began: float, *, output: str) -> dict[str, Any]:
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    lines = [] if results and state == "done" else output.splitlines()[-LINES:]
    return {
        "state": state,
        "seconds": round(time.monotonic() - began, 1),
        "output": "\n".join(lines),
        "results": results,
        "tables": [path.read_text() for path in sorted(folder.glob("*.md"))],
    }


def _end(process: subprocess.Popen[str]) -> str:
    """Ends a process and its children; gives what it had printed."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sent)
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=ENDED)[0]
    return ""
