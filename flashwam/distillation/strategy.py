# SPDX-License-Identifier: Apache-2.0
"""How accelerate is set up for each of a recipe's strategies."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import nn

from flashwam.recipe import LoopConfig

__all__ = ["gather_for", "make_accelerator"]


def make_accelerator(loop: LoopConfig) -> Accelerator:
    """An accelerator for `loop.strategy` and `loop.precision`; processes come from torchrun or accelerate launch.

    Raises:
        ImportError: a ZeRO strategy without deepspeed.
        ValueError: several processes with the strategy "single".
    """
    common: dict[str, Any] = {"gradient_accumulation_steps": loop.accumulation, "mixed_precision": loop.precision}
    gpu = torch.cuda.is_available()
    # accelerate keeps the precision of a process' first training; a second one may have another.
    AcceleratorState._reset_state()
    if loop.strategy in ("zero2", "zero3"):
        return Accelerator(
            deepspeed_plugin=_deepspeed_plugin(loop),
            # On CPU every process would take itself for the only one without this.
            kwargs_handlers=[] if gpu else [InitProcessGroupKwargs(backend="gloo")],
            **common,
        )
    # A stream without a loss leaves its head without a gradient.
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True, gradient_as_bucket_view=True)]
    accelerator = Accelerator(cpu=not gpu, kwargs_handlers=handlers, **common)
    if loop.strategy == "single" and accelerator.num_processes > 1:
        raise ValueError(f"{accelerator.num_processes} processes were started for strategy 'single'; use strategy: ddp")
    return accelerator


def gather_for(loop: LoopConfig) -> Callable[[nn.Module], AbstractContextManager[Any]]:
    """What makes a model's parameters whole for reading: a gather where the strategy shards them, else nothing."""
    if loop.strategy != "zero3":
        return nullcontext

    def gather(model: nn.Module) -> AbstractContextManager[Any]:
        import deepspeed

        return deepspeed.zero.GatheredParameters(list(model.parameters()))

    return gather


def _deepspeed_plugin(loop: LoopConfig) -> Any:
    try:
        import deepspeed  # noqa: F401
        from accelerate.utils import DeepSpeedPlugin
    except ImportError as error:
        raise ImportError(f"strategy {loop.strategy!r} needs deepspeed: pip install deepspeed") from error
    return DeepSpeedPlugin(
        # The models are built before they are sharded.
        zero3_init_flag=False,
        hf_ds_config={
            "train_micro_batch_size_per_gpu": loop.batch_size // int(os.environ.get("WORLD_SIZE", "1")),
            "gradient_accumulation_steps": loop.accumulation,
            "gradient_clipping": loop.clip_norm,
            "bf16": {"enabled": loop.precision == "bf16"},
            "zero_optimization": {"stage": int(loop.strategy[-1])},
            "zero_allow_untested_optimizer": True,
        },
    )
