# SPDX-License-Identifier: Apache-2.0
"""Toy distillations for torchrun, one after the other: `distributed_run.py [--fork N] (FOLDER STRATEGY[-OPTION...])...`.

With --fork every training has N processes of its own without torchrun, and their exit statuses are printed.

Options: lora (adapters), on_policy (the method), teacher (shard it too), killed (one process dies on the way, once),
stopped (one process is asked to stop on the way, once; both then begin again),
bf16 (precision), offload (the optimiser's state), lingbot and cogvideox (real networks with a teacher of the same kind;
lingbot's jumps in three steps, cogvideox's training has two).
"""

import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path

import torch
from distill_toys import GaussianTeacher, ToySource, ToyWam
from waves import Waves
from waves import make as lingbot_model

from flashwam.core.batch import Batch
from flashwam.core.streams import StreamSpec
from flashwam.distillation.methods import make_method
from flashwam.distillation.stopping import Stopped
from flashwam.distillation.trainer import train
from flashwam.pipeline.training import set_precision
from flashwam.recipe.sections import LoopConfig, LoraConfig
from flashwam.system.processes import end_process
from flashwam.wam.cogvideox import CogVideoX


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


def cogvideox_model(seed: int) -> CogVideoX:
    """Of the size of the waves, with a learned table of positions; action head and table are not left at zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CogVideoX.create(
            latent_size=(4, 4),
            chunk_frames=4,
            actions_per_frame=2,
            action_dim=4,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=1,
            out_channels=3,
            time_embed_dim=8,
            text_embed_dim=8,
            max_text_seq_length=2,
            use_rotary_positional_embeddings=True,
            use_learned_positional_embeddings=True,
        )
        with torch.no_grad():
            for value in model.parameters():
                value.add_(torch.randn_like(value) * 0.1)
    return model


def _levels_are_exact(model: torch.nn.Module, inputs: tuple) -> None:
    """Noise levels must reach a model as they were drawn, whatever its weights are rounded to."""
    rounded = {name: level.dtype for name, level in inputs[1].items() if level.dtype != torch.float32}
    if rounded:
        raise TypeError(f"{type(model).__name__} was called with rounded noise levels: {rounded}")


def run(folder: Path, asked: str) -> Path:
    """Six steps of two accumulated batches, one stream without a loss; checkpoints on the way."""
    strategy, *options = asked.split("-")
    adapted, on_policy, lingbot = "lora" in options, "on_policy" in options, "lingbot" in options
    joint = "cogvideox" in options
    make = lingbot_model if lingbot else cogvideox_model if joint else None
    streams = {
        "video": StreamSpec.from_config(
            "video",
            {
                "shift": 5.0,
                "guidance": [2, 4],
                "weight": 0.0 if on_policy else 1.0,
                "teacher_substeps": 3 if lingbot else 1,
            },
        ),
        "action": StreamSpec.from_config("action", {"shift": 1.0, "weight": float(on_policy or make is not None)}),
    }
    if joint:
        vp = {"schedule": {"name": "vp", "snr_shift": 1.0}}
        streams = {name: StreamSpec.from_config(name, vp) for name in streams}
    loop = LoopConfig(
        method="on_policy" if on_policy else "consistency",
        strategy=strategy,
        precision="bf16" if "bf16" in options else "no",
        offload="offload" in options,
        shard_teacher="teacher" in options,
        lora=LoraConfig(rank=2, alpha=4, targets=("video", "action", "shared")) if adapted else None,
        steps=2 if joint else 6,
        batch_size=8,
        accumulation=2,
        lr=1e-2 if make is None else 1e-3,
        log_every=1,
        warmup_steps=2,
        save_every=2,
        diagnose_every=3,
    )
    if make is not None:
        student, teacher = (make(seed) for seed in (1, 2))
        for model in (student, teacher):
            model.register_forward_pre_hook(_levels_are_exact)
    else:
        student, teacher = ToyWam.create(seed=1), GaussianTeacher()
    set_precision(loop, student, teacher)
    method = make_method(loop, streams, student, teacher=student if adapted else teacher)
    source = Waves() if make is not None else ToySource()
    if os.environ.get("RANK") == "1":
        if "killed" in options:
            source = Signalled(folder.with_name("signalled"), signal.SIGKILL, 3)
        elif "stopped" in options:
            source = Signalled(folder.with_name("signalled"), signal.SIGTERM, 2)
    return train(method, source, loop, run_dir=folder, seed=0)


def run_all(arguments: list[str]) -> None:
    """Trainings of (folder, strategy) one after the other; one that was asked to stop is begun again."""
    for folder, asked in zip(arguments[::2], arguments[1::2], strict=True):
        try:
            run(Path(folder), asked)
        except Stopped:
            run(Path(folder), asked)


def fork_all(arguments: list[str], *, processes: int) -> list[list[int]]:
    """The exit statuses of every training's processes: forks of this one, which need not import anything.

    As torchrun's they find each other through the environment; that a dead one ends the others is up to them.
    """
    if "zero" in "".join(arguments[1::2]):
        # What its first training imports, once for all forks.
        import deepspeed  # noqa: F401
        import torch._inductor.compile_fx
        import torch.utils.tensorboard  # noqa: F401
    statuses = []
    for folder, asked in zip(arguments[::2], arguments[1::2], strict=True):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        children = [_fork([folder, asked], rank, processes, meeting) for rank in range(processes)]
        statuses.append([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
    return statuses


def _fork(arguments: list[str], rank: int, processes: int, meeting: dict[str, str]) -> int:
    child = os.fork()
    if child:
        return child
    os.environ |= {**meeting, "WORLD_SIZE": str(processes), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    try:
        run_all(arguments)
        end_process(0)
    except BaseException:
        traceback.print_exc()
    os._exit(1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "--fork":
        print(json.dumps(fork_all(sys.argv[3:], processes=int(sys.argv[2]))))
    else:
        run_all(sys.argv[1:])
        end_process(0)
