# SPDX-License-Identifier: Apache-2.0
"""Toy distillations for torchrun, one after the other: `distributed_run.py (FOLDER STRATEGY[-OPTION...])...`.

Options: lora (adapters), on_policy, dmd and pairs (the method), teacher (shard it too), killed (one process dies on the way, once),
stopped (one process is asked to stop on the way, once; both then begin again),
odd (the last of five steps is not the student's turn, with dmd),
bf16 (precision), judged (measured on the way, the best is kept), offload (the optimiser's state), lingbot and cogvideox (real networks with a teacher of the same kind;
lingbot's jumps in two steps and its training has four, cogvideox's has two).
"""

import os
import signal
import sys
from pathlib import Path

import torch
from distill_toys import GaussianTeacher, ToyJudge, ToySource, ToyWam

from flashwam.core.batch import Batch
from flashwam.core.streams import StreamSpec
from flashwam.distillation.methods import make_method
from flashwam.distillation.setup import Setup
from flashwam.distillation.stopping import Stopped
from flashwam.distillation.trainer import Source, train
from flashwam.pipeline.ready import set_precision
from flashwam.recipe.sections import JudgeConfig, LoopConfig, LoraConfig
from flashwam.system.processes import end_process

NETWORKS = ("lingbot", "cogvideox")
STEPS = {"cogvideox": 2, "lingbot": 4, "odd": 5}


class Signalled(ToySource):
    """Sends its own process a signal in a step, counted from 0, the first time."""

    def __init__(self, marker: Path, number: int, step: int) -> None:
        super().__init__()
        self.marker, self.number, self.step = marker, number, step

    def batch(self, indices: list[int]) -> Batch:
        if indices[0] >= self.step * 16 and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), self.number)
        return super().batch(indices)


def _levels_are_exact(model: torch.nn.Module, inputs: tuple) -> None:
    """Noise levels must reach a model as they were drawn, whatever its weights are rounded to."""
    rounded = {name: level.dtype for name, level in inputs[1].items() if level.dtype != torch.float32}
    if rounded:
        raise TypeError(f"{type(model).__name__} was called with rounded noise levels: {rounded}")


def _products_are_rounded(model: torch.nn.Module, inputs: tuple) -> None:
    """Float32 weights must compute under autocast where bf16 is asked for, whoever owns the model."""
    kinds = {p.dtype for p in model.parameters()}
    if torch.float32 in kinds and not torch.is_autocast_enabled(inputs[1]["video"].device.type):
        raise TypeError(f"{type(model).__name__} of {kinds} computes in float32 in a training in bfloat16")
    if torch.is_autocast_cache_enabled():
        raise TypeError(f"{type(model).__name__} is called where rounded weights are kept for the next pass")


def _streams(options: list[str]) -> dict[str, StreamSpec]:
    """One of two streams without a loss, or both with one; guided, jumped or of a diffusion model as the networks are."""
    if "cogvideox" in options:
        vp = {"schedule": {"name": "vp", "snr_shift": 1.0}}
        return {name: StreamSpec.from_config(name, vp) for name in ("video", "action")}
    on_policy, lingbot, dmd = "on_policy" in options, "lingbot" in options, "dmd" in options
    if "pairs" in options:
        shifts = {"video": 5.0, "action": 1.0}
        return {name: StreamSpec.from_config(name, {"shift": s, "teacher_steps": 3}) for name, s in shifts.items()}
    video = {
        "shift": 5.0,
        "guidance": [2, 4],
        "weight": 0.0 if on_policy else 1.0,
        "teacher_substeps": 2 if lingbot else 1,
    }
    return {
        "video": StreamSpec.from_config("video", video),
        "action": StreamSpec.from_config(
            "action", {"shift": 1.0, "weight": float(on_policy or lingbot), "regulariser": float(dmd)}
        ),
    }


def _loop(strategy: str, options: list[str]) -> LoopConfig:
    real = "lingbot" in options or "cogvideox" in options
    methods = {"on_policy": "on_policy", "dmd": "distribution_matching", "pairs": "pairs"}
    own = {
        # The student's turn is every second step, and so the last before a checkpoint or the first after it.
        "dmd": {"student_every": 2, "critic_lr": 3e-3},
        "pairs": {"first_share": None, "further_share": 0.5, "drawn_at_once": 8},
    }
    method = next((method for option, method in methods.items() if option in options), "consistency")
    return LoopConfig(
        method=method,
        options=next((given for option, given in own.items() if option in options), {}),
        strategy=strategy,
        precision="bf16" if "bf16" in options else "no",
        offload="offload" in options,
        shard_teacher="teacher" in options,
        lora=LoraConfig(rank=2, alpha=4, targets=("video", "action", "shared")) if "lora" in options else None,
        steps=next((steps for option, steps in STEPS.items() if option in options), 6),
        batch_size=8,
        accumulation=2,
        lr=1e-3 if real else 1e-2,
        log_every=1,
        warmup_steps=2,
        save_every=2,
        diagnose_every=3,
        judge=JudgeConfig(every=2) if "judged" in options else None,
        keep_best="action_error_expert" if "judged" in options else None,
    )


def _toys(options: list[str]) -> tuple[torch.nn.Module, torch.nn.Module, ToySource]:
    """A critic is a copy of the teacher that learns, which a closed form does not."""
    teacher = (ToyWam if "dmd" in options else GaussianTeacher).create(seed=2)
    return ToyWam.create(seed=1), teacher, ToySource()


def _networks(name: str) -> tuple[torch.nn.Module, torch.nn.Module, Source]:
    """Real ones, whose libraries take longer to import than a toy takes to train."""
    from distributed_models import MODELS
    from waves import Waves

    student, teacher = (MODELS[name](seed) for seed in (1, 2))
    for model in (student, teacher):
        model.register_forward_pre_hook(_levels_are_exact)
    return student, teacher, Waves()


def run(folder: Path, asked: str) -> Path:
    """Six steps of two accumulated batches; checkpoints on the way."""
    strategy, *options = asked.split("-")
    loop = _loop(strategy, options)
    network = next((name for name in NETWORKS if name in options), None)
    student, teacher, source = _toys(options) if network is None else _networks(network)
    if network is not None and loop.precision == "bf16":
        for model in (student, teacher):
            model.register_forward_pre_hook(_products_are_rounded)
    set_precision(loop, student, teacher)
    streams = _streams(options)
    method = make_method(loop, streams, student, teacher=student if "lora" in options else teacher)
    if os.environ.get("RANK") == "1":
        if "killed" in options:
            source = Signalled(folder.with_name("signalled"), signal.SIGKILL, 3)
        elif "stopped" in options:
            source = Signalled(folder.with_name("signalled"), signal.SIGTERM, 2)
    # What is drawn before lies beside, for any number of processes.
    batches = loop.steps * loop.accumulation
    setup = Setup(data=folder.parent, streams=streams, seed=0, batch_size=loop.batch_size, batches=batches)
    judge = ToyJudge() if "judged" in options else None
    return train(method, method.source(source, setup), loop, run_dir=folder, seed=0, judge=judge)


def run_all(arguments: list[str]) -> None:
    """Trainings of (folder, strategy) one after the other; one that was asked to stop is begun again."""
    for folder, asked in zip(arguments[::2], arguments[1::2], strict=True):
        try:
            run(Path(folder), asked)
        except Stopped:
            run(Path(folder), asked)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_all(sys.argv[1:])
    end_process(0)
