# SPDX-License-Identifier: Apache-2.0
"""Distillation on a teacher's stored draws: from the noise of a chunk to what the teacher draws from it.

Letters: B samples, C channels, F latent frames of a chunk, H and W the rest of a stream's tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.core.losses import pseudo_huber
from flashwam.core.streams import StreamSpec
from flashwam.distillation.draws import Draws
from flashwam.distillation.futures import TeacherFuture
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
from flashwam.distillation.methods.options import is_weight, mapping_of, option
from flashwam.distillation.methods.values import COUNT, SHARE, TEXT, OptionValue, check_each, or_none
from flashwam.distillation.own_pasts import own_pasts
from flashwam.distillation.pair_source import NOISE, PairSource, Pool, pair_counts
from flashwam.distillation.prepared import Prepared, draw_passes
from flashwam.distillation.rollouts import RolloutStore, stored_bytes
from flashwam.distillation.setup import Beginnings, Reaching, Setup, Source
from flashwam.recipe.sections import LoopConfig
from flashwam.sampling import renoise, samplers_for
from flashwam.system.errors import InputError
from flashwam.system.imports import check_keywords
from flashwam.system.paths import user_path
from flashwam.wam.base import WorldActionModel

__all__ = ["Pairs"]


class Pairs(Method):
    """Pseudo-Huber distance of the student's clean estimate to the end of the teacher's path from the same noise.

    The teacher draws every chunk once, before training, in all its steps, every stage under its own draw of the stages
    before it and guided as it is driven (`streams.*.guidance_scale`); then it is dropped. One pass of the student
    learns all streams, where its sampler stands: at sigma = 1, and in `further_share` of the steps at the later levels
    of a sampler of up to `steps` steps, in the state that the student itself has reached there.

    Args:
        streams: See `Method`; of each, schedule, consistency function, teacher's steps and guidance scale, weight and
            huber_c are used. A stream with `loss: dmd` has its draws matched to the teacher's distribution with its
            weight, and is held by its pairs with the weight of its regulariser; the teacher is then kept.
        student: The model to train.
        teacher: The frozen model.
        keep_target: See `Method`.
        reuse: How often a pair is used: the run has steps x batch / reuse distinct ones.
        first_share: Share of the batches whose chunk is an episode's first, where a way is chosen; None for as many as
            the windows have, for data that do not tell where episodes begin.
        several_ways: Tasks with several ways to go have so many times as many first chunks as others.
        steps: The largest number of sampling steps, of every stream, that is trained for.
        further_share: Share of the steps trained at later levels than sigma = 1; 0 where `steps` is 1.
        drawn_at_once: Chunks that the teacher draws together, and that lie in one file.
        dmd: Options of `DistributionMatchingTerm`, where a stream has that loss.
        histories: Folder of a model's own episodes (`flashwam record`), whose pasts the teacher draws from too.
        histories_share: Share of the batches whose past is one of those, from an episode's second chunk on; the others
            are parted as without them.
    """

    in_a_line = "learns the teacher's own draws from the same noise, which are made once before training"

    keeps_teacher = False
    stream_losses = (DMD,)
    stream_choices = ("huber_c", "teacher_temperature")
    option_values: ClassVar[Mapping[str, OptionValue]] = {
        "reuse": OptionValue(lambda value: is_weight(value) and value >= 1, "a finite number of at least 1"),
        "first_share": or_none(SHARE),
        "several_ways": COUNT,
        "steps": COUNT,
        "further_share": OptionValue(lambda value: is_weight(value) and value < 1, "a number in [0, 1)"),
        "drawn_at_once": COUNT,
        "histories": or_none(TEXT),
        "histories_share": OptionValue(lambda value: is_weight(value) and 0 < value <= 1, "a number in (0, 1]"),
    }
    teacher_draws = ("schedule", "teacher_steps", "guidance_scale", "teacher_temperature")

    def __init__(
        self,
        streams: Mapping[str, StreamSpec],
        student: WorldActionModel,
        *,
        teacher: WorldActionModel | None = None,
        keep_target: bool = False,
        reuse: float = 5.0,
        first_share: float | None = 0.4,
        several_ways: int = 2,
        steps: int = 2,
        further_share: float = 0.3,
        drawn_at_once: int = 64,
        dmd: Mapping[str, Any] | None = None,
        histories: str | None = None,
        histories_share: float = 0.5,
    ) -> None:
        self.matched = _matched(streams)
        self.needs_critic = self.keeps_teacher = bool(self.matched)
        super().__init__(streams, student, teacher=teacher, keep_target=keep_target)
        if any(spec.weight == 0 for spec in streams.values()):
            silent = [name for name, spec in streams.items() if spec.weight == 0]
            raise InputError(f"pairs trains every stream from one draw; weight is 0 for {silent}")
        if reuse < 1 or several_ways < 1 or steps < 1 or drawn_at_once < 1:
            raise InputError(
                "reuse, several_ways, steps and drawn_at_once must be at least 1; got "
                f"{reuse}, {several_ways}, {steps}, {drawn_at_once}"
            )
        if not 0 <= further_share < 1 or not (first_share is None or 0 <= first_share <= 1):
            raise InputError(
                f"further_share must lie in [0, 1), first_share in [0, 1] or be null; got {further_share} and "
                f"{first_share}"
            )
        if dmd and not self.matched:
            raise InputError('options.dmd says how a stream is matched, and no stream has "loss: dmd"')
        check_keywords("options.dmd", dmd or {}, [*MATCHING_VALUES])
        self.matching = DistributionMatchingTerm(self.streams, self.roles, matched=self.matched, **(dmd or {}))
        if not 0 < histories_share <= 1:
            raise InputError(f"histories_share must lie in (0, 1]; got {histories_share}")
        self.histories_share = histories_share if histories is not None else 0.0
        self.reuse, self.first_share, self.several_ways = reuse, first_share, several_ways
        self.steps, self.further_share, self.drawn_at_once = steps, further_share if steps > 1 else 0.0, drawn_at_once

    @classmethod
    def check_values(cls, loop: LoopConfig) -> None:
        """See `Method.check_values`."""
        super().check_values(loop)
        matching = mapping_of("options.dmd", loop.options.get("dmd"))
        check_keywords("options.dmd", matching, [*MATCHING_VALUES])
        check_each("options.dmd", matching, MATCHING_VALUES)
        if matching:
            check_turns(loop, matching.get("student_every", STUDENT_EVERY))

    @classmethod
    def choices_of(cls, spec: StreamSpec) -> tuple[str, ...]:
        """See `Method.choices_of`: a matched stream is guided, and held by its pairs."""
        return (*cls.stream_choices, *(("guidance", "regulariser") if spec.loss == DMD else ()))

    @classmethod
    def histories(cls, options: Mapping[str, Any]) -> Path | None:
        """See `Method.histories`."""
        folder = options.get("histories")
        return None if folder is None else user_path(folder)

    @classmethod
    def passes_without_gradient(cls, streams: Mapping[str, StreamSpec], options: Mapping[str, Any]) -> float:
        """See `Method.passes_without_gradient`: the student's own, to the levels after the first."""
        steps, share = option(cls, options, "steps"), option(cls, options, "further_share")
        # Of n in 2 .. steps and k in 1 .. n - 1, both even, the mean of k.
        before = float(share * (1 + steps / 2) / 2) if steps > 1 else 0.0
        if not (matched := _matched(streams)):
            return before
        every = (options.get("dmd") or {}).get("student_every", STUDENT_EVERY)
        return DistributionMatchingTerm.passes_without_gradient(
            streams, matched=matched, before=before, student_every=every
        )

    def turns(self, step: int) -> Sequence[Turn]:
        """See `Method.turns`: with a stream to match, the student waits for the critic."""
        if not self.matched:
            return super().turns(step)
        return self.matching.turns(step, student=self.loss, critic=self.critic_loss)

    @classmethod
    def lesson(cls, spec: StreamSpec, level: float, options: Mapping[str, Any]) -> Lesson:
        """See `Method.lesson`: the levels of its samplers alone, all drawn to the teacher's own end, or, of a matched
        stream, by the teacher's single answers."""
        steps: int = option(cls, options, "steps")
        further: float = option(cls, options, "further_share") if steps > 1 else 0.0
        grids = [spec.schedule.sampling_grid(n)[1:-1].tolist() for n in range(2, steps + 1)]

        def share(low: float, high: float) -> float:
            later = sum(sum(low - 1e-9 <= at <= high + 1e-9 for at in grid) / len(grid) for grid in grids)
            return (1 - further) * (high + 1e-9 >= 1) + (further * later / len(grids) if grids else 0.0)

        return Lesson.at(
            level, share=share, jump_end=0.0, hops=1, teacher_steps=1 if spec.loss == DMD else spec.teacher_steps
        )

    @classmethod
    def prepares(cls, options: Mapping[str, Any], *, model: WorldActionModel, frames: int, setup: Setup) -> Prepared:
        """See `Method.prepares`: the pairs; those of own pasts as if their chunks all stood at one place."""
        own = option(cls, options, "histories_share") if cls.histories(options) is not None else 0.0
        places = _shares(option(cls, options, "first_share"), max(1, frames // model.chunk_frames))
        shares = [(1 - own) * share for _, share in places] + [own]
        counts = pair_counts(
            [share for share in shares if share > 0],
            batches=setup.batches,
            batch_size=setup.batch_size,
            reuse=option(cls, options, "reuse"),
        )
        return Prepared(
            what="pairs",
            count=sum(counts),
            bytes_each=stored_bytes(model, model.chunk_frames),
            passes=draw_passes(model, samplers_for(setup.streams, steps=None, teacher=True)),
        )

    def source(self, source: Source, setup: Setup) -> PairSource:
        """See `Method.source`: the pairs, completed first; the teacher is dropped afterwards where nobody
        asks it."""
        teacher = self.roles.teacher
        if teacher is None:
            raise InputError("pairs are made once, before training: give the method its source with the teacher")
        teacher.to(setup.device)
        store = RolloutStore(
            setup.rollouts,
            TeacherFuture(teacher, samplers_for(self.streams, steps=None, teacher=True)),
            frames=teacher.chunk_frames,
            batch_size=self.drawn_at_once,
        )
        made = PairSource(
            self._pools(source, setup, teacher),
            store,
            teacher,
            batch_size=setup.batch_size,
            batches=setup.batches,
            reuse=self.reuse,
            seed=setup.seed,
        )
        store.release()
        if not self.keeps_teacher:
            self.roles.teacher = None
        return made

    def _pools(self, source: Source, setup: Setup, model: WorldActionModel) -> list[Pool]:
        """Chunks after a past of the data, then those after a model's own."""
        parts = [(1 - self.histories_share, self._true_pasts(source, model))]
        if self.histories_share > 0:
            if setup.histories is None:
                raise InputError("histories are episodes of the simulator, beside data that a simulator makes")
            parts.append((self.histories_share, own_pasts(setup.histories, model)))
        pools = [replace(pool, share=pool.share * share) for share, pools in parts for pool in pools]
        return [pool for pool in pools if pool.share > 0]

    def _true_pasts(self, source: Source, model: WorldActionModel) -> list[Pool]:
        """First chunks, and those after one, two ... chunks of the data."""
        frames, length = source.batch([0]).frames, model.chunk_frames
        chunks = frames // length
        if frames % length or (model.conditions_on_first and chunks != 1):
            whole = "one chunk" if model.conditions_on_first else "whole chunks"
            raise InputError(
                f"pairs need windows of {whole} of {length} latent frames; got {frames}: data.window_frames"
            )
        sources = [source]
        if self.first_share is not None:
            if not isinstance(source, Beginnings):
                raise InputError("the data do not tell where episodes begin: set first_share to null")
            sources.append(source.beginnings(several_ways=self.several_ways))
        found = []
        for number, (chunk, share) in enumerate(_shares(self.first_share, chunks)):
            # Where a share is asked for, the first pool is that of the beginnings.
            chosen = sources[-1] if number == 0 and self.first_share else source
            if chunk and isinstance(chosen, Reaching):
                # A chunk behind an episode's end has no loss, and may follow no true past.
                chosen = chosen.reaching(chunk * length)
            found.append(Pool(source=chosen, chunk=chunk, share=share))
        return found

    def loss(self, batch: Batch, draws: Draws) -> MethodOutput:
        """See `Method.loss`."""
        batch, chunk, noisy, sigma = self._started(batch, draws)
        velocity = self.roles.student(noisy, sigma, batch.history, {"text": batch.text})
        drawn = self._drawn(batch, chunk, noisy, sigma, velocity)
        terms, metrics = self.matching.student(drawn, draws) if self.matched else ({}, {})
        total = torch.zeros((), device=batch.given.device)
        for name, term in terms.items():
            total = total + self.streams[name].weight * term.loss.mean()
        for name, spec in self.streams.items():
            elements = pseudo_huber(drawn.clean[name], chunk.clean[name], c=spec.huber_c)
            scale = spec.consistency.gradient_scale(sigma[name])
            pair = StreamTerm.of(
                elements, chunk.loss_mask(name), sigma=sigma[name], gradient_scale=scale, velocity=velocity[name]
            )
            if name in terms:
                metrics[f"{name}/pairs"] = pair.loss.detach().mean()
                total = total + spec.regulariser * pair.loss.mean()
            else:
                terms[name] = pair
                total = total + spec.weight * pair.loss.mean()
        terms = {name: terms[name] for name in self.streams}
        self.check_finite(terms, chunk)
        return MethodOutput(loss=total, terms=terms, metrics=metrics)

    def critic_loss(self, batch: Batch, draws: Draws) -> MethodOutput:
        """The critic's objective: flow matching on what the student draws from the pairs' noise."""
        batch, chunk, noisy, sigma = self._started(batch, draws)
        with torch.no_grad():
            velocity = self.roles.model(noisy, sigma, batch.history, {"text": batch.text})
        output = self.matching.critic(self._drawn(batch, chunk, noisy, sigma, velocity), draws)
        self.check_finite(output.terms, chunk)
        return output

    def _started(self, batch: Batch, draws: Draws) -> tuple[Batch, Batch, dict[str, Tensor], dict[str, Tensor]]:
        """The samples as the model is told them, their last chunk, and where the student's sampler stands in it."""
        batch = self.seen_by_model(batch)
        chunk = batch.frames_of(slice(-self.roles.model.chunk_frames, None))
        noise = {name: batch.extra[f"{NOISE}{name}"] for name in chunk.clean}
        return batch, chunk, *self._states(batch, chunk, noise, draws)

    def _drawn(
        self,
        batch: Batch,
        chunk: Batch,
        noisy: Mapping[str, Tensor],
        sigma: Mapping[str, Tensor],
        velocity: Mapping[str, Tensor],
    ) -> Drawn:
        clean = {name: self.streams[name].consistency(x, sigma[name], velocity[name]) for name, x in noisy.items()}
        return Drawn(clean=clean, sigma=sigma, velocity=velocity, batch=chunk, history=batch.history)

    @torch.no_grad()
    def _states(
        self, batch: Batch, chunk: Batch, noise: Mapping[str, Tensor], draws: Draws
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """States [B, C, F, H, W] and levels [B, F] at which the student is trained, given frames clean at level 0."""
        model = self.roles.model
        level = dict.fromkeys(noise, 1.0)
        x = {name: _held(state, chunk, name) for name, state in noise.items()}
        if draws.shared_uniform("further") < self.further_share:
            steps = draws.shared_integer("steps", 2, self.steps + 1)
            grids = {name: self.streams[name].schedule.sampling_grid(steps).float().tolist() for name in noise}
            place = {}
            for stage in model.stages:
                place |= dict.fromkeys(stage, draws.shared_integer(f"place/{stage[0]}", 1, steps))
            with self.roles.gathered(model):
                for k in range(max(place.values())):
                    sigma = {name: _levels(level[name], chunk) for name in x}
                    velocity = model(x, sigma, batch.history, {"text": batch.text})
                    for name in x:
                        if k < place[name]:
                            clean = self.streams[name].consistency(x[name], sigma[name], velocity[name])
                            x[name] = _held(renoise(x[name], clean, level[name], grids[name][k + 1]), chunk, name)
                            level[name] = grids[name][k + 1]
        return x, {name: _levels(level[name], chunk) for name in x}


def _shares(first_share: float | None, chunks: int) -> list[tuple[int, float]]:
    """Places of a chunk in its window with their share of the batches; that of episodes' first chunks stands first."""
    if first_share is None:
        return [(chunk, 1 / chunks) for chunk in range(chunks)]
    places = range(1, chunks) if chunks > 1 else range(1)
    found = [(0, first_share), *((chunk, (1 - first_share) / len(places)) for chunk in places)]
    return [(chunk, share) for chunk, share in found if share > 0]


def _levels(level: float, chunk: Batch) -> Tensor:
    return torch.full(chunk.given.shape, level, device=chunk.given.device).masked_fill(chunk.given, 0.0)


def _held(x: Tensor, chunk: Batch, name: str) -> Tensor:
    """The state with the given frames' clean content."""
    return torch.where(chunk.given[:, None, :, None, None], chunk.clean[name], x)


def _matched(streams: Mapping[str, StreamSpec]) -> list[str]:
    return [name for name, spec in streams.items() if spec.loss == DMD]
