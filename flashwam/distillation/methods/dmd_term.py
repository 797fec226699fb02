# SPDX-License-Identifier: Apache-2.0
"""Distribution matching (DMD2, arXiv 2405.14867) of some streams, as a term that a method adds to its own loss.

A student is moved to where the teacher finds its draws more likely than a critic does, which is trained on those draws.
Letters: B samples, C channels, F latent frames, H and W the rest of a stream's tokens.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.core.losses import flow_matching_loss
from flashwam.core.noise import append_dims
from flashwam.core.streams import StreamSpec
from flashwam.distillation.adapters import STUDENT
from flashwam.distillation.draws import Draws
from flashwam.distillation.methods.base import MethodOutput, StreamTerm, Turn
from flashwam.distillation.methods.states import guidance_scales, start_states, training_levels
from flashwam.distillation.methods.values import COUNT, FLAG, LEVELS, POSITIVE, or_none
from flashwam.distillation.roles import CRITIC, Roles
from flashwam.recipe.sections import LoopConfig
from flashwam.system.errors import InputError
from flashwam.wam.guidance import guided_velocity

__all__ = [
    "DMD",
    "MATCHING_VALUES",
    "STUDENT_EVERY",
    "DistributionMatchingTerm",
    "Drawn",
    "check_turns",
    "matching_direction",
]

DMD = "dmd"
"""Name of this loss in `StreamSpec.loss`."""
STUDENT_EVERY = 5
MATCHING_VALUES = {
    "student_every": COUNT,
    "renoise": LEVELS,
    "critic_lr": or_none(POSITIVE),
    "critic_bandwidth": POSITIVE,
    "synchronous": FLAG,
}
"""The values that options of `DistributionMatchingTerm` may have."""
_CRITIC_LR_TIMES = 2.0
_LEAST = 1e-6
_TRAINED = 3.0
"""A pass with gradient, in passes without."""


def check_turns(loop: LoopConfig, student_every: int) -> None:
    """Refuses a training in which the student, which waits for its critic, never has a turn.

    Args:
        loop: The recipe's section.
        student_every: See `DistributionMatchingTerm`.

    Raises:
        ValueError: It has fewer steps than that.
    """
    if loop.steps < student_every:
        raise InputError(
            f"in {loop.steps} steps it is never the student's turn: raise steps, or lower student_every, which is "
            f"{student_every}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Clean draws of the student, and what they were drawn under.

    Args:
        clean: Stream name -> [B, C, F, H, W], of whole stages; with graph where the student is to learn from them.
        sigma: Stream name -> [B, F], the level at which the student was evaluated for them.
        velocity: Stream name -> the student's output, shaped as `clean`.
        batch: Masks, given frames and text of these F frames.
        history: Stream name -> clean slots that the draws were made under, which end with these frames.
    """

    clean: Mapping[str, Tensor]
    sigma: Mapping[str, Tensor]
    velocity: Mapping[str, Tensor]
    batch: Batch
    history: Mapping[str, Tensor]


