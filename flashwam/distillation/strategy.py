# SPDX-License-Identifier: Apache-2.0
"""The sharing of a training among processes, behind one interface; here as accelerate does it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import AutocastKwargs, DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.optim import Optimizer

from flashwam.distillation.adapters import STUDENT
from flashwam.recipe.sections import LoopConfig
from flashwam.system.errors import InputError

__all__ = ["MakeOptimizer", "Strategy", "half_autocast"]

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]

_AUTOCAST = AutocastKwargs(cache_enabled=False)
"""Up to torch 2.10, what a pass without gradient cast is what a later pass with one computes with, and no gradient gets
past it to the weights."""


def half_autocast(kind: str, *, enabled: bool) -> torch.autocast:
    """A context that computes in bf16 on a kind of device, as the loop's own does."""
    return torch.autocast(kind, torch.bfloat16, enabled=enabled, cache_enabled=_AUTOCAST.cache_enabled)


class Strategy:
    """One process or DDP: accelerate prepares what is trained; frozen copies are whole in every process.

    Args:
        loop: Gives strategy, precision and accumulation; processes come from torchrun or accelerate launch.

    Raises:
        ValueError, ImportError: as `check`, of the processes that there are.
    """

    trains_several: ClassVar[bool] = True
    """True if models beside the student can be trained, each with an optimiser of its own."""

    def __init__(self, loop: LoopConfig) -> None:
        self.loop = loop
        self._optimizers: dict[Tensor, Optimizer] = {}
        # accelerate keeps the precision of a process' first training; a second one may have another.
        AcceleratorState._reset_state()
        self.accelerator = self._make_accelerator()
        self.check(loop, self.accelerator.num_processes)

    @classmethod
    def check(cls, loop: LoopConfig, processes: int) -> None:
        """Refuses processes that it cannot share a training among.

        Args:
            loop: Gives strategy and batch.
            processes: Their number.

        Raises:
            ValueError: There are too many or too few, or a batch does not fall to them evenly.
            ImportError: A package that it needs is not installed.
        """
        if loop.strategy == "single" and processes > 1:
            raise InputError(f"{processes} processes were started for strategy 'single'; use strategy: ddp")
        if loop.batch_size % processes:
            raise InputError(f"batch_size {loop.batch_size} must be a multiple of the {processes} processes")

    def prepare(self, model: nn.Module, optimizer: MakeOptimizer) -> tuple[nn.Module, Any, Optimizer]:
        """A trained model, moved to the device, as losses call it, its optimiser as the loop steps it, and the bare
        optimiser beneath."""
        model.to(self.accelerator.device)
        bare = self._made(model, optimizer)
        wrapped, prepared = self.accelerator.prepare(model, bare)
        return wrapped, prepared, bare

    def place_copy(self, model: nn.Module, *, follows_student: bool) -> None:
        """Moves a frozen copy to the device and makes it ready; one that follows the student is laid out as it is."""
        model.to(self.accelerator.device)

    def gathered(self, model: nn.Module) -> AbstractContextManager[Any]:
        """A context in which every process can compute with all parameters of a model."""
        return nullcontext()

    def autocast(self) -> AbstractContextManager[Any]:
        """A context in which losses are computed, in the recipe's precision."""
        return self.accelerator.autocast()

    @property
    def average_in_place(self) -> bool:
        """True if student and target lie alike, so that the average needs no gathering."""
        return True

    @contextmanager
    def whole(self, model: nn.Module) -> Iterator[nn.Module]:
        """A context that gives the main process a plain model for writing."""
        with self.gathered(model):
            yield model

    def clip(self, parameters: list[Tensor], norm: float) -> Tensor:
        """Scales gradients down to a norm; returns what it was, [], where it was computed."""
        return torch.as_tensor(self.accelerator.clip_grad_norm_(parameters, norm))

    def close(self) -> None:
        """Called once the training ends, however it ends."""

    def state(self, trained: Mapping[str, nn.Module], target: nn.Module | None) -> Iterator[tuple[str, Tensor]]:
        """Everything that a checkpoint keeps of the models and their optimisers, whole, by name; one tensor at a time.

        Every process must take all of it; the main process alone need get values of use.

        Args:
            trained: Role -> model with an optimiser.
            target: The moving average, where there is one.
        """
        for role, model in trained.items():
            for name, value in _named(model).items():
                yield f"{role}.{name}", self.whole_value(value)
                for kind, number in self.optimizer_values(value).items():
                    yield f"{_optimizer_of(role)}.{kind}.{name}", number
        for name, value in _named(target).items() if target is not None else ():
            yield f"target.{name}", self.whole_value(value)

    def restore(self, state: Mapping[str, Tensor], trained: Mapping[str, nn.Module], target: nn.Module | None) -> None:
        """Takes back what `state` gave, in any number of processes.

        Raises:
            ValueError: `state` is another model's.
        """
        sections = {_optimizer_of(role): role for role in trained}
        optimizer: dict[tuple[str, str], dict[str, str]] = {}
        for key in state:
            section, _, rest = key.partition(".")
            if section in sections:
                kind, _, name = rest.partition(".")
                optimizer.setdefault((sections[section], name), {})[kind] = key
        for role, model in (*trained.items(), *((("target", target),) if target is not None else ())):
            for name, value in _named(model).items():
                kept = state.get(f"{role}.{name}")
                shape = self.whole_shape(value)
                if kept is None or kept.shape != shape:
                    found = "is missing" if kept is None else f"has shape {tuple(kept.shape)}"
                    raise InputError(
                        f"the checkpoint is another model's: {role}.{name} {found}, expected shape {tuple(shape)}"
                    )
                self.put_value(value, kept)
                if role in trained:
                    moments = {k: state[key] for k, key in optimizer.get((role, name), {}).items()}
                    _check_moments(name, shape, moments)
                    self.put_optimizer_values(value, moments)
        self.restored()

    def whole_shape(self, value: Tensor) -> torch.Size:
        """Shape of a parameter or buffer as it is without sharding."""
        return value.shape

    def whole_value(self, value: Tensor) -> Tensor:
        """A parameter or buffer as it is without sharding; all processes ask together."""
        return value

    def put_value(self, value: Tensor, whole: Tensor) -> None:
        """Sets a parameter or buffer from what `whole_value` gave."""
        with torch.no_grad():
            value.copy_(whole)

    def optimizer_values(self, parameter: Tensor) -> dict[str, Tensor]:
        """Gives the whole optimiser's state of a parameter; empty before its first step. All processes call it."""
        owner = self._optimizers.get(parameter)
        return {} if owner is None else dict(owner.state.get(parameter, {}))

    def put_optimizer_values(self, parameter: Tensor, values: Mapping[str, Tensor]) -> None:
        """Sets what the optimiser knows of a parameter from what `optimizer_values` gave."""
        owner = self._optimizers.get(parameter)
        if owner is None:
            return
        owner.state.pop(parameter, None)
        if values:
            owner.state[parameter] = {kind: number.to(parameter.device) for kind, number in values.items()}

    def restored(self) -> None:
        """Called once all values are set."""

    def _made(self, model: nn.Module, optimizer: MakeOptimizer) -> Optimizer:
        """The optimiser of a model's parameters as they lie now, remembered as theirs."""
        parameters = [p for p in model.parameters() if p.requires_grad]
        bare = optimizer(parameters)
        self._optimizers |= dict.fromkeys(parameters, bare)
        return bare

    def _make_accelerator(self) -> Accelerator:
        # A stream without a loss leaves its head without a gradient.
        shared = DistributedDataParallelKwargs(find_unused_parameters=True, gradient_as_bucket_view=True)
        handlers = [shared, _AUTOCAST]
        return Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=handlers, **self._common())

    def _common(self) -> dict[str, Any]:
        return {"gradient_accumulation_steps": self.loop.accumulation, "mixed_precision": self.loop.precision}


def _optimizer_of(role: str) -> str:
    """Begins the names of an optimiser's state in a checkpoint; the student's as when nothing else was trained."""
    return "optimizer" if role == STUDENT else f"{role}_optimizer"


def _check_moments(name: str, shape: torch.Size, moments: Mapping[str, Tensor]) -> None:
    """Refuses what is no state of AdamW for a parameter; it may have none yet."""
    if not moments:
        return
    kinds = {kind: tuple(value.shape) for kind, value in moments.items()}
    if not kinds.keys() >= {"step", "exp_avg", "exp_avg_sq"} or not kinds["exp_avg"] == kinds["exp_avg_sq"] == shape:
        raise InputError(
            f"the checkpoint is another model's: the optimiser's state of {name} holds {kinds}, expected step, and "
            f"exp_avg and exp_avg_sq of shape {tuple(shape)}"
        )


def _named(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a model's state dict, the very objects; one that has several names under the first."""
    seen: dict[int, str] = {}
    entries = model.state_dict(keep_vars=True)
    return {name: value for name, value in entries.items() if seen.setdefault(id(value), name) == name}
