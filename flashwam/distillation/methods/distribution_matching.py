# SPDX-License-Identifier: Apache-2.0
"""Distribution matching distillation (DMD2, arXiv 2405.14867) of a world-action model, stream by stream.

Letters: B samples, C channels, F latent frames, H and W the rest of a stream's tokens, K bands of a rollout.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.core.losses import flow_matching_loss
from flashwam.core.streams import StreamSpec
from flashwam.distillation.draws import Draws
from flashwam.distillation.methods.base import Method, MethodOutput, StreamTerm, Turn
from flashwam.distillation.methods.dmd_term import (
    DMD,
    MATCHING_VALUES,
    STUDENT_EVERY,
    DistributionMatchingTerm,
    Drawn,
    check_turns,
)
from flashwam.distillation.methods.lesson import Lesson
from flashwam.distillation.methods.options import option
from flashwam.distillation.methods.self_rollout import SelfRollout, SelfRollouts
from flashwam.distillation.methods.states import start_states, training_levels
from flashwam.distillation.methods.values import COUNT, OptionValue, one_of
from flashwam.recipe.sections import LoopConfig
from flashwam.system.errors import InputError
from flashwam.wam.base import WorldActionModel

__all__ = ["DistributionMatching"]

T = TypeVar("T")
_BANDS = 4


class DistributionMatching(Method):
    """Distribution matching of the streams with a weight; flow matching on the data of those with a regulariser.

    The student draws in 1 to K steps, the same number for all samples of a step, at levels that are evenly spaced in
    u; between steps it adds new noise, and the last step alone has a gradient. The critic, a copy of the teacher,
    learns at every step to tell the noise in the student's draws. At every `student_every`-th step the draws are moved
    along what the teacher's clean estimates of them have beyond the critic's.

    Args:
        streams: See `Method`; of each, schedule, consistency function, guidance, weight and regulariser are used.
        student: The model to train.
        teacher: The frozen model.
        keep_target: See `Method`.
        rollout_steps: K, the most steps in which the student draws.
        student_every, renoise, critic_lr, critic_bandwidth: See `DistributionMatchingTerm`.
        video_slot: What a later stage sees of the earlier stages of its own chunk: "data", in one joint pass over all
            chunks, as published; "own", the student's draws, of one chunk after its true past, as at rollout.
        synchronous: Streams that are drawn together are looked at at the same level, as they are drawn, or else each at
            its own.
    """

    in_a_line = "moves its draws to where the teacher finds them likelier than a critic does"

    needs_critic = True
    stream_losses = (DMD,)
    stream_choices = ("guidance", "regulariser")
    option_values: ClassVar[Mapping[str, OptionValue]] = {
        **MATCHING_VALUES,
        "rollout_steps": COUNT,
        "video_slot": one_of("data", "own"),
    }

    def __init__(
        self,
        streams: Mapping[str, StreamSpec],
        student: WorldActionModel,
        *,
        teacher: WorldActionModel | None = None,
        keep_target: bool = False,
        rollout_steps: int = _BANDS,
        student_every: int = STUDENT_EVERY,
        renoise: Sequence[float] = (0.02, 0.98),
        critic_lr: float | None = None,
        critic_bandwidth: float = 1.0,
        video_slot: Literal["data", "own"] = "data",
        synchronous: bool = True,
    ) -> None:
        super().__init__(streams, student, teacher=teacher, keep_target=keep_target)
        if all(spec.weight == 0 for spec in streams.values()):
            raise InputError("every stream has weight 0: there is no distribution to match")
        if rollout_steps < 1:
            raise InputError(f"rollout_steps must be at least 1; got {rollout_steps}")
        if video_slot not in ("data", "own"):
            raise InputError(f'video_slot must be "data" or "own"; got {video_slot!r}')
        self.synchronous = synchronous
        self.term = DistributionMatchingTerm(
            self.streams,
            self.roles,
            matched=[name for name, spec in streams.items() if spec.weight > 0],
            student_every=student_every,
            renoise=renoise,
            critic_lr=critic_lr,
            critic_bandwidth=critic_bandwidth,
            synchronous=synchronous,
        )
        self.rollouts = SelfRollouts(
            streams=self.streams, drawn=self.term.drawn, most_steps=rollout_steps, own_draws=video_slot == "own"
        )

    @classmethod
    def check_values(cls, loop: LoopConfig) -> None:
        """See `Method.check_values`."""
        super().check_values(loop)
        check_turns(loop, option(cls, loop.options, "student_every"))

    @classmethod
    def passes_without_gradient(cls, streams: Mapping[str, StreamSpec], options: Mapping[str, Any]) -> float:
        """See `Method.passes_without_gradient`: the rollouts, and a share of the student's turn."""
        return DistributionMatchingTerm.passes_without_gradient(
            streams,
            matched=[name for name, spec in streams.items() if spec.weight > 0],
            before=(options.get("rollout_steps", _BANDS) - 1) / 2,
            student_every=options.get("student_every", STUDENT_EVERY),
        )

    @classmethod
    def lesson(cls, spec: StreamSpec, level: float, options: Mapping[str, Any]) -> Lesson | None:
        """See `Method.lesson`: the last step of every number of them, moved by single looks of the teacher; None for a
        stream that is held to the data."""
        if spec.weight == 0:
            return None
        steps = options.get("rollout_steps", _BANDS)
        levels = [float(spec.schedule.sigma(1 - k / steps)) for k in range(steps)]

        def share(low: float, high: float) -> float:
            return sum(low - 1e-6 <= each <= high + 1e-6 for each in levels) / steps

        return Lesson.at(level, share=share, jump_end=0.0, hops=1, teacher_steps=1)

    @classmethod
    def errs_by_gradient(cls, spec: StreamSpec, options: Mapping[str, Any]) -> bool:
        """See `Method.errs_by_gradient`: distributions are matched."""
        return False

    def turns(self, step: int) -> Sequence[Turn]:
        """See `Method.turns`."""
        return self.term.turns(step, student=self.loss, critic=self.critic_loss)

    def critic_loss(self, batch: Batch, draws: Draws) -> MethodOutput:
        """The critic's objective: flow matching on what the student draws."""
        rollout = self.rollouts(self.roles.model, self.seen_by_model(batch), draws)
        with torch.no_grad():
            velocity = self.roles.model(rollout.noisy, rollout.sigma, rollout.history, rollout.context)
        output = self.term.critic(self._end(rollout, velocity), draws)
        self.check_finite(output.terms, rollout.chunk)
        return output

    def loss(self, batch: Batch, draws: Draws) -> MethodOutput:
        """See `Method.loss`."""
        rollout = self.rollouts(self.roles.model, self.seen_by_model(batch), draws)
        chunk, context = rollout.chunk, {"text": rollout.chunk.text}
        told, level, noise = self._data_states(rollout, draws)
        if set(told).isdisjoint(rollout.noisy):
            noisy, sigma = self._ordered({**rollout.noisy, **told}), self._ordered({**rollout.sigma, **level})
            velocity = learnt = self.roles.student(noisy, sigma, rollout.history, context)
        else:
            # A stage cannot stand at the student's own draws and at the data at once.
            velocity = self.roles.student(rollout.noisy, rollout.sigma, rollout.history, context)
            learnt = self.roles.student(told, level, rollout.data, context)
        terms, metrics = self.term.student(self._end(rollout, velocity), draws)
        total = torch.stack([self.streams[name].weight * term.loss.mean() for name, term in terms.items()]).sum()
        for name, spec in self.streams.items():
            if spec.regulariser == 0:
                continue
            elements = flow_matching_loss(learnt[name], chunk.clean[name], noise[name])
            flat = torch.ones_like(level[name])
            held = StreamTerm.of(
                elements, chunk.loss_mask(name), sigma=level[name], gradient_scale=flat, velocity=learnt[name]
            )
            if name in terms:
                metrics[f"{name}/regulariser"] = held.loss.detach().mean()
            terms.setdefault(name, held)
            total = total + spec.regulariser * held.loss.mean()
        terms = self._ordered(terms)
        self.check_finite(terms, chunk)
        return MethodOutput(loss=total, terms=terms, metrics=metrics)

    def _end(self, rollout: SelfRollout, velocity: Mapping[str, Tensor]) -> Drawn:
        """The end of a rollout, from the velocity of its last step."""
        return Drawn(
            clean=self.rollouts.clean(rollout.noisy, rollout.sigma, velocity),
            sigma=rollout.sigma,
            velocity=velocity,
            batch=rollout.chunk,
            history=rollout.history,
        )

    def _data_states(
        self, rollout: SelfRollout, draws: Draws
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Noised data of the stages with a regulariser, its levels and its noise."""
        model, chunk = self.roles.model, rollout.chunk
        names = model.layout.whole_stages({name for name, spec in self.streams.items() if spec.regulariser > 0})
        if not names.isdisjoint(rollout.noisy):
            # Of two passes the second must reach every weight that the first does: DDP looks at the last one alone.
            names |= set(rollout.noisy)
        index = training_levels(model, chunk, draws, self.streams, synchronous=self.synchronous)
        grids = {name: self.streams[name].schedule.training_grid().float().to(chunk.given.device) for name in names}
        data = replace(chunk, clean=self._ordered({name: chunk.clean[name] for name in names}))
        return start_states(data, {name: grid[index[name]] for name, grid in grids.items()}, draws)

    def _ordered(self, parts: Mapping[str, T]) -> dict[str, T]:
        return {name: parts[name] for name in self.streams if name in parts}
