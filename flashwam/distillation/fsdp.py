# SPDX-License-Identifier: Apache-2.0
"""Fully sharded training with torch's `fully_shard` (FSDP2): student, target, optimiser, and if asked the teacher."""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as sharded_checkpoint
from torch import Tensor, nn
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from flashwam.distillation.strategy import MakeOptimizer, Strategy
from flashwam.recipe import LoopConfig

__all__ = ["FullyShardedStrategy"]


class FullyShardedStrategy(Strategy):
    """Every block of a model is a shard unit, the rest another; the same code over gloo on CPUs and NCCL on GPUs.

    accelerate's own plugin does not run on CPUs; it still owns devices, precision and accumulation here.

    Args:
        loop: See `Strategy`; `shard_teacher` says whether the teacher is sharded like the student.

    Raises:
        ValueError: one process only.
    """

    def __init__(self, loop: LoopConfig) -> None:
        super().__init__(loop)
        processes = self.accelerator.num_processes
        if processes < 2:
            raise ValueError(
                "strategy 'fsdp' shards over several processes and there is one: start them with torchrun "
                "--nproc_per_node N, or use strategy: single"
            )
        self.mesh = init_device_mesh(self.accelerator.device.type, (processes,))
        self._plain: nn.Module | None = None

    @property
    def average_in_place(self) -> bool:
        """See `Strategy.average_in_place`."""
        return True

    def prepare(self, model: nn.Module, optimizer: MakeOptimizer) -> tuple[nn.Module, Any, Optimizer]:
        """See `Strategy.prepare`."""
        self._plain = copy.deepcopy(model).to("meta")
        self._shard(model)
        bare = optimizer(p for p in model.parameters() if p.requires_grad)
        return model, self.accelerator.prepare_optimizer(bare, device_placement=False), bare

    def place_copy(self, model: nn.Module, *, follows_student: bool) -> None:
        """See `Strategy.place_copy`."""
        if follows_student or self.loop.shard_teacher:
            # No backward pass will come and put the root's shards back.
            self._shard(model, reshard_after_forward=True)

    @contextmanager
    def gathered(self, model: nn.Module) -> Iterator[None]:
        """See `Strategy.gathered`."""
        units = [module for module in model.modules() if isinstance(module, FSDPModule)]
        for unit in units:
            unit.unshard()
        try:
            yield
        finally:
            for unit in units:
                unit.reshard()

    @contextmanager
    def whole(self, model: nn.Module) -> Iterator[nn.Module]:
        """See `Strategy.whole`; the main process alone holds a whole copy, on the CPU."""
        main = self.accelerator.is_main_process
        plain = copy.deepcopy(self._plain).to_empty(device="cpu") if main else model
        mine = dict(plain.named_parameters()) | dict(plain.named_buffers())
        with torch.no_grad():
            for name, value in [*model.named_parameters(), *model.named_buffers()]:
                value = value.full_tensor() if isinstance(value, DTensor) else value
                if main:
                    mine[name].copy_(value)
        yield plain

    def clip(self, parameters: list[Tensor], norm: float) -> float:
        """See `Strategy.clip`."""
        total = torch.nn.utils.clip_grad_norm_(parameters, norm)
        return float(total.full_tensor() if isinstance(total, DTensor) else total)

    def watch(self, optimizer: Optimizer, scheduler: LRScheduler) -> None:
        """See `Strategy.watch`."""
        self._optimizer, self._scheduler = optimizer, scheduler

    def save(self, folder: Path, student: nn.Module, target: nn.Module | None) -> None:
        """See `Strategy.save`: every process writes its shards."""
        sharded_checkpoint.save(self._state(student, target), checkpoint_id=folder)
        if self.accelerator.is_main_process:
            (folder / "scheduler.json").write_text(json.dumps({"steps": self._scheduler.last_epoch}) + "\n")

    def restore(self, folder: Path, student: nn.Module, target: nn.Module | None) -> None:
        """See `Strategy.restore`."""
        kept = sharded_checkpoint.FileSystemReader(folder).read_metadata().state_dict_metadata
        lost = [name for name, _ in student.named_parameters() if f"student.{name}" not in kept]
        if lost:
            raise ValueError(
                f"{folder} lacks {len(lost)} parameters of the student, first {lost[:3]}: another model's?"
            )
        # Asking for the state of an optimiser that has not stepped yet makes one for every parameter.
        state = self._state(student, target)
        sharded_checkpoint.load(state, checkpoint_id=folder, planner=DefaultLoadPlanner(allow_partial_load=True))
        set_model_state_dict(student, state["student"])
        set_optimizer_state_dict(student, self._optimizer, state["optimizer"])
        for name, parameter in student.named_parameters():
            if not any(key.startswith(f"optimizer.state.{name}.") for key in kept):
                self._optimizer.state.pop(parameter, None)
        if target is not None:
            set_model_state_dict(target, state["target"])
        steps = json.loads((folder / "scheduler.json").read_text())["steps"]
        self._scheduler.load_state_dict({**self._scheduler.state_dict(), "last_epoch": steps})

    def _state(self, student: nn.Module, target: nn.Module | None) -> dict[str, Any]:
        state = {
            "student": get_model_state_dict(student),
            "optimizer": get_optimizer_state_dict(student, self._optimizer),
        }
        return state if target is None else state | {"target": get_model_state_dict(target)}

    def _shard(self, model: nn.Module, *, reshard_after_forward: bool | None = None) -> None:
        policy = MixedPrecisionPolicy()
        if self.loop.precision == "bf16":
            # Inputs stay as they are: a noise level of 8 bits is another one than the loss' own.
            policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
            )
        names = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
        for module in model.modules():
            if type(module).__name__ in names:
                fully_shard(module, mesh=self.mesh, mp_policy=policy)
        fully_shard(model, mesh=self.mesh, mp_policy=policy, reshard_after_forward=reshard_after_forward)
