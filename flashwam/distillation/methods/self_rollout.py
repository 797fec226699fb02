# SPDX-License-Identifier: Apache-2.0
"""Rollouts of the student itself in a few steps, up to the last one, which may then be taken with a gradient.

Letters: B samples, C channels, F latent frames, H and W the rest of a stream's tokens.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.core.noise import add_noise
from flashwam.core.streams import StreamSpec
from flashwam.distillation.draws import Draws
from flashwam.distillation.methods.states import drawn_after, random_chunk
from flashwam.wam.base import WorldActionModel
from flashwam.wam.session import Kept

__all__ = ["SelfRollout", "SelfRollouts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfRollout:
    """A rollout before its last step.

    Args:
        noisy: Stream name -> state, [B, C, F, H, W].
        sigma: Stream name -> its level, [B, F]; 0 where a frame is given.
        chunk: The samples, of the F frames that are drawn.
        history: Stream name -> clean slots that the last step sees; they end with these frames.
        data: The same as the data have them.
        context: The rest that the model is told, for passes without gradient.
    """

    noisy: Mapping[str, Tensor]
    sigma: Mapping[str, Tensor]
    chunk: Batch
    history: Mapping[str, Tensor]
    data: Mapping[str, Tensor]
    context: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfRollouts:
    """Makes rollouts of one number of steps for a whole batch: to the clean estimate, and back with new noise.

    Args:
        streams: Schedules and consistency functions.
        drawn: The streams to draw, whole stages.
        most_steps: K; the number is uniform in 1 to K, and the k-th step is taken at u = 1 - (k - 1) / K.
        own_draws: Draw one chunk after its true past, every stage under the draws of the stages before it, as at
            rollout. Otherwise all chunks at once, under the data.
    """

    streams: Mapping[str, StreamSpec]
    drawn: Collection[str]
    most_steps: int
    own_draws: bool

    @torch.no_grad()
    def __call__(self, model: WorldActionModel, batch: Batch, draws: Draws) -> SelfRollout:
        """A rollout of `model`; the same `draws` give the same one."""
        steps = draws.shared_integer("rollout_steps", 1, self.most_steps + 1)
        groups, begin = [tuple(name for name in self.streams if name in self.drawn)], 0
        if self.own_draws:
            batch, begin = random_chunk(batch, model.chunk_frames, draws)
            last = max(k for k, stage in enumerate(model.stages) if not set(stage).isdisjoint(self.drawn))
            groups = list(model.stages[: last + 1])
        chunk, history = batch.frames_of(slice(begin, None)), dict(batch.history)
        states: dict[str, Tensor] = {}
        levels: dict[str, Tensor] = {}
        for place, group in enumerate(groups):
            context = {"text": batch.text, "kept": Kept()}
            x, sigma = self._begin(group, chunk, draws)
            for k in range(1, steps):
                clean = self.clean(x, sigma, model(x, sigma, history, context))
                sigma = self._levels(group, k, chunk)
                x = {
                    name: add_noise(end, draws.normal(f"draw/{k}/{name}", end.shape[1:]), sigma[name])
                    for name, end in clean.items()
                }
            states, levels = states | x, levels | sigma
            if place < len(groups) - 1:
                clean = self.clean(x, sigma, model(x, sigma, history, context))
                history |= {name: drawn_after(history[name], clean[name], model) for name in group}
        names = [name for name in self.streams if name in self.drawn]
        return SelfRollout(
            noisy={name: states[name] for name in names},
            sigma={name: levels[name] for name in names},
            chunk=chunk,
            history=history,
            data=batch.history,
            context=context,
        )

    def clean(
        self, noisy: Mapping[str, Tensor], sigma: Mapping[str, Tensor], velocity: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The clean estimates of a step, by stream name."""
        return {name: self.streams[name].consistency(x, sigma[name], velocity[name]) for name, x in noisy.items()}

    def _begin(self, group: Collection[str], chunk: Batch, draws: Draws) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        sigma = self._levels(group, 0, chunk)
        x = {
            name: add_noise(clean, draws.normal(f"draw/0/{name}", clean.shape[1:]), sigma[name])
            for name, clean in chunk.clean.items()
            if name in group
        }
        return x, sigma

    def _levels(self, group: Collection[str], k: int, chunk: Batch) -> dict[str, Tensor]:
        """Levels [B, F] of the step after `k` others."""
        share = 1 - k / self.most_steps
        pure = torch.ones_like(chunk.given, dtype=torch.float32).masked_fill(chunk.given, 0.0)
        return {name: self.streams[name].schedule.sigma(share) * pure for name in group}
