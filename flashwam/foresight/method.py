# SPDX-License-Identifier: Apache-2.0
"""S-VAM (arXiv 2603.16195): many steps of a video distilled into one look, in the space of vision models.

Stage "decouplers": features of one look at a noise are drawn to what vision models see in the video that the teacher
draws from that very noise in all its steps. Stage "expert": a small diffusion policy acts on the look, everything
before it frozen. One run is one stage; the second starts from the first's result (`distill.init`).
Letters: B samples, C channels, T channels of a vision model, F latent frames, h and w of the grid.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from flashwam.core.batch import Batch
from flashwam.core.edm import EDMSchedule
from flashwam.core.losses import flow_matching_loss
from flashwam.core.noise import append_dims
from flashwam.core.streams import StreamSpec
from flashwam.distillation.draws import Draws
from flashwam.distillation.futures import Future, TeacherFuture
from flashwam.distillation.methods.base import Method, MethodOutput, StreamTerm
from flashwam.distillation.methods.options import option
from flashwam.distillation.methods.states import start_states, training_levels
from flashwam.distillation.prepared import Prepared, draw_passes
from flashwam.distillation.rollouts import RolloutStore, stored_bytes
from flashwam.distillation.setup import Setup, Source
from flashwam.foresight.decoupler import change_weights
from flashwam.foresight.drawn_pictures import drawn_pictures
from flashwam.foresight.each_camera import build_providers
from flashwam.foresight.held_out import HeldOutForesight, look_at
from flashwam.foresight.looks import LOOK, LookSource
from flashwam.foresight.options import POOL, check_fresh, check_policy, check_providers, check_values
from flashwam.foresight.policy import ForesightPolicy
from flashwam.foresight.providers import align_frames, find_provider, refuse_others
from flashwam.foresight.source import FutureSource, Target
from flashwam.foresight.teacher_samplers import teacher_samplers
from flashwam.foresight.true_future import TrueFuture
from flashwam.recipe.sections import LoopConfig
from flashwam.sampling import StreamSampler
from flashwam.system.errors import InputError
from flashwam.system.paths import user_path
from flashwam.wam.base import WorldActionModel
from flashwam.wam.decoders import find_decoder

__all__ = ["Foresight"]

logger = logging.getLogger(__name__)


class Foresight(Method):
    """Both stages of S-VAM after the world-action model itself is trained.

    Args:
        streams: See `Method`. The video is looked at and has no loss; of the actions, schedule and weight are used.
        student: A `ForesightPolicy`; `make_student` builds it around the teacher.
        teacher: The frozen world-action model.
        keep_target: See `Method`.
        stage: "decouplers" or "expert".
        targets: "same_seed" for the teacher's draws from the noise that is looked at; "unpaired" for its draws from
            another noise; "ground_truth" for the recorded future.
        actions: "demonstrations", or "teacher" for the teacher's own, drawn from the noise that is looked at.
        policy: Keywords of `ForesightPolicy`; in stage "expert" only what the decouplers leave open.
        providers: Name -> provider's `name` (see `flashwam.foresight.providers.PROVIDERS`) and options.
        weights: Provider -> weight of its loss; 1 where absent.
        change_weight: How much more an element of the targets counts that changes as much against the observed frame as
            a mean one; at least 0, as published.
        align: Which picture of a latent frame counts where an autoencoder makes several: "last", or the "mean".
        pictures: Checkpoint whose ``vae/`` decodes what the teacher draws; the teacher's own folder if None.
        draws: Noises and levels of the actions that are learnt from one look, which costs more than the expert does.
        looks: Windows that are looked at once, before stage "expert" begins, each at one noise, and learnt from again
            and again; None for a fresh look at every step. With the teacher's actions of "same_seed" at most `pool`.
        pool: Windows that rollouts are drawn for.
        rollout_batch: Windows drawn at once.
        teacher_streams: How the teacher is sampled (stream -> plain values of a `StreamSpec`), where its folder does
            not say.

    Raises:
        ValueError: an option is out of range, or the student is no foresight policy.
    """

    in_a_line = "shows what it foresees in one step to a policy that acts on it"

    result = "teacher"
    stream_choices = ("teacher_temperature",)
    trains_probes = True
    builds_student = True
    takes_adapters = False

    def __init__(
        self,
        streams: Mapping[str, StreamSpec],
        student: WorldActionModel,
        *,
        teacher: WorldActionModel | None = None,
        keep_target: bool = False,
        stage: Literal["decouplers", "expert"] = "decouplers",
        targets: Literal["same_seed", "unpaired", "ground_truth"] = "same_seed",
        actions: Literal["demonstrations", "teacher"] = "demonstrations",
        policy: Mapping[str, Any] | None = None,
        providers: Mapping[str, Mapping[str, Any]] | None = None,
        weights: Mapping[str, float] | None = None,
        change_weight: float = 0.0,
        align: Literal["last", "mean"] = "last",
        pictures: str | None = None,
        draws: int = 1,
        looks: int | None = None,
        pool: int = POOL,
        rollout_batch: int = 16,
        teacher_streams: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        given = {"stage": stage, "targets": targets, "actions": actions, "align": align, "change_weight": change_weight}
        given |= {"draws": draws, "looks": looks, "pool": pool, "rollout_batch": rollout_batch, "weights": weights}
        check_values(given)
        if not isinstance(student, ForesightPolicy) or student.trained != stage:
            raise InputError(f"stage {stage!r} trains a foresight policy's {stage}; got {type(student).__name__}")
        unknown = sorted(set(weights or {}) - set(student.providers))
        if unknown:
            raise InputError(f"weights name {unknown}; the providers are {sorted(student.providers)}")
        schedule, expert = streams["action"].schedule, student.expert
        if isinstance(schedule, EDMSchedule) and schedule.sigma_data != expert.sigma_data:
            raise InputError(
                f"the schedule's sigma_data is {schedule.sigma_data}, the expert's {expert.sigma_data}: give both the "
                "same, as without policy.expert.sigma_data"
            )
        super().__init__(streams, student, teacher=teacher, keep_target=keep_target)
        self.stage, self.targets, self.actions = stage, targets, actions
        self.weights = {name: float((weights or {}).get(name, 1.0)) for name in student.providers}
        self.draws, self.looks, self.change_weight = draws, looks, change_weight
        self.align, self.pool, self.rollout_batch, self.teacher_streams = align, pool, rollout_batch, teacher_streams
        self._levels = schedule.training_grid().float(), schedule.training_weights().float()

    @classmethod
    def check_values(cls, loop: LoopConfig) -> None:
        """See `Method.check_values`."""
        check_values(loop.options)
        check_policy(loop.options.get("policy"))
        check_providers(loop.options.get("providers"))
        if loop.init is None:
            check_fresh(loop.options)

    @classmethod
    def passes_without_gradient(cls, streams: Mapping[str, StreamSpec], options: Mapping[str, Any]) -> float:
        """See `Method.passes_without_gradient`: look and small networks cost no more than the model's own pass."""
        return 0.0

    @classmethod
    def prepares(
        cls, options: Mapping[str, Any], *, model: WorldActionModel, frames: int, setup: Setup
    ) -> Prepared | None:
        """See `Method.prepares`: a rollout of every window of the pool."""
        if option(cls, options, "stage") != "decouplers" and option(cls, options, "actions") != "teacher":
            return None
        passes: dict[tuple[str, ...], int] | None = {}
        if option(cls, options, "targets") != "ground_truth":
            samplers = teacher_samplers(option(cls, options, "teacher_streams"), setup.teacher)
            chunks = max(1, frames // model.chunk_frames)
            passes = None if samplers is None else draw_passes(model, samplers, chunks=chunks)
        beside = "their pictures"
        if option(cls, options, "stage") == "decouplers":
            rows, columns = (options.get("policy") or {}).get("grid") or model.shapes["video"][1:]
            each = option(cls, options, "pool") * 2 * frames * rows * columns
            names = " and ".join(sorted(options.get("providers") or {})) or "a vision model"
            beside += f", and {each / 1e9:.2g} GB for every channel that {names} see, of which each has hundreds"
        return Prepared(
            what="rollouts",
            count=option(cls, options, "pool"),
            bytes_each=stored_bytes(model, frames),
            passes=passes,
            beside=beside,
        )

    @classmethod
    def needs_records(cls, options: Mapping[str, Any], data: Path) -> bool:
        """See `Method.needs_records`: as its vision models do, which stage "decouplers" builds."""
        if options.get("stage", "decouplers") != "decouplers":
            return False
        providers = (options.get("providers") or {}).values()
        return any(find_provider(str(given.get("name"))).needs_records(given) for given in providers)

    @classmethod
    def make_student(
        cls,
        load: Callable[[], WorldActionModel],
        *,
        teacher: WorldActionModel,
        options: Mapping[str, Any],
        setup: Setup,
    ) -> WorldActionModel:
        """See `Method.make_student`: a fresh policy around the teacher itself, or decouplers that are there already."""
        stage, policy = options.get("stage", "decouplers"), dict(options.get("policy") or {})
        schedule = setup.streams["action"].schedule
        if isinstance(schedule, EDMSchedule):
            known = {"sigma_data": schedule.sigma_data, "s_range": [schedule.s_min, schedule.s_max]}
            policy["expert"] = {**known, **(policy.get("expert") or {})}
        if setup.init is not None:
            made = load()
            if not isinstance(made, ForesightPolicy):
                raise InputError(f"distill.init must be a foresight policy; {setup.init} holds a {type(made).__name__}")
            refuse_others(options.get("providers") or {}, made.providers)
            return made.rebuilt(trained=stage, **policy)
        check_fresh(options)
        providers = build_providers(options["providers"], setup)
        folder = setup.teacher if options.get("pictures") is None else user_path(options["pictures"])
        decoder, text_width = find_decoder(folder)
        policy.setdefault("text_width", text_width if text_width is not None else teacher.text_shape[1])
        if policy["text_width"] is None:
            raise InputError("policy.text_width is missing, and the teacher does not tell it (4096 for T5-XXL)")
        for name, provider in providers.items():
            logger.info("%s is what %s sees", name, provider.describe())
        return ForesightPolicy(teacher, providers, decoder, trained=stage, **policy)

    def source(self, source: Source, setup: Setup) -> Source:
        """See `Method.source`: the teacher's rollouts, and in stage "decouplers" what vision models see in them."""
        device = setup.device
        if self.stage == "decouplers" or self.actions == "teacher":
            source = self._with_futures(source, setup, device)
        if self.looks is None:
            return source
        model = self.roles.model.to(device)

        @torch.no_grad()
        def look(batch: Batch, numbers: Sequence[int]) -> dict[str, torch.Tensor]:
            batch = self.seen_by_model(batch.to(device))
            draws = Draws(seed=setup.seed, step=0, positions=[("look", n) for n in numbers], device=device)
            return model.foresight(batch.history, self.context(batch, draws))

        return LookSource(source, look, pool=self.looks, seed=setup.seed)

    def _with_futures(self, source: Source, setup: Setup, device: torch.device) -> Source:
        model = self.roles.model.to(device)
        self.roles.teacher.to(device)
        future: Future = TrueFuture()
        if self.targets != "ground_truth":
            future = TeacherFuture(self.roles.teacher, self._samplers(setup))
        made = self._rollouts(source, future, setup.seed, setup=setup, pool=self.pool)
        for name, (mean, std) in made.statistics.items():
            for role in (model, self.roles.target):
                if role is not None:
                    role.decouplers[name].mean.copy_(mean)
                    role.decouplers[name].std.copy_(std)
        return made

    def _rollouts(self, source: Source, future: Future, seed: int, *, setup: Setup, pool: int) -> FutureSource:
        model, frames = self.roles.model, source.batch([0]).frames
        extras = drawn_pictures(model.decoder, frames=frames, chunk_frames=model.chunk_frames)
        store = RolloutStore(setup.rollouts, future, extras=extras, batch_size=self.rollout_batch)
        return FutureSource(
            source,
            store,
            pool=pool,
            seed=seed,
            targets={name: self._target(name) for name in self.weights} if self.stage == "decouplers" else {},
            actions=self.actions == "teacher",
        )

    def _samplers(self, setup: Setup) -> dict[str, StreamSampler]:
        samplers = teacher_samplers(self.teacher_streams, setup.teacher)
        if samplers is None:
            raise InputError(f"{setup.teacher} does not say how the teacher is sampled: give teacher_streams")
        cooled = {name: sampler.temperature for name, sampler in samplers.items() if sampler.temperature != 1}
        if cooled and self.targets == "same_seed":
            told = ", ".join(f"{name} {value:g}" for name, value in cooled.items())
            raise InputError(
                f"targets same_seed looks at the unit noise that the teacher draws from, and it is to draw from cooler "
                f"noise (teacher_temperature: {told}): set it to 1, or targets to unpaired"
            )
        return samplers

    @classmethod
    def measured_apart(cls, options: Mapping[str, Any]) -> bool:
        """See `flashwam.distillation.judging.MeasuredApart`: stage "decouplers" leaves the expert untrained."""
        return bool(option(cls, options, "stage") == "decouplers")

    def held_out_measures(
        self, windows: Source, setup: Setup, *, count: int
    ) -> Callable[[WorldActionModel], Mapping[str, float]]:
        """See `flashwam.distillation.judging.MeasuredApart`: errors of the foresight, see `HeldOutForesight`.

        Raises:
            ValueError: nothing says how the teacher is sampled.
        """
        samplers = self._samplers(setup)
        teacher, model = self.roles.teacher.to(setup.device), self.roles.model.to(setup.device)
        short = {name: replace(sampler, steps=1) for name, sampler in samplers.items()}
        return HeldOutForesight(
            partial(self._rollouts, setup=setup, pool=count),
            windows,
            count=count,
            teacher=TeacherFuture(teacher, samplers),
            one_step=TeacherFuture(teacher, short),
            model=model,
            seen=self.seen_by_model,
            at_once=self.rollout_batch,
        )

    def context(self, batch: Batch, draws: Draws) -> dict[str, Any]:
        """See `Method.context`; what is looked at is what the rollout was drawn from, where there is one to match, and
        nothing is looked at anew where a look was made before."""
        looked = {name.removeprefix(LOOK): x for name, x in batch.extra.items() if name.startswith(LOOK)}
        if looked:
            return {"text": batch.text, "foresight": looked}
        context = super().context(batch, draws)
        if self.targets == "same_seed" and "noise/video" in batch.extra:
            noise = {name: batch.extra[f"noise/{name}"] for name in batch.clean}
            context["noise"] = look_at(batch, noise, context["noise_sigma"])
        return context

    def loss(self, batch: Batch, draws: Draws) -> MethodOutput:
        """See `Method.loss`."""
        batch = self.seen_by_model(batch)
        terms = self._foresight_terms(batch, draws) if self.stage == "decouplers" else self._action_term(batch, draws)
        self.check_finite(terms, batch)
        weights = self.weights if self.stage == "decouplers" else {name: self.streams[name].weight for name in terms}
        total = torch.stack([weights[name] * term.loss.mean() for name, term in terms.items()]).sum()
        return MethodOutput(loss=total, terms=terms)

    def _foresight_terms(self, batch: Batch, draws: Draws) -> dict[str, StreamTerm]:
        """Squared error of every standardised channel, by provider."""
        model = self.roles.model
        predicted = self.roles.student({}, {}, batch.history, self.context(batch, draws))
        seen = model.see_before(batch.history["video"], batch.frames) if self.change_weight else {}
        terms = {}
        for name in self.weights:
            target = model.decouplers[name].standardise(batch.extra[f"target/{name}"])
            elements = (predicted[name].float() - target) ** 2
            if name in seen:
                elements = elements * change_weights(target, seen[name], self.change_weight)
            level = torch.ones(batch.size, batch.frames, device=elements.device)
            terms[name] = StreamTerm.of(
                elements, batch.loss_mask("video"), sigma=level, gradient_scale=level, velocity=predicted[name]
            )
        return terms

    def _action_term(self, batch: Batch, draws: Draws) -> dict[str, StreamTerm]:
        """Flow matching of the actions, weighted as their schedule says."""
        context = self.context(batch, draws)
        states, levels, weights, targets = [], [], [], []
        for time in range(self.draws):
            own = draws.again(time)
            index = training_levels(self.roles.model, batch, own, self.streams)["action"]
            grid, weight = (table.to(index.device)[index] for table in self._levels)
            noisy, sigma, noise = start_states(batch, dict.fromkeys(batch.clean, grid), own)
            states.append(noisy["action"])
            levels.append(sigma["action"])
            weights.append(weight)
            targets.append(noise["action"])
        sigma, weight = torch.cat(levels), torch.cat(weights)
        velocity = self.roles.student({"action": torch.cat(states)}, {"action": sigma}, batch.history, context)[
            "action"
        ]
        clean, mask = (torch.cat([x] * self.draws) for x in (batch.clean["action"], batch.loss_mask("action")))
        elements = flow_matching_loss(velocity, clean, torch.cat(targets)) * append_dims(weight, velocity)
        term = StreamTerm.of(elements, mask, sigma=sigma, gradient_scale=weight, velocity=velocity)
        return {"action": term}

    def _target(self, name: str) -> Target:
        model = self.roles.model
        grid = "x".join(map(str, model.grid))
        return Target(
            fingerprint=f"{model.providers[name].fingerprint()}_{grid}_{self.align}",
            extract=lambda pictures, frames: align_frames(model.features_of(name, pictures), frames, self.align),
        )
