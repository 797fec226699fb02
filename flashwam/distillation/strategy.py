# SPDX-License-Identifier: Apache-2.0
"""How processes share a training: what accelerate and DeepSpeed do, behind one interface."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from flashwam.recipe import LoopConfig

__all__ = ["Strategy", "make_strategy"]

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


class Strategy:
    """One process, DDP, ZeRO-2 or ZeRO-3: accelerate prepares the student; frozen copies are whole in every process.

    Args:
        loop: Gives strategy, precision and accumulation; processes come from torchrun or accelerate launch.

    Raises:
        ImportError: a ZeRO strategy without deepspeed.
        ValueError: several processes with the strategy "single".
    """

    def __init__(self, loop: LoopConfig) -> None:
        self.loop = loop
        # accelerate keeps the precision of a process' first training; a second one may have another.
        AcceleratorState._reset_state()
        self.accelerator = self._make_accelerator()
        if loop.strategy == "single" and self.accelerator.num_processes > 1:
            raise ValueError(
                f"{self.accelerator.num_processes} processes were started for strategy 'single'; use strategy: ddp"
            )

    def prepare(self, model: nn.Module, optimizer: MakeOptimizer) -> tuple[nn.Module, Any, Optimizer]:
        """The student as losses call it, its optimiser as the loop steps it, and the bare optimiser beneath."""
        bare = optimizer(p for p in model.parameters() if p.requires_grad)
        wrapped, prepared = self.accelerator.prepare(model, bare)
        return wrapped, prepared, bare

    def place_copy(self, model: nn.Module, *, follows_student: bool) -> None:
        """Makes a frozen copy ready, already on the device; one that follows the student is laid out as it is."""

    def gathered(self, model: nn.Module) -> AbstractContextManager[Any]:
        """A context in which every process can compute with all parameters of a model."""
        if self.loop.strategy != "zero3":
            return nullcontext()
        import deepspeed

        sharded = [p for p in model.parameters() if hasattr(p, "ds_id")]
        return deepspeed.zero.GatheredParameters(sharded) if sharded else nullcontext()

    @property
    def average_in_place(self) -> bool:
        """Whether student and target lie alike, so that the average needs no gathering."""
        return self.loop.strategy != "zero3"

    @contextmanager
    def whole(self, model: nn.Module) -> Iterator[nn.Module]:
        """A context that gives the main process a plain model for writing."""
        with self.gathered(model):
            yield model

    def clip(self, parameters: list[Tensor], norm: float) -> float:
        """Scales gradients down to a norm; returns what it was."""
        return float(self.accelerator.clip_grad_norm_(parameters, norm))

    def watch(self, optimizer: Optimizer, scheduler: LRScheduler) -> None:
        """Names what `save` has to keep beside the models."""
        self.accelerator.register_for_checkpointing(scheduler)

    def save(self, folder: Path, student: nn.Module, target: nn.Module | None) -> None:
        """Writes this process' share of a checkpoint."""
        self.accelerator.save_state(str(folder), safe_serialization=True)
        if target is not None and self.accelerator.is_main_process:
            save_file(target.state_dict(), folder / "target.safetensors")

    def restore(self, folder: Path, student: nn.Module, target: nn.Module | None) -> None:
        """Reads what `save` wrote."""
        if target is not None:
            target.load_state_dict(load_file(folder / "target.safetensors"))
        self.accelerator.load_state(str(folder))

    def _make_accelerator(self) -> Accelerator:
        loop, gpu = self.loop, torch.cuda.is_available()
        common: dict[str, Any] = {"gradient_accumulation_steps": loop.accumulation, "mixed_precision": loop.precision}
        if loop.strategy in ("zero2", "zero3"):
            return Accelerator(
                deepspeed_plugin=_deepspeed_plugin(loop),
                # On CPU every process would take itself for the only one without this.
                kwargs_handlers=[] if gpu else [InitProcessGroupKwargs(backend="gloo")],
                **common,
            )
        # A stream without a loss leaves its head without a gradient.
        handlers = [DistributedDataParallelKwargs(find_unused_parameters=True, gradient_as_bucket_view=True)]
        return Accelerator(cpu=not gpu, kwargs_handlers=handlers, **common)


def make_strategy(loop: LoopConfig) -> Strategy:
    """The strategy that a recipe names."""
    if loop.strategy == "fsdp":
        from flashwam.distillation.fsdp import FullyShardedStrategy

        return FullyShardedStrategy(loop)
    return Strategy(loop)


def _deepspeed_plugin(loop: LoopConfig) -> Any:
    try:
        import deepspeed
        from accelerate.utils import DeepSpeedPlugin
    except ImportError as error:
        raise ImportError(f"strategy {loop.strategy!r} needs deepspeed: pip install deepspeed") from error
    if not torch.cuda.is_available():
        # On CPU it would first compile an all-reduce of its own, for a minute or two, where gloo has one.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    offload = {"device": "cpu"} if loop.offload else {"device": "none"}
    return DeepSpeedPlugin(
        # The models are built before they are sharded.
        zero3_init_flag=False,
        hf_ds_config={
            "train_micro_batch_size_per_gpu": loop.batch_size // int(os.environ.get("WORLD_SIZE", "1")),
            "gradient_accumulation_steps": loop.accumulation,
            "gradient_clipping": loop.clip_norm,
            "bf16": {"enabled": loop.precision == "bf16"},
            "zero_optimization": {"stage": int(loop.strategy[-1]), "offload_optimizer": offload},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        },
    )
