# SPDX-License-Identifier: Apache-2.0
"""The interface of a method: one objective, nothing of the loop.

Letters: B samples, C channels, F latent frames, H and W the rest of a stream's tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.core.consistency import ConsistencyFunction
from flashwam.core.streams import StreamSpec
from flashwam.distillation.adapters import STUDENT
from flashwam.distillation.draws import Draws
from flashwam.distillation.methods.lesson import Lesson
from flashwam.distillation.methods.not_finite import NonFiniteError, loss_error
from flashwam.distillation.methods.options import refuse_losses
from flashwam.distillation.methods.states import start_states
from flashwam.distillation.methods.values import OptionValue, check_each
from flashwam.distillation.prepared import Prepared
from flashwam.distillation.roles import Roles
from flashwam.distillation.setup import Setup, Source
from flashwam.distillation.watch import AtOnce, Watch
from flashwam.recipe.sections import LoopConfig
from flashwam.system.errors import InputError
from flashwam.wam.base import WorldActionModel

__all__ = ["Method", "MethodOutput", "NonFiniteError", "StreamTerm", "Turn", "reduce_elements"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamTerm:
    """One stream's part of a loss.

    Args:
        loss: [B] with graph; the stream's main loss of each sample, before its weight.
        frame_loss: [B, F] detached mean of each frame; 0 where masked.
        frame_mask: [B, F] bool, True where the frame has any element in the loss.
        sigma: [B, F] level at which the student was evaluated.
        gradient_scale: [B, F] factor that the loss' gradient carries at that level (|b| for consistency).
        velocity: [B, C, F, H, W], the student's output with graph.
        mask: Mask of the loss, broadcastable to `velocity`.
    """

    loss: Tensor
    frame_loss: Tensor
    frame_mask: Tensor
    sigma: Tensor
    gradient_scale: Tensor
    velocity: Tensor
    mask: Tensor

    @classmethod
    def of(
        cls, elements: Tensor, mask: Tensor, *, sigma: Tensor, gradient_scale: Tensor, velocity: Tensor
    ) -> "StreamTerm":
        """From element-wise losses [B, C, F, H, W] where `mask` is True; the rest are the term's own fields."""
        per_sample, frame_loss, frame_mask = reduce_elements(elements, mask)
        return cls(
            loss=per_sample,
            frame_loss=frame_loss,
            frame_mask=frame_mask,
            sigma=sigma,
            gradient_scale=gradient_scale,
            velocity=velocity,
            mask=mask,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodOutput:
    """The result of `Method.loss`: the scalar to differentiate, each stream's term, further scalars to log."""

    loss: Tensor
    terms: Mapping[str, StreamTerm]
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One role's part of a step: a loss of its own, and a step of its own optimiser.

    Args:
        role: Of `Roles.trained`.
        loss: Called as `Method.loss`, once for every accumulated batch.
        lr: Learning rate after warm-up; None for `lr_times` the recipe's. Both have the recipe's warm-up and decay.
        lr_times: See `lr`.
    """

    role: str
    loss: Callable[[Batch, Draws], MethodOutput]
    lr: float | None = None
    lr_times: float = 1.0


class Method(ABC):
    """One objective.

    Args:
        streams: Per-stream choices, in generation order.
        student: The model to train.
        teacher: The frozen model, where the objective has one.
        keep_target: Keep an exponential moving average of the student even if the objective has no use for it.

    Attributes:
        roles: The copies of the model.
        watch: Is told what must hold of a loss; a training gives one that lets no device wait.
    """

    watch: Watch = AtOnce()

    in_a_line: str = ""
    """The objective in a few words that go on from "The student ...", for reports."""
    needs_teacher: bool = True
    keeps_teacher: bool = True
    """False if the teacher is asked before training and not kept in memory after."""
    needs_target: bool = False
    needs_reference: bool = False
    option_values: ClassVar[Mapping[str, OptionValue]] = {}
    """The values that its options may have, as far as that is known before a model or data are there."""
    stream_losses: tuple[str, ...] = ()
    """The values of `StreamSpec.loss` that it knows."""
    stream_choices: tuple[str, ...] | None = None
    """Those of `STREAM_CHOICES` that it reads; None where it does not say."""
    teacher_draws: tuple[str, ...] = ()
    """Fields of `StreamSpec` by which it has the teacher draw, where others have it draw as it is driven."""
    needs_critic: bool = False
    """True if a copy of the teacher is trained beside the student, in turns of its own."""
    trains_probes: bool = False
    """True if a model with `WorldActionModel.probes` can be trained so."""
    builds_student: bool = False
    """True if `make_student` gives another model than the recipe's."""
    takes_adapters: bool = True
    """False if it trains whole weights alone, so that no `lora` goes with it."""
    result: str = "student"
    """Name of the folder the trained model is saved to, and its kind."""
    auxiliary_evaluation: str | None = None
    """Import path of what drives a model with a modality that its training alone showed it, for methods that do so;
    called as `flashwam.evaluation.local.evaluate` is."""

    def __init__(
        self,
        streams: Mapping[str, StreamSpec],
        student: WorldActionModel,
        *,
        teacher: WorldActionModel | None = None,
        keep_target: bool = False,
    ) -> None:
        if tuple(streams) != tuple(student.streams):
            raise InputError(
                f"the recipe's streams must be the model's, in its order {tuple(student.streams)}; got {tuple(streams)}"
            )
        refuse_losses(streams, self.stream_losses, method=type(self).__name__)
        if student.probes and not self.trains_probes:
            raise InputError(
                f"{type(self).__name__} asks for the velocity of every stream, and this model never draws "
                f"{list(student.probes)}: use consistency, or train the world-action model it was made from"
            )
        if self.needs_teacher and teacher is None:
            raise InputError(f"{type(self).__name__} needs a teacher; give the folder of a trained one")
        self.streams = dict(streams)
        self.roles = Roles(
            student,
            teacher=teacher if self.needs_teacher else None,
            target=self.needs_target or keep_target,
            reference=self.needs_reference,
            critic=self.needs_critic,
        )

    @classmethod
    def choices_of(cls, spec: StreamSpec) -> tuple[str, ...] | None:
        """See `stream_choices`: of one stream."""
        return cls.stream_choices

    @classmethod
    def check_values(cls, loop: LoopConfig) -> None:
        """Refuses values of its options that no model and no data can make good, before either is there.

        Args:
            loop: The recipe's section, whose options have names that it knows.

        Raises:
            ValueError: The message names the option, and what it may be.
        """
        check_each("options", loop.options, cls.option_values)

    @classmethod
    def needs_records(cls, options: Mapping[str, Any], data: Path) -> bool:
        """Tells whether it learns from what the simulator knew of the episodes, see `flashwam.data.privileged`.

        Args:
            options: The recipe's.
            data: Folder of the recipe's data, and of what was made from them before.
        """
        return False

    @classmethod
    def histories(cls, options: Mapping[str, Any]) -> Path | None:
        """Names the folder of a model's own episodes that it learns from beside the data; None for none.

        Args:
            options: The recipe's.
        """
        return None

    @classmethod
    def passes_without_gradient(cls, streams: Mapping[str, StreamSpec], options: Mapping[str, Any]) -> float | None:
        """Counts a batch's forward passes without gradient, beside the student's own; None where nobody has.

        Args:
            streams: The recipe's.
            options: The recipe's, as the method's own keywords.
        """
        return None

    @classmethod
    def lesson(cls, spec: StreamSpec, level: float, options: Mapping[str, Any]) -> Lesson | None:
        """Tells how a stream is trained where its sampler stands; None where a method does not say.

        Args:
            spec: The stream.
            level: Of its sampler, sigma in (0, 1].
            options: The recipe's, as the method's own keywords.
        """
        return None

    @classmethod
    def weighs_as(cls, spec: StreamSpec, options: Mapping[str, Any]) -> ConsistencyFunction:
        """Gives the function whose |b| a stream's loss carries, its own as a rule.

        Args:
            spec: The stream.
            options: The recipe's, as the method's own keywords.
        """
        return spec.consistency

    @classmethod
    def errs_by_gradient(cls, spec: StreamSpec, options: Mapping[str, Any]) -> bool:
        """Tells whether a stream's gradient, over the |b| that it carries, says how far the student is from its target.

        A pseudo-Huber loss passes on all of |b| where the student's error is large, and less the nearer it comes.
        Matching a distribution does not: its gradient has one size, however far the student is.

        Args:
            spec: The stream.
            options: The recipe's, as the method's own keywords.
        """
        return spec.loss is None

    @classmethod
    def prepares(
        cls, options: Mapping[str, Any], *, model: WorldActionModel, frames: int, setup: Setup
    ) -> Prepared | None:
        """Counts the teacher's draws that `source` makes before training; None where it makes none.

        Args:
            options, setup: As the method is given them; no folder need be there.
            model, frames: The recipe's, with weights or without, and the latent frames of a window.
        """
        return None

    @classmethod
    def make_student(
        cls,
        load: Callable[[], WorldActionModel],
        *,
        teacher: WorldActionModel,
        options: Mapping[str, Any],
        setup: Setup,
    ) -> WorldActionModel:
        """The model to train, for a method whose student is not a copy of its teacher.

        Args:
            load: Loads the recipe's `distill.init`, or the teacher anew where there is none.
            teacher: Loaded already.
            options: The recipe's, as the method's own keywords.
            setup: The run's surroundings.
        """
        return load()

    def source(self, source: Source, setup: Setup) -> Source:
        """Training samples, for a method that adds to those of the data; called once, before anything is placed."""
        return source

    @abstractmethod
    def loss(self, batch: Batch, draws: Draws) -> MethodOutput:
        """The student's objective on B samples, every random number from `draws`.

        Raises:
            NonFiniteError: naming stream, sigma and sample.
        """

    def turns(self, step: int) -> Sequence[Turn]:
        """The optimiser steps of step `step`, in their order, all on the same samples and draws.

        Args:
            step: From 0. Whose turn it is must depend on it alone, so that a resumed run goes on as before.
        """
        return (Turn(role=STUDENT, loss=self.loss),)

    def seen_by_model(self, batch: Batch) -> Batch:
        """The batch as the model is told it: with a clean first slot, or with the first frame as a condition; and with
        losses where the model puts something out."""
        model = self.roles.model
        return (batch.without_given() if model.conditions_on_first else batch).restricted(model.predicted)

    def context(self, batch: Batch, draws: Draws) -> dict[str, Any]:
        """Gives a model's context beside clean tokens: the text, and the noise that its probes are looked at from.

        The noise is that of `start_states`, as one draw serves both at rollout.
        """
        context: dict[str, Any] = {"text": batch.text}
        if self.roles.model.probes:
            pure = {name: x.new_ones(x.shape[0], x.shape[2]) for name, x in batch.clean.items()}
            context["noise"], context["noise_sigma"], _ = start_states(batch, pure, draws)
        return context

    def after_step(self, decay: float) -> None:
        """Called after every optimiser step of the student; moves the target."""
        self.roles.update_target(decay)

    def check_finite(self, terms: Mapping[str, StreamTerm], batch: Batch) -> None:
        """Watches that every sample's loss is finite; a term may have the samples several times over.

        Raises:
            NonFiniteError: one is not; in a training when it is known, see `flashwam.distillation.watch`.
        """
        for name, term in terms.items():
            finite = torch.isfinite(term.loss.detach()) & torch.isfinite(term.frame_loss).all(1)
            found = finite, term.loss.detach(), term.frame_loss, term.sigma
            self.watch.note(finite.all(), partial(loss_error, name, batch.index, *found))


def reduce_elements(loss: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Masked means of element-wise losses, sample by sample.

    Samples are averaged afterwards with equal weight, whatever the batch they stand in, so that accumulated batches
    and several processes add up to exactly the loss of one large batch.

    Args:
        loss: [B, C, F, H, W], with graph.
        mask: Bool, broadcastable to `loss`.

    Returns:
        Loss per sample [B] with graph; detached mean per frame [B, F]; bool [B, F], frames with any element.
    """
    weight = mask.to(loss.dtype).expand_as(loss)
    sums = (loss * weight).sum((1, 3, 4))
    counts = weight.sum((1, 3, 4))
    per_sample = sums.sum(1) / counts.sum(1).clamp(min=1)
    return per_sample, (sums / counts.clamp(min=1)).detach(), counts > 0
