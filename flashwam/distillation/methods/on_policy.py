# SPDX-License-Identifier: Apache-2.0
"""Distillation where the student will be used: every stage under what the student itself draws for the earlier ones.

Off-policy, the actions learn given ground-truth video, where they have one mode, and are used given the student's own
one-step video, where they may have two. Here they learn where they are used.
Letters: B samples, C channels, F latent frames of a chunk, H and W the rest of a stream's tokens.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import floor
from typing import Any, ClassVar

import torch
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.core.losses import pseudo_huber
from flashwam.core.noise import append_dims
from flashwam.core.schedule import Schedule
from flashwam.core.streams import StreamSpec
from flashwam.distillation.draws import Draws
from flashwam.distillation.methods.base import Method, MethodOutput, StreamTerm
from flashwam.distillation.methods.lesson import Lesson, drawn_share
from flashwam.distillation.methods.states import drawn_after, guidance_scales, random_chunk, start_states
from flashwam.distillation.methods.values import COUNT, SHARE, WEIGHT, OptionValue
from flashwam.sampling import draw, samplers_for
from flashwam.system.errors import InputError
from flashwam.wam.base import WorldActionModel
from flashwam.wam.session import RolloutSession

__all__ = ["OnPolicy", "path_levels"]

_POINTS, _TEACHER_STEPS, _START_SHARE = 1000, 9, 0.5


def path_levels(schedule: Schedule, offset: Tensor, steps: int) -> Tensor:
    """Levels of a path from noise to data whose inner nodes move with `offset`, so that they cover every level.

    Args:
        schedule: The stream's noise schedule.
        offset: [B] in [0, 1): how far each sample's nodes are moved up, as a share of a step.
        steps: Euler steps; all but the first and the last are evenly long in u.

    Returns:
        [steps + 1, B], float32, from 1 to 0.
    """
    node = torch.arange(steps + 1, dtype=torch.float64, device=offset.device)[:, None]
    index = ((node - offset.double()) * _POINTS / max(1, steps - 1)).clamp(0, _POINTS)
    index[0], index[-1] = 0, _POINTS
    return schedule.sigma(1 - index / _POINTS).float()


class OnPolicy(Method):
    """Pseudo-Huber distance of the student's clean estimate to the end of the teacher's path under the same draws.

    One chunk is the current one, drawn anew for every step; its past is ground truth for everybody and the student's
    own draws are seen by the current chunk alone, exactly as in a rollout. In it:
    1. The student draws the streams of earlier stages with its own consistency functions and inference steps.
    2. The teacher carries every stream from pure noise to the data in `teacher_steps` Euler steps, given the student's
       draws of the stages before it; streams of one stage go together.
    3. The student's f at a node of that path is drawn to the path's end. Where the teacher begins with less noise than
       the student (`StreamSpec.teacher_temperature`), the node has the noise that is missing.
    A stream with weight 0 is not carried but held: by the mean squared distance of the student's velocity on noised
    ground truth to that of a copy from before this stage. Streams that are drawn together are carried or held together;
    without `hold_weight`, one with weight 0 goes along with the others and has no loss.

    Args:
        streams: See `Method`; of each, schedule, consistency function, guidance, steps, weight, huber_c and
            teacher_temperature are used.
        student: A student of an earlier stage, or the teacher's copy.
        teacher: The frozen model.
        keep_target: See `Method`.
        teacher_steps: Euler steps of the teacher from noise to data.
        hold_weight: Weight of the distance that holds streams with weight 0.
        start_share: Share of samples at sigma = 1 exactly, where sampling starts; the others are at inner nodes.
    """

    in_a_line = "learns where the teacher's path ends under what it has drawn itself"

    stream_choices = ("guidance", "huber_c", "teacher_temperature")
    teacher_draws = ("teacher_temperature",)
    option_values: ClassVar[Mapping[str, OptionValue]] = {
        "teacher_steps": COUNT,
        "start_share": SHARE,
        "hold_weight": WEIGHT,
    }

    def __init__(
        self,
        streams: Mapping[str, StreamSpec],
        student: WorldActionModel,
        *,
        teacher: WorldActionModel | None = None,
        keep_target: bool = False,
        teacher_steps: int = _TEACHER_STEPS,
        hold_weight: float = 1.0,
        start_share: float = _START_SHARE,
    ) -> None:
        self.carried = [name for name, spec in streams.items() if spec.weight > 0]
        self.held_streams = [name for name, spec in streams.items() if spec.weight == 0 and hold_weight > 0]
        self.needs_reference = bool(self.held_streams)
        super().__init__(streams, student, teacher=teacher, keep_target=keep_target)
        if not self.carried:
            raise InputError("every stream has weight 0: there is nothing to train")
        for stage in student.stages:
            still = [name for name in stage if name in self.held_streams]
            if still and len(still) < len(stage):
                raise InputError(
                    f"{list(stage)} are drawn together, so {still} with weight 0 cannot be held at levels of their own "
                    "while the others are carried: give all of them a weight, or set distill.options.hold_weight=0"
                )
        if teacher_steps < 1:
            raise InputError(f"teacher_steps must be at least 1; got {teacher_steps}")
        if not 0 <= start_share <= 1 or hold_weight < 0:
            raise InputError(f"start_share must lie in [0, 1], hold_weight >= 0; got {start_share}, {hold_weight}")
        self.teacher_steps = teacher_steps
        self.hold_weight, self.start_share = hold_weight, start_share
        steps = {n: s.steps for n, s in streams.items()}
        self._samplers = samplers_for(self.streams, steps=steps, teacher=False, temperature=1.0)

    @classmethod
    def passes_without_gradient(cls, streams: Mapping[str, StreamSpec], options: Mapping[str, Any]) -> float:
        """See `Method.passes_without_gradient`: each stream's past and draw, and the teacher's paths."""
        # One stream's chunk at a time: about a quarter of a joint pass.
        guided = sum(2 if spec.guidance else 1 for spec in streams.values() if spec.weight > 0)
        steps: float = options.get("teacher_steps", _TEACHER_STEPS)
        return 1.0 + 0.25 * (len(streams) + guided * steps)

    @classmethod
    def lesson(cls, spec: StreamSpec, level: float, options: Mapping[str, Any]) -> Lesson:
        """See `Method.lesson`: a part at sigma = 1, the rest as the schedule has it, all drawn to the path's end."""
        steps: int = options.get("teacher_steps", _TEACHER_STEPS)
        start: float = options.get("start_share", _START_SHARE) if steps > 1 else 1.0

        def share(low: float, high: float) -> float:
            return start * (high >= 1) + (1 - start) * drawn_share(spec.schedule, low, high)

        left = floor(float(spec.schedule.u(level)) * (steps - 1)) + 1
        return Lesson.at(level, share=share, jump_end=0.0, hops=1, teacher_steps=left)

    def loss(self, batch: Batch, draws: Draws) -> MethodOutput:
        """See `Method.loss`."""
        batch, begin = self._window(self.seen_by_model(batch), draws)
        chunk = batch.frames_of(slice(begin, None))
        drawn = self._own_draws(batch, begin, draws)
        noisy, sigma, end = self._teacher_paths(batch, begin, drawn, draws)
        held_noisy, held_sigma = self._held_states(chunk, draws)
        noisy, sigma = noisy | held_noisy, sigma | held_sigma
        told = {name: drawn_after(batch.history[name], x, self.roles.model) for name, x in drawn.items()}
        history = {**batch.history, **told}
        context = {"text": batch.text}
        velocity = self.roles.student(noisy, sigma, history, context)

        terms = {}
        total = torch.zeros((), device=batch.given.device)
        for name in self.carried:
            spec = self.streams[name]
            clean = spec.consistency(noisy[name], sigma[name], velocity[name])
            elements = pseudo_huber(clean, end[name], c=spec.huber_c)
            scale = spec.consistency.gradient_scale(sigma[name])
            terms[name] = StreamTerm.of(
                elements, chunk.loss_mask(name), sigma=sigma[name], gradient_scale=scale, velocity=velocity[name]
            )
            total = total + spec.weight * terms[name].loss.mean()
        if self.held_streams:
            with torch.no_grad():
                reference = self.roles.reference(held_noisy, held_sigma, history, context)
            for name in self.held_streams:
                elements = (velocity[name] - reference[name]).float() ** 2
                scale = torch.ones_like(sigma[name])
                terms[name] = StreamTerm.of(
                    elements, chunk.loss_mask(name), sigma=sigma[name], gradient_scale=scale, velocity=velocity[name]
                )
                total = total + self.hold_weight * terms[name].loss.mean()
        terms = {name: terms[name] for name in self.streams if name in terms}
        self.check_finite(terms, chunk)
        return MethodOutput(loss=total, terms=terms)

    def _window(self, batch: Batch, draws: Draws) -> tuple[Batch, int]:
        return random_chunk(batch, self.roles.model.chunk_frames, draws)

    @staticmethod
    def _rollout(model: WorldActionModel, batch: Batch, begin: int, guidance: Mapping[str, float]) -> RolloutSession:
        """A rollout of `model` that has seen the true past and stands at the current chunk."""
        session = model.session(batch.text, null_text=batch.null_text if guidance else None, guidance=guidance)
        # A chunk that begins with the observation has seen its own first frame, and knows nothing older.
        first, length = (begin, 1) if model.conditions_on_first else (0, model.chunk_frames)
        for start in range(first, begin + int(model.conditions_on_first), length):
            for name in model.layout.observed_shapes:
                session.append(name, batch.history[name][:, :, start : start + length], predicted=False)
            session.advance(length)
        return session

    @torch.no_grad()
    def _own_draws(self, batch: Batch, begin: int, draws: Draws) -> dict[str, Tensor]:
        """The student's own draws of every stage but the last, stream name -> [B, C, F, H, W]."""
        model = self.roles.model
        held = self._leading_given(batch, begin)
        drawn: dict[str, Tensor] = {}
        if len(model.stages) == 1:
            return drawn
        with self.roles.gathered(model):
            session = self._rollout(model, batch, begin, {})
            for stage in model.stages[:-1]:
                clean = {name: batch.clean[name][:, :, begin:] for name in stage}
                drawn |= draw(
                    session.velocity,
                    {name: draws.normal(f"draw/{name}", x.shape[1:]) for name, x in clean.items()},
                    self._samplers,
                    given={name: x[:, :, :held] for name, x in clean.items()} if held else None,
                )
                for name in stage:
                    session.append(name, drawn[name], predicted=True)
        return drawn

    @staticmethod
    def _leading_given(batch: Batch, begin: int) -> int:
        """Counts how many leading frames of the current chunk are given; the same for every sample."""
        given = batch.given[:, begin:]
        count = int(given[0].sum())
        expected = torch.zeros_like(given)
        expected[:, :count] = True
        if not torch.equal(given, expected):
            raise InputError("on_policy needs the given frames to lead the chunk and be the same in every sample")
        return count

    @torch.no_grad()
    def _teacher_paths(
        self, batch: Batch, begin: int, drawn: Mapping[str, Tensor], draws: Draws
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Of every stage with a carried stream: a node of the teacher's path [B, C, F, H, W] and its level [B, F]; of
        the carried streams the path's end too."""
        guidance = guidance_scales({name: self.streams[name] for name in self.carried}, draws)
        states: dict[str, Tensor] = {}
        levels: dict[str, Tensor] = {}
        ends: dict[str, Tensor] = {}
        start = draws.uniform("start") < self.start_share
        chunk = batch.frames_of(slice(begin, None))
        with self.roles.gathered(self.roles.teacher):
            session = self._rollout(self.roles.teacher, batch, begin, guidance)
            for stage in self.roles.model.stages:
                if any(name in self.carried for name in stage):
                    state, level, end = self._teacher_path(stage, session, chunk, start, draws)
                    states, levels, ends = states | state, levels | level, ends | end
                for name in stage:
                    if name in drawn:
                        session.append(name, drawn[name], predicted=True)
        return states, levels, ends

    def _teacher_path(
        self, stage: tuple[str, ...], session: RolloutSession, chunk: Batch, start: Tensor, draws: Draws
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """The whole stage goes the path together, every stream on its own schedule at the same nodes."""
        free, steps = ~chunk.given, self.teacher_steps
        # Streams that are drawn together share their nodes, as they share the steps of a sampler.
        offset = draws.uniform(f"offset/{stage[0]}")
        node = draws.integers(f"node/{stage[0]}", 1, max(2, steps)).masked_fill(start, 0)
        if steps == 1:
            node = torch.zeros_like(node)
        path = {name: path_levels(self.streams[name].schedule, offset, steps)[:, :, None] * free for name in stage}
        noise = {name: draws.normal(f"noise/{name}", chunk.clean[name].shape[1:]) for name in stage}
        temperature = {name: self.streams[name].teacher_temperature for name in stage}
        moved = free[:, None, :, None, None]
        x = {name: torch.where(moved, temperature[name] * noise[name], chunk.clean[name]) for name in stage}
        state = dict(x)
        for k in range(steps):
            here = (node == k)[:, None, None, None, None]
            state = {name: torch.where(here, x[name], state[name]) for name in stage}
            velocity = session.velocity(x, {name: path[name][k] for name in stage})
            x = {
                name: x[name] + append_dims(path[name][k + 1] - path[name][k], x[name]) * velocity[name]
                for name in stage
            }
        rows = torch.arange(chunk.size, device=node.device)
        level = {name: path[name][node, rows] for name in stage}
        missing = {name: append_dims(level[name], noise[name]) * noise[name] for name in stage}
        return (
            {name: torch.add(state[name], missing[name], alpha=1 - temperature[name]) for name in stage},
            level,
            {name: x[name] for name in stage if name in self.carried},
        )

    def _held_states(self, chunk: Batch, draws: Draws) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Noised ground truth of the held streams, at levels of each frame's own where the model allows that."""
        sigma, model = {}, self.roles.model
        for stage in model.stages:
            for name in (name for name in stage if name in self.held_streams):
                index = draws.integers(f"level/{stage[0]}", 0, _POINTS, (chunk.frames if model.frame_levels else 1,))
                start = draws.uniform(f"start/{stage[0]}") < self.start_share
                grid = self.streams[name].schedule.training_grid().float().to(index.device)
                sigma[name] = grid[index.masked_fill(start[:, None], 0)].expand(-1, chunk.frames)
        held = replace(chunk, clean={name: chunk.clean[name] for name in self.held_streams})
        noisy, sigma, _ = start_states(held, sigma, draws)
        return noisy, sigma
