# SPDX-License-Identifier: Apache-2.0
"""Second stage: the last stream is distilled under what the student itself draws for the earlier ones.

Off-policy, the last stream (the actions) learns given ground-truth video, where it has one mode, and is used given the
student's own one-step video, where it may have two. Here it learns where it is used.
Letters: B samples, C channels, F latent frames, H and W the rest of a stream's tokens.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.core.losses import pseudo_huber
from flashwam.core.noise import append_dims
from flashwam.core.streams import StreamSpec
from flashwam.distillation.draws import Draws
from flashwam.distillation.guidance import guided_velocity
from flashwam.distillation.methods.base import (
    Method,
    MethodOutput,
    StreamTerm,
    loss_mask,
    reduce_elements,
    start_states,
)
from flashwam.distillation.methods.consistency import jump_levels
from flashwam.sampling import draw, samplers_for
from flashwam.wam.base import WorldActionModel

__all__ = ["OnPolicy", "first_frames"]

_POINTS = 1000


def first_frames(batch: Batch, frames: int) -> Batch:
    """The batch cut to its first latent frames."""

    def cut(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: x[:, :, :frames] for name, x in parts.items()}

    return replace(
        batch,
        clean=cut(batch.clean),
        history=cut(batch.history),
        mask=cut(batch.mask),
        given=batch.given[:, :frames],
    )


class OnPolicy(Method):
    """Pseudo-Huber distance of the student's clean estimate to the end of the teacher's path under the same draws.

    One chunk is the current one, drawn anew for every step; the window ends with it, so its past is ground truth for
    everybody and the student's own draws are seen by the current chunk alone, exactly as in a rollout. In it:
    1. The student draws the earlier streams with its own consistency functions and inference steps; they fill the
       clean slots.
    2. The teacher carries the last stream from pure noise to a random level in `teacher_pre_steps` Euler steps and on
       to the data in `teacher_post_steps`, evenly spaced in u, under those clean slots.
    3. The student's f at that level is drawn to the teacher's end point.
    The earlier streams are held in place by the mean squared distance of the student's velocity on noised ground truth
    to that of a copy from before this stage.

    Args:
        streams: See `Method`; of the earlier streams, schedule, consistency function and steps are used.
        student: A student of an earlier stage.
        teacher: The frozen model.
        keep_target: See `Method`.
        teacher_pre_steps: Teacher steps down to the level.
        teacher_post_steps: Teacher steps from there to the data.
        hold_weight: Weight of the distance that holds the earlier streams.
        start_share: Share of samples at sigma = 1 exactly, where sampling starts; the others' levels are drawn from
            the stream's schedule.
    """

    needs_reference = True

    def __init__(
        self,
        streams: Mapping[str, StreamSpec],
        student: WorldActionModel,
        *,
        teacher: WorldActionModel | None = None,
        keep_target: bool = False,
        teacher_pre_steps: int = 3,
        teacher_post_steps: int = 6,
        hold_weight: float = 1.0,
        start_share: float = 0.5,
    ) -> None:
        super().__init__(streams, student, teacher=teacher, keep_target=keep_target)
        if len(streams) < 2:
            raise ValueError("on_policy needs at least two streams: the last is learned under the earlier ones")
        if teacher_pre_steps < 1 or teacher_post_steps < 1:
            raise ValueError(f"teacher steps must be at least 1; got {teacher_pre_steps} and {teacher_post_steps}")
        if not 0 <= start_share <= 1 or hold_weight < 0:
            raise ValueError(f"start_share must lie in [0, 1], hold_weight >= 0; got {start_share}, {hold_weight}")
        *self.earlier, self.last = streams
        if streams[self.last].weight == 0:
            raise ValueError(f"stream {self.last!r} has weight 0: there is nothing to train")
        self.pre_steps, self.post_steps = teacher_pre_steps, teacher_post_steps
        self.hold_weight, self.start_share = hold_weight, start_share
        self._samplers = samplers_for(self.streams, steps={n: s.steps for n, s in streams.items()}, teacher=False)

    def loss(self, batch: Batch, draws: Draws) -> MethodOutput:
        """See `Method.loss`."""
        batch, begin = self._window(batch, draws)
        spec = self.streams[self.last]
        history = self._own_draws(batch, begin, draws)
        state, end, level = self._teacher_path(batch, history, begin, draws)
        held_noisy, held_sigma = self._held_states(batch, draws)

        velocity = self.roles.student(
            {**held_noisy, self.last: state},
            {**held_sigma, self.last: level},
            history,
            {"text": batch.text},
        )
        predicted, level = velocity[self.last][:, :, begin:], level[:, begin:]
        clean = spec.consistency(state[:, :, begin:], level, predicted)
        mask = loss_mask(batch, self.last)[:, :, begin:]
        terms = {
            self.last: self._term(
                pseudo_huber(clean, end, c=spec.huber_c),
                mask,
                level,
                spec.consistency.gradient_scale(level),
                predicted,
            )
        }
        total = spec.weight * terms[self.last].loss.mean()
        if self.hold_weight > 0:
            with torch.no_grad():
                reference = self.roles.reference(held_noisy, held_sigma, history, {"text": batch.text})
            for name in self.earlier:
                elements = (velocity[name] - reference[name]).float() ** 2
                sigma = held_sigma[name]
                terms[name] = self._term(
                    elements, loss_mask(batch, name), sigma, torch.ones_like(sigma), velocity[name]
                )
                total = total + self.hold_weight * terms[name].loss.mean()
        terms = {name: terms[name] for name in self.streams if name in terms}
        self.check_finite(terms, batch)
        return MethodOutput(loss=total, terms=terms)

    @staticmethod
    def _term(elements: Tensor, mask: Tensor, sigma: Tensor, scale: Tensor, velocity: Tensor) -> StreamTerm:
        per_sample, frame_loss, frame_mask = reduce_elements(elements, mask)
        return StreamTerm(
            loss=per_sample,
            frame_loss=frame_loss,
            frame_mask=frame_mask,
            sigma=sigma,
            gradient_scale=scale,
            velocity=velocity,
            mask=mask,
        )

    def _window(self, batch: Batch, draws: Draws) -> tuple[Batch, int]:
        """The batch up to the end of a random chunk, and that chunk's first frame."""
        length = self.roles.model.chunk_frames
        chunks = batch.frames // length
        if chunks < 1:
            raise ValueError(f"a sample must hold a whole chunk of {length} latent frames; got {batch.frames}")
        chunk = draws.shared_integer("chunk", 0, chunks)
        return first_frames(batch, (chunk + 1) * length), chunk * length

    @torch.no_grad()
    def _own_draws(self, batch: Batch, begin: int, draws: Draws) -> dict[str, Tensor]:
        """History whose current chunk holds the student's own draws of the earlier streams."""
        history = dict(batch.history)
        given = self._leading_given(batch, begin)
        for name in self.earlier:
            past = history[name][:, :, :begin]

            def velocity(x: Tensor, sigma: Tensor, name: str = name, past: Tensor = past) -> Tensor:
                noisy = {name: torch.cat([past, x], 2)}
                level = {name: torch.cat([sigma.new_zeros(sigma.shape[0], begin), sigma], 1)}
                return self.roles.model(noisy, level, history, {"text": batch.text})[name][:, :, begin:]

            clean = batch.clean[name][:, :, begin:]
            noise = draws.normal(f"draw/{name}", clean.shape[1:])
            held = clean[:, :, :given] if given else None
            history[name] = torch.cat([past, draw(velocity, noise, self._samplers[name], given=held)], 2)
        return history

    @staticmethod
    def _leading_given(batch: Batch, begin: int) -> int:
        """How many leading frames of the current chunk are given; the same for every sample."""
        given = batch.given[:, begin:]
        count = int(given[0].sum())
        expected = torch.zeros_like(given)
        expected[:, :count] = True
        if not torch.equal(given, expected):
            raise ValueError("on_policy needs the given frames to lead the chunk and be the same in every sample")
        return count

    @torch.no_grad()
    def _teacher_path(
        self, batch: Batch, history: Mapping[str, Tensor], begin: int, draws: Draws
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The last stream at a random level [B, C, F, H, W], its end [B, C, F - begin, H, W], the level [B, F]."""
        spec = self.streams[self.last]
        clean = batch.clean[self.last]
        index = draws.integers("level", 0, _POINTS)
        index = index.masked_fill(draws.uniform("start") < self.start_share, 0)
        scales = {}
        if spec.guidance is not None:
            low, high = spec.guidance
            scales[self.last] = low + (high - low) * draws.shared_uniform(f"guidance/{self.last}")

        # Frames before the chunk are tokens that nobody sees; given ones are clean.
        free = ~batch.given
        free[:, :begin] = False
        noise = draws.normal(f"noise/{self.last}", clean.shape[1:])
        x = torch.where(free[:, None, :, None, None], noise, clean)

        def integrate(x: Tensor, path: Tensor, rows: Tensor) -> Tensor:
            past = {name: part[rows] for name, part in history.items()}
            levels = path[:, rows, None] * free[rows]
            for level, following in pairwise(levels):
                velocity = guided_velocity(
                    self.roles.teacher,
                    {self.last: x},
                    {self.last: level},
                    past,
                    text=batch.text[rows],
                    null_text=batch.null_text,
                    scales=scales,
                )[self.last]
                x = x + append_dims(following - level, x) * velocity
            return x

        moved = (index > 0).nonzero().flatten()
        if len(moved):
            path = jump_levels(spec.schedule, torch.zeros_like(index), index, self.pre_steps)
            x = x.index_copy(0, moved, integrate(x[moved], path, moved))
        path = jump_levels(spec.schedule, index, torch.full_like(index, _POINTS), self.post_steps)
        end = integrate(x, path, torch.arange(batch.size, device=x.device))
        return x, end[:, :, begin:], path[0][:, None] * free

    def _held_states(self, batch: Batch, draws: Draws) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Noised ground truth of the earlier streams; nothing where they are not held."""
        if self.hold_weight == 0:
            return {}, {}
        sigma = {}
        for name in self.earlier:
            index = draws.integers(f"level/{name}", 0, _POINTS, (batch.frames,))
            start = draws.uniform(f"start/{name}") < self.start_share
            grid = self.streams[name].schedule.training_grid().float().to(index.device)
            sigma[name] = grid[index.masked_fill(start[:, None], 0)]
        earlier = replace(batch, clean={name: batch.clean[name] for name in self.earlier})
        noisy, sigma, _ = start_states(earlier, sigma, draws)
        return noisy, sigma
