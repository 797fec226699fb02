# SPDX-License-Identifier: Apache-2.0
"""Flow matching on every stream, as LingBot-VA trains; makes teachers.

Letters: B samples, F latent frames.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.core.losses import flow_matching_loss
from flashwam.core.noise import add_noise, append_dims
from flashwam.core.streams import StreamSpec
from flashwam.distillation.draws import Draws
from flashwam.distillation.methods.base import Method, MethodOutput, StreamTerm
from flashwam.distillation.methods.options import unknown_streams
from flashwam.distillation.methods.states import start_states, training_levels
from flashwam.distillation.methods.values import FLAG, RANGE, SHARE, OptionValue, of_streams, one_of, or_none
from flashwam.system.errors import InputError
from flashwam.wam.base import WorldActionModel

__all__ = ["FlowMatching"]


class FlowMatching(Method):
    """E w(sigma) |v - (eps - x0)|^2 per stream.

    Args:
        streams: See `Method`; schedules and weights are used.
        student: The model to train.
        teacher: Not used.
        keep_target: See `Method`.
        shared_levels: Draw one level per frame for the whole step, as LingBot-VA does, instead of one per sample.
        noisy_history: Stream name -> probability that a sample's clean slots of that stream carry noise (levels of
            u in (0, 0.5], one per frame), so that the model bears its own imperfect draws. One coin per step with
            `shared_levels`. By default 0.5 of the first stream; none, and no other, for a model that conditions on the
            observed frame, which has no other clean slots and is told no level of them.
        synchronous: Streams that are drawn together stand at the same level, or else each at its own.
        history_dropout: Stream name -> probability that a sample's clean slots of that stream are zeros, so that the
            model also works without what it was shown.
        weighting: Stream name -> w: "schedule" for `Schedule.training_weights` (LingBot-VA's bell with a shifted
            schedule, the squared error of v with a variance-preserving one), "flat" for 1. "schedule" where not named.
        text_dropout: Probability that a sample's text is replaced by the empty prompt, for guidance.
        chunk_frames: (low, high), both included: the chunk length is drawn anew every step; None for the model's own.
        window_chunks: (low, high) of the attention window, likewise.
    """

    in_a_line = "learns the demonstrations by flow matching, without a teacher"

    needs_teacher = False
    stream_choices = ("teacher_temperature",)
    result = "teacher"
    option_values: ClassVar[Mapping[str, OptionValue]] = {
        "shared_levels": FLAG,
        "synchronous": FLAG,
        "noisy_history": of_streams(SHARE),
        "history_dropout": of_streams(SHARE),
        "weighting": of_streams(one_of("schedule", "flat")),
        "text_dropout": SHARE,
        "chunk_frames": or_none(RANGE),
        "window_chunks": or_none(RANGE),
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
        noisy_history: Mapping[str, float] | None = None,
        history_dropout: Mapping[str, float] | None = None,
        weighting: Mapping[str, Literal["schedule", "flat"]] | None = None,
        text_dropout: float = 0.1,
        chunk_frames: tuple[int, int] | None = None,
        window_chunks: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(streams, student, teacher=teacher, keep_target=keep_target)
        if noisy_history is None:
            noisy_history = {} if student.conditions_on_first else {next(iter(streams)): 0.5}
        history_dropout, weighting = history_dropout or {}, weighting or {}
        unknown_streams("noisy_history", noisy_history, streams)
        unknown_streams("history_dropout", history_dropout, streams)
        unknown_streams("weighting", weighting, streams)
        for option, chances in (
            ("text_dropout", {"": text_dropout}),
            ("noisy_history", noisy_history),
            ("history_dropout", history_dropout),
        ):
            for name, value in chances.items():
                if not 0 <= value <= 1:
                    at = f"{option}.{name}" if name else option
                    raise InputError(f"{at} is a probability and must lie in [0, 1]; got {value}")
        for name, value in weighting.items():
            if value not in ("schedule", "flat"):
                raise InputError(f'weighting.{name} must be "schedule" or "flat"; got {value!r}')
        if student.conditions_on_first and any(noisy_history.values()):
            raise InputError(
                f"noisy_history {dict(noisy_history)} puts noise on what is clean, which for this model is the "
                "observed frame itself, and it cannot be told how much: leave noisy_history out, or set it to {}"
            )
        if all(spec.weight == 0 for spec in streams.values()):
            raise InputError("every stream has weight 0: there is nothing to train")
        self.shared_levels, self.synchronous = shared_levels, synchronous
        self.noisy_history = dict(noisy_history)
        self.history_dropout = dict(history_dropout)
        self.text_dropout = text_dropout
        self.ranges = {"chunk_frames": chunk_frames, "window_chunks": window_chunks}
        self._tables = {}
        for name, spec in streams.items():
            grid, weights = spec.schedule.training_grid(), spec.schedule.training_weights()
            flat = weighting.get(name) == "flat"
            self._tables[name] = grid.float(), torch.ones_like(grid).float() if flat else weights.float()

    @classmethod
    def passes_without_gradient(cls, streams: Mapping[str, StreamSpec], options: Mapping[str, Any]) -> float:
        """See `Method.passes_without_gradient`: there is no teacher."""
        return 0.0

    def loss(self, batch: Batch, draws: Draws) -> MethodOutput:
        """See `Method.loss`."""
        device = batch.given.device
        batch = self.seen_by_model(batch)
        index = training_levels(
            self.roles.model, batch, draws, self.streams, shared=self.shared_levels, synchronous=self.synchronous
        )
        sigma = {name: self._tables[name][0].to(device)[i] for name, i in index.items()}
        weight = {name: self._tables[name][1].to(device)[i] for name, i in index.items()}
        noisy, sigma, noise = start_states(batch, sigma, draws)
        history, context = self._condition(batch, draws)
        velocity = self.roles.student(noisy, sigma, history, context)

        terms: dict[str, StreamTerm] = {}
        total = torch.zeros((), device=device)
        for name, spec in self.streams.items():
            if spec.weight == 0:
                continue
            mask = batch.loss_mask(name)
            elements = flow_matching_loss(velocity[name], batch.clean[name], noise[name])
            elements = elements * append_dims(weight[name], elements)
            terms[name] = StreamTerm.of(
                elements, mask, sigma=sigma[name], gradient_scale=weight[name], velocity=velocity[name]
            )
            total = total + spec.weight * terms[name].loss.mean()
        self.check_finite(terms, batch)
        return MethodOutput(loss=total, terms=terms)

    def _condition(self, batch: Batch, draws: Draws) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Clean slots and context, with noise or zeros in the history and empty prompts where the coins say so."""
        text = batch.text
        if self.text_dropout > 0:
            dropped = draws.uniform("text_dropout") < self.text_dropout
            text = torch.where(dropped[:, None, None], batch.null_text, text)
        context: dict[str, Any] = {"text": text}
        history = dict(batch.history)
        levels: dict[str, Tensor] = {}
        for name, probability in self.noisy_history.items():
            if probability == 0:
                continue
            if self.shared_levels:
                coin = torch.full((batch.size,), draws.shared_uniform(f"history/{name}"), device=text.device)
                u = torch.rand((1, batch.frames), generator=draws.shared(f"history_level/{name}")).to(text.device)
            else:
                coin = draws.uniform(f"history/{name}")
                u = draws.uniform(f"history_level/{name}", (batch.frames,))
            # LingBot-VA counts u from the noisy end and draws it in [0.5, 1); ours counts from the data.
            level = self.streams[name].schedule.sigma(0.5 - 0.5 * u)
            levels[name] = level * (coin < probability)[:, None]
            noise = draws.normal(f"history_noise/{name}", history[name].shape[1:])
            history[name] = add_noise(history[name], noise, levels[name])
        for name, probability in self.history_dropout.items():
            if probability == 0:
                continue
            kept = draws.uniform(f"history_dropout/{name}") >= probability
            history[name] = history[name] * kept.reshape(-1, *(1,) * (history[name].ndim - 1))
            if name in levels:
                levels[name] = levels[name] * kept[:, None]
        if levels:
            context["clean_sigma"] = levels
        for key, bounds in self.ranges.items():
            if bounds is not None:
                context[key] = draws.shared_integer(key, bounds[0], bounds[1] + 1)
        return history, context
