# SPDX-License-Identifier: Apache-2.0
"""The copies of a model that a method works with: student, teacher, and target, reference and critic if asked for."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from flashwam.distillation.adapted_model import AdaptedModel
from flashwam.distillation.adapters import STUDENT
from flashwam.wam.base import WorldActionModel

__all__ = ["CRITIC", "Roles", "ema_update", "frozen_copy", "relative_distance", "trainable_copy", "weightless_copy"]

CRITIC = "critic"


def frozen_copy(model: WorldActionModel, name: str) -> WorldActionModel:
    """A copy of its own memory that takes no gradient; of a model with an adapter, the adapter alone is copied.

    Args:
        model: What is copied.
        name: Of the copy's adapter, where there is one.
    """
    if isinstance(model, AdaptedModel):
        return model.frozen_copy(name)
    return copy.deepcopy(model).requires_grad_(False).eval()


def trainable_copy(model: WorldActionModel, name: str, *, dtype: torch.dtype) -> WorldActionModel:
    """A copy that is trained, from where the model stands; of a role of a shared backbone, a further adapter.

    Args:
        model: What is copied.
        name: Of the copy's adapter, where there is one.
        dtype: Of a whole copy's parameters; adapters have their own.
    """
    if isinstance(model, AdaptedModel):
        return model.trainable_copy(name)
    return copy.deepcopy(model).to(dtype).requires_grad_(True).train()


def weightless_copy(model: WorldActionModel) -> WorldActionModel:
    """A copy without memory for its parameters: it says all that a model says of itself, and computes nothing."""
    bare: dict[int, Any] = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, bare)


@torch.no_grad()
def ema_update(target: nn.Module, source: nn.Module, *, decay: float) -> None:
    """target = decay target + (1 - decay) source for every parameter, in the target's dtype; buffers are copied."""
    pairs = list(zip(target.parameters(), source.parameters(), strict=True))
    alike = [pair for pair in pairs if pair[0].dtype == pair[1].dtype]
    if alike:
        torch._foreach_lerp_(*map(list, zip(*alike, strict=True)), 1 - decay)
    for mine, other in pairs:
        # DeepSpeed rounds the model that it trains to bfloat16. One at a time: a whole copy would not fit.
        if mine.dtype != other.dtype:
            mine.lerp_(other.to(mine.dtype), 1 - decay)
    for mine, other in zip(target.buffers(), source.buffers(), strict=True):
        mine.copy_(other)


@torch.no_grad()
def relative_distance(model: nn.Module, reference: nn.Module) -> float:
    """|model - reference| / |reference| over all parameters (Euclidean)."""
    ours, theirs = list(model.parameters()), list(reference.parameters())
    apart = torch.stack(torch._foreach_norm(torch._foreach_sub(ours, theirs)))
    return float(torch.linalg.vector_norm(apart) / torch.linalg.vector_norm(torch.stack(torch._foreach_norm(theirs))))


class Roles:
    """The models of one training by their role: student, teacher, target, reference, critic.

    Args:
        student: The model that is trained; switched to training mode. Models of one `Adapters` share a backbone.
        teacher: Frozen model that gives targets; None where the data do. Frozen in place.
        target: Whether an exponential moving average of the student is kept.
        reference: Whether a frozen copy of the student as it starts is kept.
        critic: Whether a copy of the teacher is trained too.

    Attributes:
        trained: Role -> model that an optimiser moves; the student first.
        student, critic: What losses call where a gradient is taken; wrappers of those once devices and processes are
            set up. `critic` is None where there is none.
        model: The student itself, for saving and for passes without gradient.
    """

    def __init__(
        self,
        student: WorldActionModel,
        *,
        teacher: WorldActionModel | None = None,
        target: bool = False,
        reference: bool = False,
        critic: bool = False,
    ) -> None:
        if teacher is not None and teacher is student:
            raise ValueError("teacher and student are the same object; the student must be a copy, load it again")
        self.teacher = None if teacher is None else teacher.requires_grad_(False).eval()
        self.model = student.requires_grad_(True).train()
        self.student: nn.Module = student
        self.trained = {STUDENT: self.model}
        self.critic: nn.Module | None = None
        if critic:
            if self.teacher is None:
                raise ValueError("a critic starts as the teacher, and there is none")
            self.trained[CRITIC] = trainable_copy(self.teacher, CRITIC, dtype=next(student.parameters()).dtype)
            self.critic = self.trained[CRITIC]
        self.target = frozen_copy(student, "target") if target else None
        self.reference = frozen_copy(student, "reference") if reference else None
        self._gathered: Callable[[nn.Module], AbstractContextManager[Any]] = lambda model: nullcontext()
        self._average_in_place = True

    def place(
        self,
        wrap: Callable[[str, nn.Module], nn.Module],
        copies: Callable[..., None],
        *,
        gathered: Callable[[nn.Module], AbstractContextManager[Any]] = lambda model: nullcontext(),
        average_in_place: bool = True,
    ) -> None:
        """Lets a strategy move every copy to its device and make it ready, one after the other: where it shares a model
        among processes, no process need have room for several whole ones.

        Args:
            wrap: Moves a trained role's model, and makes it what losses call.
            copies: Moves a frozen copy and makes it ready; `follows_student` says that it must be laid out as the
                student is.
            gathered: Opens a context in which a model can be computed with outside its own forward.
            average_in_place: Whether student and target lie alike.
        """
        self._gathered, self._average_in_place = gathered, average_in_place
        for model in (self.teacher, self.target, self.reference):
            if model is not None:
                copies(model, follows_student=model is self.target)
        self.student = wrap(STUDENT, self.model)
        if CRITIC in self.trained:
            self.critic = wrap(CRITIC, self.trained[CRITIC])

    def place_whole(self, device: torch.device | str) -> None:
        """Moves every copy to a device, whole."""
        self.place(lambda role, model: model.to(device), lambda model, *, follows_student: model.to(device))

    def compile_training(self, **options: Any) -> None:
        """Lets every role's passes be compiled; see `WorldActionModel.compile_training`."""
        for model in (*self.trained.values(), self.teacher, self.target, self.reference):
            if model is not None:
                model.compile_training(**options)

    def turn(self, role: str) -> AbstractContextManager[Any]:
        """A context for a trained role's loss and backward pass, which may recompute what only that role computes."""
        model = self.trained[role]
        return model.active() if isinstance(model, AdaptedModel) else nullcontext()

    def update_target(self, decay: float) -> None:
        """One step of the moving average; nothing to do without a target."""
        if self.target is None:
            return
        if self._average_in_place:
            ema_update(self.target, self.model, decay=decay)
            return
        with self.gathered(self.model):
            ema_update(self.target, self.model, decay=decay)

    def gathered(self, model: nn.Module) -> AbstractContextManager[Any]:
        """A context in which a rollout of a role may run: all its parameters are there."""
        return self._gathered(model)
