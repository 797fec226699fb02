# SPDX-License-Identifier: Apache-2.0
"""Consistency distillation with every choice made per stream (Flash-WAM, arXiv 2606.05254, section 4).

"Naive", "flash-wam", "video-only" and "linear on both" are this one method with different `StreamSpec`s.
Letters: B samples, C channels, F latent frames, H and W the rest of a stream's tokens.
"""

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.core.checks import check_number
from flashwam.core.consistency import ConsistencyFunction, make_consistency_function
from flashwam.core.losses import flow_matching_loss, pseudo_huber
from flashwam.core.noise import append_dims
from flashwam.core.schedule import TRAINING_POINTS, Schedule
from flashwam.core.streams import StreamSpec
from flashwam.distillation.draws import Draws
from flashwam.distillation.methods.base import Method, MethodOutput, StreamTerm, reduce_elements
from flashwam.distillation.methods.lesson import Lesson, drawn_share
from flashwam.distillation.methods.options import unknown_streams
from flashwam.distillation.methods.states import guidance_scales, start_states, training_levels
from flashwam.distillation.methods.values import COUNT, FLAG, WEIGHT, OptionValue
from flashwam.system.errors import InputError
from flashwam.wam.base import WorldActionModel
from flashwam.wam.guidance import guided_velocity
from flashwam.wam.session import Kept

__all__ = ["ConsistencyDistillation", "jump_levels", "weight_ratio"]

_ANCHOR, _ANCHOR_STEPS = 0.0, 10


def jump_levels(schedule: Schedule, start: Tensor, end: Tensor, substeps: int) -> Tensor:
    """Levels the teacher visits from grid index `start` to `end`, evenly spaced in u.

    Evenly spaced in u means evenly spaced on the training grid, where the teacher was trained most densely.

    Args:
        schedule: The stream's noise schedule.
        start: Grid indices, any shape.
        end: Grid indices, same shape.
        substeps: Euler steps.

    Returns:
        [substeps + 1, *start.shape], float32, from sigma(start) to sigma(end).
    """
    points = schedule.training_grid().numel()
    share = torch.linspace(0, 1, substeps + 1, dtype=torch.float64, device=start.device)
    share = share.reshape(-1, *(1,) * start.ndim)
    index = start.double() + share * (end - start).double()
    return schedule.sigma(1 - index / points).float()


def weight_ratio(own: ConsistencyFunction, other: ConsistencyFunction, sigma: Tensor) -> Tensor:
    """The factor of a loss of `own` with which its gradient carries the |b| of `other` at every level.

    Args:
        own: The function whose loss it is.
        other: The function whose gradient weight is taken.
        sigma: Levels, any shape.

    Returns:
        |b_other| / |b_own|, same shape; 1 where b_own is 0, since no factor brings a gradient there.
    """
    scale = own.gradient_scale(sigma)
    silent = scale == 0
    return (other.gradient_scale(sigma) / scale.masked_fill(silent, 1.0)).masked_fill(silent, 1.0)


