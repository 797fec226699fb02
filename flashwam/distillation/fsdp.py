# SPDX-License-Identifier: Apache-2.0
"""Fully sharded training with torch's `fully_shard` (FSDP2): what is trained, its optimisers, target and teacher."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from flashwam.distillation.roles import weightless_copy
from flashwam.distillation.strategy import MakeOptimizer, Strategy
from flashwam.recipe.sections import LoopConfig
from flashwam.system.errors import InputError

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
        self.mesh = init_device_mesh(self.accelerator.device.type, (self.accelerator.num_processes,))
        self._plain: nn.Module | None = None

    @classmethod
    def check(cls, loop: LoopConfig, processes: int) -> None:
        """See `Strategy.check`."""
        super().check(loop, processes)
        if processes < 2:
            raise InputError(
                "strategy 'fsdp' shards over several processes and there is one: start them with torchrun "
                "--nproc_per_node N, or use strategy: single"
            )

    @property
    def average_in_place(self) -> bool:
        """See `Strategy.average_in_place`."""
        return True

    def prepare(self, model: nn.Module, optimizer: MakeOptimizer) -> tuple[nn.Module, Any, Optimizer]:
        """See `Strategy.prepare`."""
        if self._plain is None:
            # Of the student, which comes first: it alone is written as a model.
            self._plain = weightless_copy(model).to("meta")
        self._shard(model)
        bare = self._made(model, optimizer)
        return model, self.accelerator.prepare_optimizer(bare, device_placement=False), bare

    def place_copy(self, model: nn.Module, *, follows_student: bool) -> None:
        """See `Strategy.place_copy`."""
        if follows_student or self.loop.shard_teacher:
            # No backward pass will come and put the root's shards back.
            self._shard(model, reshard_after_forward=True)
        else:
            super().place_copy(model, follows_student=follows_student)

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
        # After a pass without a backward one, as of a critic's turn, the root still has what it computes with: rounded.
        for unit in (module for module in model.modules() if isinstance(module, FSDPModule)):
            unit.reshard()
        plain = copy.deepcopy(self._plain).to_empty(device="cpu") if main else model
        mine = dict(plain.named_parameters()) | dict(plain.named_buffers())
        with torch.no_grad():
            for name, value in [*model.named_parameters(), *model.named_buffers()]:
                value = value.full_tensor() if isinstance(value, DTensor) else value
                if main:
                    mine[name].copy_(value)
        yield plain

    def clip(self, parameters: list[Tensor], norm: float) -> Tensor:
        """See `Strategy.clip`."""
        total = torch.nn.utils.clip_grad_norm_(parameters, norm)
        return total.full_tensor() if isinstance(total, DTensor) else total

    def whole_value(self, value: Tensor) -> Tensor:
        """See `Strategy.whole_value`."""
        return value.full_tensor() if isinstance(value, DTensor) else value

    def put_value(self, value: Tensor, whole: Tensor) -> None:
        """See `Strategy.put_value`."""
        super().put_value(value, _laid_out_as(value, whole))

    def optimizer_values(self, parameter: Tensor) -> dict[str, Tensor]:
        """See `Strategy.optimizer_values`."""
        return {kind: self.whole_value(number) for kind, number in super().optimizer_values(parameter).items()}

    def put_optimizer_values(self, parameter: Tensor, values: Mapping[str, Tensor]) -> None:
        """See `Strategy.put_optimizer_values`."""
        shaped = {
            kind: _laid_out_as(parameter, number) if number.shape == parameter.shape and kind != "step" else number
            for kind, number in values.items()
        }
        super().put_optimizer_values(parameter, shaped)

    def _shard(self, model: nn.Module, *, reshard_after_forward: bool | None = None) -> None:
        """Shards a model in place, unit by unit, each of which it moves to the device first: nowhere is it whole."""
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


def _laid_out_as(value: Tensor, whole: Tensor) -> Tensor:
    """This process' share of a tensor that every process has whole."""
    if not isinstance(value, DTensor):
        return whole
    whole = whole.to(value.device)
    return distribute_tensor(whole, value.device_mesh, value.placements, src_data_rank=None)
