# SPDX-License-Identifier: Apache-2.0
"""Training with a modality that is not there at rollout (SwiftVLA, arXiv 2512.00903).

A sample sees its 2D tokens, those of the other modality, or both. What it does not see, the action expert's latent must
be able to reconstruct, so that the policy knows it when it acts without. Stripped, nothing of this is left but the
fusion tokens.
Letters: B samples, F latent frames.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.core.losses import flow_matching_loss
from flashwam.core.noise import append_dims
from flashwam.core.streams import StreamSpec
from flashwam.data.dataset import EpisodeDataset
from flashwam.data.lerobot import SegmentDataset
from flashwam.distillation.draws import Draws
from flashwam.distillation.methods.base import Method, MethodOutput, StreamTerm
from flashwam.distillation.methods.states import start_states, training_levels
from flashwam.distillation.setup import Setup, Source
from flashwam.recipe.sections import LoopConfig
from flashwam.swiftvla.masking import MaskPolicy
from flashwam.swiftvla.options import check_values
from flashwam.swiftvla.policy import FusionPolicy
from flashwam.swiftvla.source import AuxiliaryTokens, PrivilegedSource
from flashwam.swiftvla.streaming_tokens import StreamingTokens
from flashwam.swiftvla.training_policy import AUXILIARY, PRIMARY, PrivilegedPolicy
from flashwam.swiftvla.trajectories import HandPath, Trajectories
from flashwam.system.errors import InputError
from flashwam.system.paths import user_path
from flashwam.wam.base import WorldActionModel

__all__ = ["MaskedReconstruction"]


class MaskedReconstruction(Method):
    """Flow matching on what the policy draws, a trajectory from its fusion tokens, reconstruction of what is masked.

    Every ablation is a choice of options: without `auxiliary` the policy sees its 2D tokens alone, without `mask` all
    there is at every step. It reads of `Batch.extra`: "auxiliary" [B, m, C], "trajectory" [B, fusion tokens,
    coordinates] and "trajectory_mask", bool [B, fusion tokens], False beyond an episode's end.

    Args:
        streams: See `Method`; schedules and weights are used.
        student: A `FusionPolicy`. One without fusion tokens, such as an earlier stage's, gets them.
        teacher: Not used.
        keep_target: See `Method`.
        auxiliary: Sizes of the modality beside the 2D tokens, "tokens" and "channels"; None for none.
        provider: Where a recipe's own windows get it from: keywords of `StreamingTokens`.
        fusion_tokens: How many; 0 for none.
        mask: Probabilities, by modality ("auxiliary", "primary"), that a sample lacks it; never both.
        reconstruct: Weight of the reconstruction, by modality; only samples that lack it count.
        reconstruct_divides: Divide each weight by the modality's probability in `mask`, so that it is the weight of the
            mean error over the samples that lack it: with auxiliary 0.5 and primary 0.15 a sample without its 2D tokens
            then pushes 3.3 times as hard as one without the modality. False for equal weights: every sample that lacks
            something pushes alike, and the total by as much as its modality is masked. The paper does not say.
        trajectory: Weight of the trajectory's squared error.
        coordinates: Of a trajectory's point.
        path: Where a recipe's own windows get the trajectory from: keywords of `HandPath`.
        start_step: Before this step the policy is trained on its streams alone, without the modality, fusion tokens,
            masks and heads.
        weighting: "flat", or "schedule" for `Schedule.training_weights`.
        head_width: Width inside the reconstruction heads.
        parts: Folder of an earlier stage whose projection and heads are taken over.
        seed: Of what is new in the model.

    Raises:
        ValueError: An option does not fit the others or the student.
    """

    in_a_line = "learns the demonstrations, and to rebuild what was hidden from it"

    needs_teacher = False
    stream_choices = ("teacher_temperature",)
    trains_probes = True
    takes_adapters = False
    result = "teacher"
    auxiliary_evaluation = "flashwam.swiftvla.evaluation:evaluate_with_auxiliary"

    def __init__(
        self,
        streams: Mapping[str, StreamSpec],
        student: WorldActionModel,
        *,
        teacher: WorldActionModel | None = None,
        keep_target: bool = False,
        auxiliary: Mapping[str, int] | None = None,
        provider: Mapping[str, Any] | None = None,
        fusion_tokens: int = 0,
        mask: Mapping[str, float] | None = None,
        reconstruct: Mapping[str, float] | None = None,
        reconstruct_divides: bool = True,
        trajectory: float = 0.0,
        coordinates: int = 3,
        path: Mapping[str, Any] | None = None,
        start_step: int = 0,
        weighting: Literal["flat", "schedule"] = "flat",
        head_width: int = 128,
        parts: str | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(student, FusionPolicy):
            raise InputError(
                f"masked_reconstruction trains a policy of the family fusion or smolvla; got {type(student).__name__}. "
                "A world-action model goes inside one: wam.config.primary: {name: wam, pretrained: <folder>}"
            )
        given = {
            "auxiliary": auxiliary,
            "provider": provider,
            "fusion_tokens": fusion_tokens,
            "mask": mask,
            "path": path,
        }
        given |= {"reconstruct": reconstruct, "trajectory": trajectory, "coordinates": coordinates}
        check_values({**given, "start_step": start_step, "weighting": weighting, "head_width": head_width})
        reconstruct = {name: weight for name, weight in (reconstruct or {}).items() if weight}
        self.masks = MaskPolicy(**(mask or {}))
        self.provider, self.path = StreamingTokens(**(provider or {})), HandPath(**(path or {}))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if fusion_tokens and student.fusion is None:
                student.add_fusion(fusion_tokens)
            options = {"auxiliary": auxiliary, "trajectory": trajectory, "coordinates": coordinates}
            options |= {"reconstruct": reconstruct, "head_width": head_width}
            model = PrivilegedPolicy.from_options(student, options)
        held = 0 if student.fusion is None else len(student.fusion)
        if held != fusion_tokens:
            raise InputError(f"fusion_tokens must be {held}, as many as the policy has; got {fusion_tokens}")
        if parts is not None:
            model.load_training(user_path(parts))
        super().__init__(streams, model, keep_target=keep_target)
        model.freeze()
        self.reconstruct, self.divides = reconstruct, reconstruct_divides
        self.trajectory, self.coordinates, self.start_step = trajectory, coordinates, start_step
        self._tables = {name: _levels(streams[name], flat=weighting == "flat") for name in self._drawn}

    @classmethod
    def check_values(cls, loop: LoopConfig) -> None:
        """See `Method.check_values`."""
        check_values(loop.options)

    @classmethod
    def passes_without_gradient(cls, streams: Mapping[str, StreamSpec], options: Mapping[str, Any]) -> float:
        """See `Method.passes_without_gradient`: there is no teacher."""
        return 0.0

    @classmethod
    def needs_records(cls, options: Mapping[str, Any], data: Path) -> bool:
        """See `Method.needs_records`: as the modality's network does, see `StreamingTokens.needs_records`."""
        return bool(options.get("auxiliary")) and StreamingTokens(**(options.get("provider") or {})).needs_records(data)

    def source(self, source: Source, setup: Setup) -> Source:
        """See `Method.source`: a data set's windows with auxiliary tokens and trajectories, made where missing.

        Another source has to give them itself.

        Raises:
            FileNotFoundError, ValueError: The options do not fit the data, or the data have no pictures or no hand.
        """
        if not isinstance(source, EpisodeDataset | SegmentDataset):
            return source
        model = self.roles.model
        tokens = trajectories = None
        if self.trajectory:
            trajectories = self._trajectories(source)
        if model.auxiliary is not None:
            tokens = self._tokens(source, setup)
            if (tokens.tokens, tokens.channels) != (model.auxiliary.tokens, model.auxiliary.channels):
                raise InputError(
                    f"auxiliary must say what the provider gives, {{tokens: {tokens.tokens}, channels: "
                    f"{tokens.channels}}}; got {model.auxiliary}"
                )
        if tokens is None and trajectories is None:
            return source
        drawn = None if tokens is None else self.provider.capacities
        return PrivilegedSource(source, tokens=tokens, trajectories=trajectories, seed=setup.seed, capacities=drawn)

    def _tokens(self, source: EpisodeDataset | SegmentDataset, setup: Setup) -> AuxiliaryTokens:
        if isinstance(source, EpisodeDataset):
            store = self.provider.prepare(setup.data, source.tasks, seed=setup.seed, device=setup.device)
            for model in (self.roles.model, self.roles.target):
                if model is not None:
                    model.shown = store
            return store
        return self.provider.recorded(source, (setup.kept or setup.data) / "auxiliary_tokens", device=setup.device)

    def _trajectories(self, source: EpisodeDataset | SegmentDataset) -> Trajectories:
        model, given = self.roles.model, len(self.path.numbers)
        if given != self.coordinates:
            raise InputError(f"coordinates must be {given}, as many as path.numbers has; got {self.coordinates}")
        horizon = model.execute_frames * model.shapes[self._drawn[-1]][1]
        return Trajectories(source, points=len(model.policy.fusion), horizon=horizon, path=self.path)

    @property
    def _drawn(self) -> list[str]:
        return [name for name in self.streams if name not in self.roles.model.probes]

    def loss(self, batch: Batch, draws: Draws) -> MethodOutput:
        """See `Method.loss`."""
        device = batch.given.device
        batch = self.seen_by_model(batch)
        index = training_levels(self.roles.model, batch, draws, self.streams)
        sigma = {name: self._tables[name][0].to(device)[index[name]] for name in self._drawn}
        weight = {name: self._tables[name][1].to(device)[index[name]] for name in self._drawn}
        still = {name: torch.zeros_like(batch.given, dtype=torch.float32) for name in batch.clean}
        noisy, sigma, noise = start_states(batch, {**still, **sigma}, draws)
        valid, context = self._condition(batch, draws)
        out = self.roles.student(
            {name: noisy[name] for name in self._drawn},
            {name: sigma[name] for name in self._drawn},
            batch.history,
            context,
        )

        terms: dict[str, StreamTerm] = {}
        total = torch.zeros((), device=device)
        for name in self._drawn:
            mask = batch.loss_mask(name)
            elements = flow_matching_loss(out[name], batch.clean[name], noise[name])
            elements = elements * append_dims(weight[name], elements)
            terms[name] = StreamTerm.of(
                elements, mask, sigma=sigma[name], gradient_scale=weight[name], velocity=out[name]
            )
            total = total + self.streams[name].weight * terms[name].loss.mean()
        self.check_finite(terms, batch)
        metrics = self._seen_metrics(terms, valid)
        if draws.step >= self.start_step:
            extra, more = self._extra_losses(out, batch, valid)
            total, metrics = total + extra, metrics | more
        return MethodOutput(loss=total, terms=terms, metrics=metrics)

    def _condition(self, batch: Batch, draws: Draws) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Draws which modality each sample sees, bool [B], and gives the model's senses."""
        context = self.context(batch, draws)
        everyone = torch.ones(batch.size, dtype=torch.bool, device=batch.given.device)
        if draws.step < self.start_step:
            context["valid"] = {"fusion": ~everyone}
            return {PRIMARY: everyone, AUXILIARY: ~everyone}, context
        context["heads"] = True
        if self.roles.model.auxiliary is None:
            return {PRIMARY: everyone, AUXILIARY: ~everyone}, context
        context["auxiliary"] = self._extra(batch, AUXILIARY)
        valid = self.masks.visible(draws.uniform("mask"))
        context["valid"] = valid
        return valid, context

    def _extra_losses(
        self, out: Mapping[str, Tensor], batch: Batch, valid: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted reconstruction and trajectory losses, and what to log of them."""
        total = torch.zeros((), device=batch.given.device)
        metrics: dict[str, Tensor] = {}
        for name, weight in self.reconstruct.items():
            target = out["target/primary"] if name == PRIMARY else self._extra(batch, AUXILIARY)
            error = (out[f"reconstruction/{name}"] - target.detach()).float().square().mean((1, 2))
            masked = (~valid[name]).to(error.dtype)
            # By the expected number of masked samples: every sample counts alike, whatever the batch it stands in.
            share = self.masks.probability(name) if self.divides else 1.0
            total = total + weight * (error * masked).mean() / share
            metrics[f"reconstruction/{name}"] = (error.detach() * masked).sum() / masked.sum().clamp(min=1)
        if self.trajectory:
            known = self._extra(batch, "trajectory_mask")
            error = (out["trajectory"] - self._extra(batch, "trajectory")).float().square().mean(2)
            per_sample = (error * known).sum(1) / known.sum(1).clamp(min=1)
            total = total + self.trajectory * per_sample.mean()
            metrics["trajectory"] = per_sample.detach().mean()
        return total, metrics

    def _seen_metrics(self, terms: Mapping[str, StreamTerm], valid: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each stream's loss on the samples that were as at rollout: the number to watch while training."""
        deployed = (valid[PRIMARY] & ~valid[AUXILIARY]).float()
        shares = {f"masked/{name}": (~seen).float().mean() for name, seen in valid.items()}
        if not deployed.any():
            return shares
        return shares | {
            f"{name}/loss_as_deployed": (term.loss.detach() * deployed).sum() / deployed.sum()
            for name, term in terms.items()
        }

    @staticmethod
    def _extra(batch: Batch, name: str) -> Tensor:
        if name not in batch.extra:
            raise InputError(
                f"the samples carry {sorted(batch.extra)} beside their streams, not {name!r}: train from a source that "
                "adds it, see flashwam.swiftvla.source"
            )
        return batch.extra[name]


def _levels(spec: StreamSpec, *, flat: bool) -> tuple[Tensor, Tensor]:
    """The noise levels that a stream is trained at, and their weights."""
    grid, weights = spec.schedule.training_grid().float(), spec.schedule.training_weights().float()
    return grid, torch.ones_like(grid) if flat else weights
