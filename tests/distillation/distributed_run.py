# SPDX-License-Identifier: Apache-2.0
"""A toy distillation for torchrun: `distributed_run.py FOLDER STRATEGY`, with adapters where that ends in -lora."""

import sys
from pathlib import Path

import torch
from distill_toys import GaussianTeacher, ToySource, ToyWam

from flashwam.core.streams import StreamSpec
from flashwam.distillation.methods import make_method
from flashwam.distillation.trainer import train
from flashwam.recipe import LoopConfig, LoraConfig


def run(folder: Path, strategy: str) -> Path:
    """Six steps of two accumulated batches, the action stream without a loss; checkpoints on the way."""
    streams = {
        "video": StreamSpec.from_config("video", {"shift": 5.0, "guidance": [2, 4]}),
        "action": StreamSpec.from_config("action", {"shift": 1.0, "weight": 0.0}),
    }
    strategy, _, adapted = strategy.partition("-")
    loop = LoopConfig(
        method="consistency",
        strategy=strategy,
        lora=LoraConfig(rank=2, alpha=4, targets=("video", "action", "shared")) if adapted else None,
        steps=6,
        batch_size=8,
        accumulation=2,
        lr=1e-2,
        warmup_steps=2,
        save_every=2,
        diagnose_every=3,
    )
    student = ToyWam.create(seed=1)
    method = make_method(loop, streams, student, teacher=student if adapted else GaussianTeacher())
    return train(method, ToySource(), loop, run_dir=folder, seed=0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), sys.argv[2])
    torch.distributed.destroy_process_group()
