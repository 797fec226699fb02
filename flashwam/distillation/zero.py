# SPDX-License-Identifier: Apache-2.0
"""Training with DeepSpeed's ZeRO-2 and ZeRO-3: optimiser and gradients, and with the latter weights, in shares."""

import importlib.util
import os
import socket
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn
from torch.optim import Optimizer

from flashwam.distillation.strategy import MakeOptimizer, Strategy, half_autocast
from flashwam.recipe.sections import LoopConfig
from flashwam.system.errors import MissingPackageError

__all__ = ["ZeroStrategy"]


class ZeroStrategy(Strategy):
    """DeepSpeed owns the student's optimiser in flat tensors, of which every process has a share.

    It trains the student alone. A second model in the same engine would not stand still while the student has its turn:
    AdamW moves a parameter with a zero gradient by its momentum.

    Started without torchrun it is the only process. What a checkpoint keeps are whole float32 weights and moments by
    name, read from and put into the shares here: DeepSpeed's own checkpoints are pickles of one number of processes.

    Args:
        loop: See `Strategy`; `offload` says whether the optimiser lives in the CPU's memory.

    Raises:
        ImportError: deepspeed is missing.
    """

    trains_several = False

    @classmethod
    def check(cls, loop: LoopConfig, processes: int) -> None:
        """See `Strategy.check`."""
        super().check(loop, processes)
        _check_package(loop)

    def prepare(self, model: nn.Module, optimizer: MakeOptimizer) -> tuple[nn.Module, Any, Optimizer]:
        """See `Strategy.prepare`."""
        prepared = super().prepare(model, optimizer)
        self.zero = prepared[0].optimizer
        self._group = {}
        if self.loop.strategy == "zero2":
            self._group = {id(p): i for i, group in enumerate(self.zero.bit16_groups) for p in group}
        return prepared

    def close(self) -> None:
        """See `Strategy.close`."""
        for name in self._alone:
            os.environ.pop(name, None)

    def gathered(self, model: nn.Module) -> AbstractContextManager[Any]:
        """See `Strategy.gathered`."""
        import deepspeed

        sharded = [p for p in model.parameters() if hasattr(p, "ds_id")]
        return deepspeed.zero.GatheredParameters(sharded) if sharded else nullcontext()

    def autocast(self) -> AbstractContextManager[Any]:
        """See `Strategy.autocast`: accelerate leaves precision to DeepSpeed, which knows its own model alone; frozen
        copies beside it keep float32 weights."""
        kind, half = self.accelerator.device.type, self.loop.precision == "bf16"
        return half_autocast(kind, enabled=half)

    @property
    def average_in_place(self) -> bool:
        """See `Strategy.average_in_place`."""
        return self.loop.strategy != "zero3"

    def whole_shape(self, value: Tensor) -> torch.Size:
        """See `Strategy.whole_shape`."""
        return getattr(value, "ds_shape", value.shape)

    def whole_value(self, value: Tensor) -> Tensor:
        """See `Strategy.whole_value`: of what is trained the float32 original."""
        if self._is_trained(value):
            return self._collect(value, self._flat(value))
        with self._one(value):
            return value.detach().clone()

    def put_value(self, value: Tensor, whole: Tensor) -> None:
        """See `Strategy.put_value`."""
        if not self._is_trained(value):
            with self._one(value, modifier_rank=0), torch.no_grad():
                value.copy_(whole)
            return
        self._spread(value, whole, self._flat(value))
        if hasattr(value, "ds_id"):
            self._spread(value, whole, value.ds_tensor.data, start=0)
        else:
            value.data.copy_(whole)

    def optimizer_values(self, parameter: Tensor) -> dict[str, Tensor]:
        """See `Strategy.optimizer_values`."""
        if not self._is_trained(parameter):
            return {}
        flat = self._flat(parameter)
        kept = self.zero.optimizer.state.get(flat, {})
        return {
            kind: self._collect(parameter, value) if value.shape == flat.shape else value
            for kind, value in kept.items()
        }

    def put_optimizer_values(self, parameter: Tensor, values: Mapping[str, Tensor]) -> None:
        """See `Strategy.put_optimizer_values`."""
        if not self._is_trained(parameter):
            return
        flat, shape = self._flat(parameter), self.whole_shape(parameter)
        kept = self.zero.optimizer.state[flat]
        for kind, value in values.items():
            if value.shape == shape and kind != "step":
                kept.setdefault(kind, torch.zeros_like(flat))
                self._spread(parameter, value, kept[kind])
            else:
                kept[kind] = value.to(flat.device)

    def restored(self) -> None:
        """See `Strategy.restored`: small weights, which stay whole, are gathered again from the shares."""
        persistent = getattr(self.zero, "persistent_parameters", [])
        if persistent:
            persistent[0].partition(persistent)
            persistent[0].all_gather(persistent)

    def _is_trained(self, value: Tensor) -> bool:
        return isinstance(value, nn.Parameter) and value.requires_grad

    def _one(self, value: Tensor, modifier_rank: int | None = None) -> AbstractContextManager[Any]:
        import deepspeed

        if not hasattr(value, "ds_id"):
            return nullcontext()
        return deepspeed.zero.GatheredParameters([value], modifier_rank=modifier_rank)

    def _flat(self, parameter: Tensor) -> Tensor:
        """This process' share of the group of parameters that one belongs to, float32 and one-dimensional."""
        if hasattr(parameter, "ds_id"):
            return self.zero.fp32_partitioned_groups_flat[self._place(parameter)[0]]
        return self.zero.single_partition_of_fp32_groups[self._group[id(parameter)]]

    def _place(self, parameter: Tensor) -> tuple[int, int, int]:
        """ZeRO-3: group, where this process' share of a parameter begins in it, its length with padding."""
        return self.zero.grad_position[self.zero.get_param_id(parameter)]

    def _share(self, parameter: Tensor) -> tuple[int, int, int]:
        """Finds where this process' share of a parameter begins in its group and in the parameter, and its length."""
        if hasattr(parameter, "ds_id"):
            _, offset, length = self._place(parameter)
            begin = length * self.accelerator.process_index
            return offset, begin, max(0, min(length, parameter.ds_numel - begin))
        mapping = parameter._hp_mapping
        if mapping is None:
            return 0, 0, 0
        held, own = mapping.hp_fragment_address, mapping.lp_fragment_address
        return held.start, own.start, own.numel

    def _collect(self, parameter: Tensor, flat: Tensor) -> Tensor:
        offset, begin, length = self._share(parameter)
        shape = self.whole_shape(parameter)
        whole = torch.zeros(shape.numel(), dtype=flat.dtype, device=self.accelerator.device)
        whole[begin : begin + length].copy_(flat.detach()[offset : offset + length])
        torch.distributed.all_reduce(whole)
        return whole.reshape(shape)

    def _spread(self, parameter: Tensor, whole: Tensor, flat: Tensor, start: int | None = None) -> None:
        offset, begin, length = self._share(parameter)
        offset = offset if start is None else start
        flat.data[offset : offset + length].copy_(whole.flatten()[begin : begin + length])

    def _make_accelerator(self) -> Accelerator:
        self._alone = _become_only_process()
        return Accelerator(
            deepspeed_plugin=_plugin(self.loop),
            # On CPU every process would take itself for the only one without this.
            kwargs_handlers=[] if torch.cuda.is_available() else [InitProcessGroupKwargs(backend="gloo")],
            **self._common(),
        )


def _become_only_process() -> tuple[str, ...]:
    """Says, where no launcher has said which process this is, that it is the only one; returns the names of the
    variables that were set, which must not reach processes that are started later."""
    if "RANK" in os.environ:
        return ()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    said |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(said)
    return tuple(said)


def _check_package(loop: LoopConfig) -> None:
    if importlib.util.find_spec("deepspeed") is None:
        raise MissingPackageError(f"strategy {loop.strategy!r} needs deepspeed: pip install deepspeed")


def _plugin(loop: LoopConfig) -> Any:
    _check_package(loop)
    import deepspeed
    from accelerate.utils import DeepSpeedPlugin

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
