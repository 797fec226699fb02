# SPDX-License-Identifier: Apache-2.0
"""The copies of a model that a method works with: teacher, student, target and an optional frozen reference."""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from flashwam.distillation.adapted_model import AdaptedModel
from flashwam.wam.base import WorldActionModel

__all__ = ["Roles", "ema_update", "frozen_copy", "relative_distance"]


def frozen_copy(model: WorldActionModel, name: str) -> WorldActionModel:
    """A copy of its own memory that takes no gradient; of a model with an adapter, the adapter alone is copied.

    Args:
        model: What is copied.
        name: Of the copy's adapter, where there is one.
    """
    if isinstance(model, AdaptedModel):
        return model.frozen_copy(name)
    return copy.deepcopy(model).requires_grad_(False).eval()


@torch.no_grad()
def ema_update(target: nn.Module, source: nn.Module, *, decay: float) -> None:
    """target = decay target + (1 - decay) source for every parameter; buffers are copied."""
    ours, theirs = list(target.parameters()), list(source.parameters())
    torch._foreach_lerp_(ours, theirs, 1 - decay)
    for mine, other in zip(target.buffers(), source.buffers(), strict=True):
        mine.copy_(other)


@torch.no_grad()
def relative_distance(model: nn.Module, reference: nn.Module) -> float:
    """|model - reference| / |reference| over all parameters (Euclidean)."""
    ours, theirs = list(model.parameters()), list(reference.parameters())
    apart = torch.stack(torch._foreach_norm(torch._foreach_sub(ours, theirs)))
    return float(torch.linalg.vector_norm(apart) / torch.linalg.vector_norm(torch.stack(torch._foreach_norm(theirs))))


class Roles:
    """Who is who in one training.

    Args:
        student: The model that is trained; switched to training mode. Models of one `Adapters` share a backbone.
        teacher: Frozen model that gives targets; None where the data do. Frozen in place.
        target: Whether an exponential moving average of the student is kept.
        reference: Whether a frozen copy of the student as it starts is kept.

    Attributes:
        student: What losses call; a wrapper of `model` once devices and processes are set up.
        model: The student itself, for saving.
    """

    def __init__(
        self,
        student: WorldActionModel,
        *,
        teacher: WorldActionModel | None = None,
        target: bool = False,
        reference: bool = False,
    ) -> None:
        if teacher is not None and teacher is student:
            raise ValueError("teacher and student are the same object; the student must be a copy, load it again")
        self.teacher = None if teacher is None else teacher.requires_grad_(False).eval()
        self.model = student.requires_grad_(True).train()
        self.student: nn.Module = student
        self.target = frozen_copy(student, "target") if target else None
        self.reference = frozen_copy(student, "reference") if reference else None
        self._gather: Callable[[nn.Module], AbstractContextManager[Any]] = nullcontext

    def place(
        self,
        wrap: Callable[[nn.Module], nn.Module],
        device: torch.device | str,
        *,
        gather: Callable[[nn.Module], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        """Moves every copy to `device` and lets `wrap` make the student ready for the strategy.

        Args:
            wrap: Makes the student what losses call.
            device: Of every copy.
            gather: Opens a context in which the student's parameters are whole, where a strategy shards them.
        """
        self._gather = gather
        for model in (self.model, self.teacher, self.target, self.reference):
            if model is not None:
                model.to(device)
        self.student = wrap(self.model)

    def update_target(self, decay: float) -> None:
        """One step of the moving average; nothing to do without a target."""
        if self.target is not None:
            with self.whole_student() as student:
                ema_update(self.target, student, decay=decay)

    @contextmanager
    def whole_student(self) -> Iterator[WorldActionModel]:
        """The student with all its parameters, for reading."""
        with self._gather(self.model):
            yield self.model
