# SPDX-License-Identifier: Apache-2.0
"""A policy in training, with a modality beside its 2D tokens that is not there when it acts, and the heads for it.

Saved, it is the policy alone; what belongs to training goes into a file beside, which nothing else reads.
Letters: B samples, m auxiliary tokens, C their channels, D width of the trunk, n 2D tokens.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from flashwam.swiftvla.heads import ReconstructionHead, TrajectoryHead
from flashwam.swiftvla.policy import FusionPolicy
from flashwam.swiftvla.tokens import TokenStore
from flashwam.swiftvla.trunk import Segment
from flashwam.system.errors import InputError
from flashwam.system.paths import user_path
from flashwam.system.tensor_file import load_tensors, write_tensors
from flashwam.wam.base import WorldActionModel
from flashwam.wam.session import RolloutSession

__all__ = ["AUXILIARY", "PRIMARY", "Modality", "PrivilegedPolicy"]

PRIMARY, AUXILIARY = "primary", "auxiliary"
"""Names of the two modalities, of which a sample always has one."""
_TRAINING = "training.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Modality:
    """Sizes of the auxiliary modality.

    Args:
        tokens: m.
        channels: C.
    """

    tokens: int
    channels: int

    def __post_init__(self) -> None:
        if min(self.tokens, self.channels) < 1:
            raise InputError(f"a modality has at least one token and channel; got {asdict(self)}")


class PrivilegedPolicy(WorldActionModel):
    """A `FusionPolicy` under training.

    Without the keys below in its context it is the policy: auxiliary tokens and heads take no part.

    Args:
        policy: What is trained to act alone.
        auxiliary: The modality beside; None for none.
        trajectory: Coordinates of a point of the trajectory; 0 without that head. Needs fusion tokens.
        reconstruct: Modalities that have a reconstruction head.
        head_width: Width inside those heads.

    Attributes:
        shown: Says what the auxiliary tokens of its training are and how they are standardised, where that is known; it
            is saved with the policy.
    """

    shown: TokenStore | None = None

    def __init__(
        self,
        policy: FusionPolicy,
        *,
        auxiliary: Modality | None = None,
        trajectory: int = 0,
        reconstruct: tuple[str, ...] = (),
        head_width: int = 128,
    ) -> None:
        super().__init__(policy.layout)
        if trajectory and policy.fusion is None:
            raise InputError("a trajectory is read from fusion tokens; the policy has none")
        wrong = [name for name in reconstruct if name not in (PRIMARY, AUXILIARY)]
        if wrong or (AUXILIARY in reconstruct and auxiliary is None):
            raise InputError(f"cannot reconstruct {wrong or [AUXILIARY]}; the modalities are {self._known(auxiliary)}")
        self.policy, self.auxiliary = policy, auxiliary
        self.show = self.place = None
        sizes = {PRIMARY: (policy.encoder.tokens, policy.encoder.target_width)}
        if auxiliary is not None:
            self.show = nn.Linear(auxiliary.channels, policy.trunk.width)
            self.place = nn.Parameter(0.02 * torch.randn(auxiliary.tokens, policy.trunk.width))
            sizes[AUXILIARY] = (auxiliary.tokens, auxiliary.channels)
        self.reconstruct = nn.ModuleDict(
            {
                name: ReconstructionHead(
                    policy.expert.width, tokens=sizes[name][0], channels=sizes[name][1], width=head_width
                )
                for name in reconstruct
            }
        )
        self.trajectory = TrajectoryHead(policy.trunk.width, trajectory) if trajectory else None

    @classmethod
    def from_options(cls, policy: FusionPolicy, options: Mapping[str, Any]) -> Self:
        """Makes the model that `MaskedReconstruction` trains under its options of a recipe."""
        auxiliary = options.get("auxiliary")
        weights = options.get("reconstruct") or {}
        return cls(
            policy,
            auxiliary=None if auxiliary is None else Modality(**auxiliary),
            trajectory=options.get("coordinates", 3) if options.get("trajectory") else 0,
            reconstruct=tuple(name for name, weight in weights.items() if weight),
            head_width=options.get("head_width", 128),
        )

    @staticmethod
    def _known(auxiliary: Modality | None) -> list[str]:
        return [PRIMARY] if auxiliary is None else [PRIMARY, AUXILIARY]

    def freeze(self) -> None:
        """Leaves the encoder alone where it asks for that, as `Roles` has unlocked everything."""
        if self.policy.encoder.frozen:
            self.policy.encoder.requires_grad_(False)

    def strip(self) -> FusionPolicy:
        """The student: the same weights, without the modality, its projection and the heads."""
        return self.policy

    def velocity(
        self,
        noisy: Mapping[str, Tensor],
        sigma: Mapping[str, Tensor],
        clean: Mapping[str, Tensor],
        context: Mapping[str, Any],
    ) -> dict[str, Tensor]:
        """As `FusionPolicy.velocity`, and with the heads' answers where they are asked for.

        Args:
            noisy, sigma, clean: See `FusionPolicy.velocity`.
            context: Beside what the policy is told: "auxiliary" [B, m, C]; "valid", segment -> bool [B], False where a
                sample lacks it (all there without an entry); "heads", bool.

        Returns:
            "action"; with heads also "reconstruction/<modality>" [B, tokens, channels], "target/primary" (what to
            compare the first with, detached) and "trajectory" [B, fusion tokens, coordinates].
        """
        looked = self.policy.look(clean, context)
        segments = self.segments(looked, clean, context)
        prefix = self.policy.trunk(list(segments.values()))
        flow, latent = self.policy.act(prefix, noisy["action"], sigma["action"])
        out = {"action": flow}
        if not context.get("heads", False):
            return out
        out |= {f"reconstruction/{name}": head(latent) for name, head in self.reconstruct.items()}
        if PRIMARY in self.reconstruct:
            out["target/primary"] = self.policy.encoder.target(self.policy.observed(clean["video"]), looked)
        if self.trajectory is not None:
            out["trajectory"] = self.trajectory(prefix.of(list(segments).index("fusion")))
        return out

    def segments(self, features: Tensor, clean: Mapping[str, Tensor], context: Mapping[str, Any]) -> dict[str, Segment]:
        """As `FusionPolicy.segments`, with the auxiliary tokens and the absences that the context names."""
        segments = self.policy.segments(features, clean, context)
        if AUXILIARY in context:
            segments = self._beside(segments, context[AUXILIARY])
        for name, valid in context.get("valid", {}).items():
            if name in segments:
                segments[name] = replace(segments[name], valid=segments[name].mask & valid[:, None])
        return segments

    def _beside(self, segments: Mapping[str, Segment], auxiliary: Tensor) -> dict[str, Segment]:
        """The auxiliary tokens right after the 2D ones, in their block."""
        if self.show is None or self.auxiliary is None:
            raise InputError("this policy was made without an auxiliary modality and cannot be shown one")
        expected = (len(auxiliary), self.auxiliary.tokens, self.auxiliary.channels)
        if auxiliary.shape != expected:
            raise ValueError(f"auxiliary tokens must be {expected}; got {tuple(auxiliary.shape)}")
        shown = {AUXILIARY: Segment(tokens=self.show(auxiliary.to(self.show.weight.dtype)) + self.place)}
        return {PRIMARY: segments[PRIMARY], **shown, **{n: s for n, s in segments.items() if n != PRIMARY}}

    def session(
        self, text: Tensor, *, null_text: Tensor | None = None, guidance: Mapping[str, float] | None = None
    ) -> RolloutSession:
        """See `WorldActionModel.session`: of the stripped policy."""
        return self.policy.session(text, null_text=null_text, guidance=guidance)

    def pass_tokens(self, frames: int) -> int:
        """See `WorldActionModel.pass_tokens`; the auxiliary tokens stand beside the policy's own."""
        return self.policy.pass_tokens(frames) + (0 if self.auxiliary is None else self.auxiliary.tokens)

    def deployed_parameters(self) -> dict[str, int]:
        """See `WorldActionModel.deployed_parameters`: of the stripped policy."""
        return self.policy.deployed_parameters()

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the stripped policy, which is what any tool loads from here, and what training needs beside."""
        folder = user_path(folder)
        self.policy.save_pretrained(folder)
        if own := self._of_training():
            write_tensors(folder / _TRAINING, own)
        if self.shown is not None:
            self.shown.save(folder)

    def load_training(self, folder: str | Path) -> list[str]:
        """Takes over what an earlier stage had beside the policy, as far as it fits.

        Returns:
            Keys that are new: not in the folder.

        Raises:
            ValueError: The folder holds parts that this model lacks, or of another size.
        """
        path, own = user_path(folder) / _TRAINING, self._of_training()
        found = load_tensors(path) if path.exists() else {}
        wrong = sorted(key for key, x in found.items() if key not in own or own[key].shape != x.shape)
        if wrong:
            raise InputError(f"{path} holds parts that do not fit: {wrong[:4]}; give it the same modality and heads")
        self.load_state_dict(found, strict=False)
        return sorted(own.keys() - found.keys())

    def _of_training(self) -> dict[str, Tensor]:
        return {key: x for key, x in self.state_dict().items() if not key.startswith("policy.")}