class ConsistencyDistillation(Method):
    """|f_student(x_s, sigma_s) - f_target(x_e, sigma_e)| in pseudo-Huber distance, per stream.

    x_e is where the frozen teacher's (guided) Euler steps carry x_s; one joint forward of every role serves all
    streams. Each forward has noisy tokens of those streams alone whose velocity a loss reads: one with weight 0 takes
    part in the teacher's and the target's with its clean tokens, one without a regulariser either in the student's too.

    Args:
        streams: See `Method`.
        student: The model to train.
        teacher: The frozen model.
        keep_target: Not needed, there always is a target.
        shared_levels: Draw one level per frame for the whole step, as the paper's release does, instead of one per
            sample.
        synchronous: Streams that are drawn together stand at the same level, or else each at its own.
        weight_as: Stream name -> the consistency function, as `StreamSpec.consistency` is named in a recipe, whose
            gradient weight |b| the stream's loss takes; its own where not named. The loss is multiplied by
            |b_other| / |b_own| at every level, not the difference inside it, so that the gradient with respect to the
            velocity carries |b_other| at any distance to the target: pseudo-Huber is not quadratic, and its slope
            stays that of the stream's own difference. What the student starts as, and how far its f moves with the
            velocity, is left to `StreamSpec.consistency`.
        anchor: Weight of the mean of (v - (x_s - x_K) / sigma_s)^2 over every stream that jumps, which draws the
            student's velocity to the end x_K of the teacher's whole path from the same state (TACD, arXiv 2610.06617,
            0.2); 0 for none. `StreamSpec.weight` does not multiply it.
        anchor_steps: Euler steps K of that path, evenly spaced in u and guided as the jumps are.
    """

    in_a_line = "gives one answer for two points of one path of the teacher"

    stream_choices = ("anchors", "teacher_substeps", "guidance", "huber_c", "regulariser")
    needs_target = True
    trains_probes = True
    option_values: ClassVar[Mapping[str, OptionValue]] = {
        "shared_levels": FLAG,
        "synchronous": FLAG,
        "anchor": WEIGHT,
        "anchor_steps": COUNT,
    }

    def __init__(
        self,
        streams: Mapping[str, StreamSpec],
        student: WorldActionModel,
        *,
        teacher: WorldActionModel | None = None,
        keep_target: bool = False,
        shared_levels: bool = False,
        synchronous: bool = True,
        weight_as: Mapping[str, Any] | None = None,
        anchor: float = _ANCHOR,
        anchor_steps: int = _ANCHOR_STEPS,
    ) -> None:
        super().__init__(streams, student, teacher=teacher, keep_target=keep_target)
        if all(spec.weight == 0 and spec.regulariser == 0 for spec in streams.values()):
            raise InputError("every stream has weight 0 and regulariser 0: there is nothing to train")
        asked = [n for n in student.probes if streams[n].weight > 0 or streams[n].regulariser > 0]
        if asked:
            raise InputError(f"{asked} are looked at and never drawn: set their weight and regulariser to 0")
        weight_as = weight_as or {}
        unknown_streams("weight_as", weight_as, streams)
        still = [name for name in weight_as if streams[name].weight == 0]
        if still:
            raise InputError(f"weight_as names {still}, which have weight 0 and so no consistency loss: leave them out")
        if all(spec.weight == 0 for spec in streams.values()) and anchor:
            raise InputError("anchor holds streams that jump, and every stream has weight 0: give one a weight")
        check_number("anchor", anchor, low=0, high=1e6, hint="0.2 published, 0 for none")
        if type(anchor_steps) is not int or not 1 <= anchor_steps <= TRAINING_POINTS:
            raise InputError(f"anchor_steps must be whole, 1..{TRAINING_POINTS}; got {anchor_steps!r}")
        self.shared_levels, self.synchronous = shared_levels, synchronous
        weights = {name: self.weighs_as(streams[name], {"weight_as": weight_as}) for name in weight_as}
        self.weight_as = {name: f for name, f in weights.items() if f != streams[name].consistency}
        self.anchor, self.anchor_steps = anchor, anchor_steps

    @classmethod
    def passes_without_gradient(cls, streams: Mapping[str, StreamSpec], options: Mapping[str, Any]) -> float:
        """See `Method.passes_without_gradient`: the target's, the teacher's guided sub-steps, and the anchor's path."""
        guided = 2 if any(spec.guidance for spec in streams.values()) else 1
        walks = [max(spec.teacher_substeps for spec in streams.values())]
        if options.get("anchor", _ANCHOR) > 0:
            walks.append(options.get("anchor_steps", _ANCHOR_STEPS))
        # After the first step of a walk noisy tokens run alone: about half of a pass.
        return 1.0 + guided * sum(1 + 0.5 * (steps - 1) for steps in walks)

    @classmethod
    def lesson(cls, spec: StreamSpec, level: float, options: Mapping[str, Any]) -> Lesson:
        """See `Method.lesson`: levels as the schedule has them, targets by jumps of the anchors' grid."""
        grid = spec.schedule.training_grid()
        index = ((1 - torch.tensor(spec.schedule.u(level))) * len(grid)).round().long().clamp(max=len(grid) - 1)
        path = [index]
        while int(path[-1]) < len(grid) - 1:
            path.append(spec.schedule.jump(path[-1], spec.anchors))
        hops = max(1, len(path) - 1)
        return Lesson.at(
            level,
            share=partial(drawn_share, spec.schedule),
            jump_end=min(level, float(grid[path[min(1, len(path) - 1)]])),
            hops=hops,
            teacher_steps=hops * spec.teacher_substeps,
        )

    @classmethod
    def weighs_as(cls, spec: StreamSpec, options: Mapping[str, Any]) -> ConsistencyFunction:
        """See `Method.weighs_as`."""
        others = options.get("weight_as") or {}
        return make_consistency_function(others[spec.name]) if spec.name in others else spec.consistency

    def loss(self, batch: Batch, draws: Draws) -> MethodOutput:
        """See `Method.loss`."""
        batch = self.seen_by_model(batch)
        start = training_levels(
            self.roles.model, batch, draws, self.streams, shared=self.shared_levels, synchronous=self.synchronous
        )
        path = {
            name: jump_levels(
                spec.schedule, start[name], spec.schedule.jump(start[name], spec.anchors), spec.teacher_substeps
            )
            for name, spec in self.streams.items()
        }
        noisy, sigma, noise = start_states(batch, {name: levels[0] for name, levels in path.items()}, draws)
        context = self.context(batch, draws)
        whole_stages = self.roles.model.layout.whole_stages
        jumping = whole_stages({name for name, spec in self.streams.items() if spec.weight > 0})
        read = jumping | whole_stages({name for name, spec in self.streams.items() if spec.regulariser > 0})
        if jumping:
            end, end_sigma = self._teacher_jump(_of(noisy, jumping), _of(path, jumping), batch, draws)
            with torch.no_grad():
                target_velocity = self.roles.target(end, end_sigma, batch.history, context)
        ends = self._teacher_ends(noisy, start, batch, draws) if self.anchor > 0 else {}
        velocity = self.roles.student(_of(noisy, read), _of(sigma, read), batch.history, context)

        terms: dict[str, StreamTerm] = {}
        metrics: dict[str, Tensor] = {}
        total = torch.zeros((), device=batch.given.device)
        for name, spec in self.streams.items():
            mask = batch.loss_mask(name)
            beside: dict[str, tuple[float, Tensor]] = {}
            if spec.weight > 0:
                prediction = spec.consistency(noisy[name], sigma[name], velocity[name])
                target = spec.consistency(end[name], end_sigma[name], target_velocity[name])
                elements = pseudo_huber(prediction, target, c=spec.huber_c)
                elements, scale = self._weighted(name, elements, sigma[name])
                weight = spec.weight
            if spec.regulariser > 0:
                matching = flow_matching_loss(velocity[name], batch.clean[name], noise[name])
                if spec.weight > 0:
                    beside["regulariser"] = spec.regulariser, matching
                else:
                    elements, scale, weight = matching, torch.ones_like(sigma[name]), spec.regulariser
            if name in ends:
                distance = _distance_to_straight(ends[name], noisy[name], sigma[name], velocity[name])
                beside["anchor"] = self.anchor, distance
            if spec.weight == 0 and spec.regulariser == 0:
                continue
            for kind, (factor, distance) in beside.items():
                mean = reduce_elements(distance, mask)[0].mean()
                metrics[f"{name}/{kind}"] = mean.detach()
                total = total + factor * mean
            terms[name] = StreamTerm.of(
                elements, mask, sigma=sigma[name], gradient_scale=scale, velocity=velocity[name]
            )
            total = total + weight * terms[name].loss.mean()
        self.check_finite(terms, batch)
        return MethodOutput(loss=total, terms=terms, metrics=metrics)

    def _weighted(self, name: str, elements: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """A stream's losses with the gradient weight that was chosen, and that weight at each level [B, F]."""
        own = self.streams[name].consistency
        scale = own.gradient_scale(sigma)
        if name not in self.weight_as:
            return elements, scale
        ratio = weight_ratio(own, self.weight_as[name], sigma)
        return elements * append_dims(ratio, elements), scale * ratio

    def _teacher_ends(
        self, noisy: Mapping[str, Tensor], start: Mapping[str, Tensor], batch: Batch, draws: Draws
    ) -> dict[str, Tensor]:
        """The ends of the teacher's whole path from the states of streams that jump, stream name -> [B, C, F, H, W]."""
        jumping = [name for name, spec in self.streams.items() if spec.weight > 0]
        path = {}
        together = self.roles.model.layout.whole_stages(jumping)
        for name in (name for name in self.streams if name in together):
            data = torch.full_like(start[name], TRAINING_POINTS)
            path[name] = jump_levels(self.streams[name].schedule, start[name], data, self.anchor_steps)
        ends, _ = self._teacher_jump(_of(noisy, path), path, batch, draws)
        return _of(ends, jumping)

    @torch.no_grad()
    def _teacher_jump(
        self, noisy: Mapping[str, Tensor], path: Mapping[str, Tensor], batch: Batch, draws: Draws
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Streams carried along their paths in joint forwards; those with fewer steps stay at their end."""
        scales = guidance_scales({name: self.streams[name] for name in path}, draws)
        path = {name: levels.masked_fill(batch.given, 0.0) for name, levels in path.items()}
        steps = max(len(levels) - 1 for levels in path.values())
        kept: dict[str, Kept] | None = {} if steps > 1 else None
        context = {key: value for key, value in self.context(batch, draws).items() if key != "text"}
        x = dict(noisy)
        for k in range(steps):
            moving = [name for name, levels in path.items() if k + 1 < len(levels)]
            needed = self.roles.model.layout.whole_stages(moving)
            velocity = guided_velocity(
                self.roles.teacher,
                _of(x, needed),
                {name: levels[min(k, len(levels) - 1)] for name, levels in path.items() if name in needed},
                batch.history,
                text=batch.text,
                null_text=batch.null_text,
                scales=scales,
                together_with=self.roles.model.layout.whole_stages,
                kept=kept,
                context=context,
            )
            for name in moving:
                x[name] = x[name] + append_dims(path[name][k + 1] - path[name][k], x[name]) * velocity[name]
        return x, {name: levels[-1] for name, levels in path.items()}


def _of(parts: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """Some streams, in their order."""
    return {name: part for name, part in parts.items() if name in names}


def _distance_to_straight(end: Tensor, noisy: Tensor, sigma: Tensor, velocity: Tensor) -> Tensor:
    """(v - (x - end) / sigma)^2 element by element, in float32 or better; a frame at sigma 0 is at its end."""
    level = append_dims(sigma, noisy)
    straight = (noisy - end) / level.masked_fill(level == 0, 1.0)
    return (velocity - straight).to(torch.promote_types(velocity.dtype, torch.float32)) ** 2