def matching_direction(clean: Tensor, real: Tensor, fake: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of distribution matching with respect to a draw, normalised sample by sample.

    Args:
        clean: The student's draws, [B, C, F, H, W].
        real: The teacher's clean estimates of the draws with noise.
        fake: The critic's.
        mask: Bool, broadcastable to these; what it leaves out counts neither here nor in the norm.

    Returns:
        (fake - real) / mean |clean - real|, 0 where masked [B, C, F, H, W]; mean |fake - real| and mean |clean - real|
        of each sample [B].
    """
    weight = mask.expand_as(clean)
    count = weight.sum((1, 2, 3, 4)).clamp(min=1)

    def mean(difference: Tensor) -> Tensor:
        return difference.abs().masked_fill(~weight, 0.0).sum((1, 2, 3, 4)) / count

    apart, scale = mean(fake - real), mean(clean - real)
    direction = (fake - real) / scale.clamp(min=_LEAST)[:, None, None, None, None]
    return direction.masked_fill(~weight, 0.0), apart, scale


class DistributionMatchingTerm:
    """Matches the distribution of some streams' draws to the teacher's: terms of the student and of the critic.

    Args:
        streams: Schedules and guidance of all streams.
        roles: With teacher and critic.
        matched: The streams whose distribution is matched.
        student_every: Turns of the critic for one of the student.
        renoise: (low, high) of the level at which teacher and critic look at a draw, uniform, one per sample.
        critic_lr: The critic's learning rate after warm-up; None for twice the student's, as published.
        critic_bandwidth: T of the critic's loss weight exp(-2 ((sigma - 0.5) / T)^2). No publication that we know of
            states it; 1 is LingBot-VA's own bell.
        synchronous: Streams that are drawn together are looked at, and learnt by the critic, at the same level.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        streams: Mapping[str, StreamSpec],
        roles: Roles,
        *,
        matched: Collection[str],
        student_every: int = STUDENT_EVERY,
        renoise: Sequence[float] = (0.02, 0.98),
        critic_lr: float | None = None,
        critic_bandwidth: float = 1.0,
        synchronous: bool = True,
    ) -> None:
        if student_every < 1:
            raise InputError(f"student_every must be at least 1; got {student_every}")
        if critic_lr is not None and not critic_lr > 0:
            raise InputError(f"critic_lr must be positive, or null for twice the student's; got {critic_lr}")
        if len(renoise) != 2 or not 0 < renoise[0] <= renoise[1] < 1:
            raise InputError(f"renoise must be [low, high] with 0 < low <= high < 1; got {list(renoise)}")
        if not critic_bandwidth > 0:
            raise InputError(f"critic_bandwidth must be positive; got {critic_bandwidth}")
        self.streams, self.roles = streams, roles
        self.matched = [name for name in streams if name in matched]
        self.student_every, self.critic_lr = student_every, critic_lr
        self.renoise, self.bandwidth, self.synchronous = tuple(renoise), critic_bandwidth, synchronous

    @property
    def drawn(self) -> list[str]:
        """Streams that must be drawn for it: the matched ones, and those that are drawn together with them."""
        whole = self.roles.model.layout.whole_stages(self.matched)
        return [name for name in self.streams if name in whole]

    @staticmethod
    def passes_without_gradient(
        streams: Mapping[str, StreamSpec], *, matched: Collection[str], before: float, student_every: int
    ) -> float:
        """Counts what a step costs beside one pass with gradient, which is the critic's.

        Args:
            streams: The recipe's.
            matched: Of them.
            before: Passes of the student in front of the one that ends a draw.
            student_every: As above.
        """
        scores = 1 + (2 if any(streams[name].guidance for name in matched) else 1)
        return before + 1 + (before + _TRAINED + scores) / student_every

    def turns(
        self,
        step: int,
        *,
        student: Callable[[Batch, Draws], MethodOutput],
        critic: Callable[[Batch, Draws], MethodOutput],
    ) -> Sequence[Turn]:
        """See `Method.turns`: the critic's at every step, then the student's at every `student_every`-th.

        Args:
            step: From 0.
            student: The student's loss.
            critic: The critic's.
        """
        first = Turn(role=CRITIC, loss=critic, lr=self.critic_lr, lr_times=_CRITIC_LR_TIMES)
        if (step + 1) % self.student_every:
            return (first,)
        return first, Turn(role=STUDENT, loss=student)

    def student(self, drawn: Drawn, draws: Draws) -> tuple[dict[str, StreamTerm], dict[str, Tensor]]:
        """The student's terms, and numbers to log.

        A term's value, half the squared direction, says little, as the direction is normalised; its gradient with
        respect to the draw is the direction over the number of elements. `<stream>/ratio` falls as the critic's
        estimates meet the teacher's.
        """
        batch = drawn.batch
        with torch.no_grad():
            looked = {name: drawn.clean[name].detach() for name in self.drawn}
            noisy, sigma = self._renoised(looked, batch, draws)
            scales = guidance_scales({name: self.streams[name] for name in self.matched}, draws)
            real = guided_velocity(
                self.roles.teacher,
                noisy,
                sigma,
                drawn.history,
                text=batch.text,
                null_text=batch.null_text,
                scales=scales,
                together_with=self.roles.model.layout.whole_stages,
            )
            fake = self.roles.trained[CRITIC](noisy, sigma, drawn.history, {"text": batch.text})
        terms, metrics = {}, {}
        for name in self.matched:
            clean, mask = _precise(drawn.clean[name]), batch.loss_mask(name)
            x, level = _precise(noisy[name]), append_dims(sigma[name], noisy[name])
            direction, apart, scale = matching_direction(
                clean.detach(), x - level * _precise(real[name]), x - level * _precise(fake[name]), mask
            )
            # 0 + direction: the value of half its square, and its gradient without a rounding.
            elements = 0.5 * (clean - clean.detach() + direction) ** 2
            function = self.streams[name].consistency
            terms[name] = StreamTerm.of(
                elements,
                mask,
                sigma=drawn.sigma[name],
                gradient_scale=function.gradient_scale(drawn.sigma[name]),
                velocity=drawn.velocity[name],
            )
            metrics[f"{name}/dmd_gradient"] = apart.mean()
            metrics[f"{name}/ratio"] = (apart / scale.clamp(min=_LEAST)).mean()
        return terms, metrics

    def _renoised(
        self, looked: Mapping[str, Tensor], batch: Batch, draws: Draws
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Draws with noise and its levels [B, F], the same for all frames; given frames stay clean."""
        draws = draws.again(1)
        low, high = self.renoise
        levels = {}
        for stage in self.roles.model.stages:
            for name in stage:
                own = low + (high - low) * draws.uniform(f"renoise/{stage[0] if self.synchronous else name}")
                first, schedule = self.streams[stage[0]].schedule, self.streams[name].schedule
                if self.synchronous and schedule != first:
                    own = schedule.sigma(first.u(own))
                levels[name] = own[:, None].expand(-1, batch.frames)
        noisy, sigma, _ = start_states(replace(batch, clean=looked), levels, draws)
        return noisy, sigma

    def critic(self, drawn: Drawn, draws: Draws) -> MethodOutput:
        """The critic's loss: flow matching on the student's draws, at the levels that the teacher was trained at."""
        own = replace(drawn.batch, clean={name: drawn.clean[name].detach() for name in self.drawn})
        index = training_levels(self.roles.model, own, draws, self.streams, synchronous=self.synchronous)
        device = own.given.device
        grids = {name: self.streams[name].schedule.training_grid().float().to(device) for name in self.drawn}
        noisy, sigma, noise = start_states(own, {name: grid[index[name]] for name, grid in grids.items()}, draws)
        velocity = self.roles.critic(noisy, sigma, drawn.history, {"text": own.text})
        terms = {}
        for name in self.matched:
            weight = torch.exp(-2 * ((sigma[name] - 0.5) / self.bandwidth) ** 2)
            elements = flow_matching_loss(velocity[name], own.clean[name], noise[name])
            terms[name] = StreamTerm.of(
                elements * append_dims(weight, elements),
                own.loss_mask(name),
                sigma=sigma[name],
                gradient_scale=weight,
                velocity=velocity[name],
            )
        return MethodOutput(loss=torch.stack([term.loss.mean() for term in terms.values()]).sum(), terms=terms)


def _precise(x: Tensor) -> Tensor:
    """In float32 or better."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
