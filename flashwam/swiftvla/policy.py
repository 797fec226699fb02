# SPDX-License-Identifier: Apache-2.0
"""A small vision-language-action policy behind the contract: one look at the scene, then actions by flow matching.

The trunk's tokens, each block of them seeing itself and what stands before it: [2D | text] [state] [fusion]. Training
may put another modality beside the 2D tokens, see `flashwam.swiftvla.training_policy`; nothing here knows of it.
Letters: B samples, C latent channels, F latent frames, H, W latent size, A action channels, N actions per latent frame,
T action tokens, L text tokens, D width.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from flashwam.core.written import written_rows
from flashwam.swiftvla.encoders import BACKBONE, PrimaryEncoder, make_encoder
from flashwam.swiftvla.flow_expert import FlowExpert
from flashwam.swiftvla.session import FusionSession
from flashwam.swiftvla.trunk import Prefix, Segment, Trunk
from flashwam.system.errors import InputError
from flashwam.system.paths import user_path
from flashwam.wam.base import WorldActionModel
from flashwam.wam.layout import Layout
from flashwam.wam.plain import build_plain, load_weights, save_plain

__all__ = ["FusionPolicy"]


class FusionPolicy(WorldActionModel):
    """Draws the actions of a chunk given its first frame, the text and the robot's state.

    Args:
        encoder: Gives the 2D tokens.
        trunk: Reads them.
        latent: (C, H, W) of the video stream, which is observed and never drawn.
        chunk_frames: F, the observed frame included.
        actions_per_frame: N.
        action_dim: A.
        text_dim: Width of the text.
        expert_width: Width of the expert.
        state_dim: Numbers of the robot's state; 0 for a policy that is not told it.
        fusion_tokens: Learned tokens that see all others; a trajectory is read from them in training, and the expert
            reads them for good. 0 for none.
    """

    def __init__(
        self,
        encoder: PrimaryEncoder,
        trunk: Trunk,
        *,
        latent: Sequence[int],
        chunk_frames: int,
        actions_per_frame: int,
        action_dim: int,
        text_dim: int,
        expert_width: int,
        state_dim: int = 0,
        fusion_tokens: int = 0,
    ) -> None:
        if chunk_frames < 2:
            raise InputError(f"chunk_frames must be at least 2, the observed one and one to act in; got {chunk_frames}")
        # Of a policy that is made on the meta device the mask is real all the same.
        drawn = torch.arange(chunk_frames, device="cpu") > 0
        super().__init__(
            Layout(
                streams=("video", "action"),
                shapes={"video": tuple(latent), "action": (action_dim, actions_per_frame, 1)},
                chunk_frames=chunk_frames,
                conditions_on_first=True,
                frame_levels=False,
                probes=("video",),
                senses={"state": state_dim} if state_dim else {},
                predicted={"action": drawn[None, :, None, None]},
                text_shape=(None, text_dim),
            )
        )
        encoder.check(self.shapes, chunk_frames)
        self.encoder, self.trunk = encoder, trunk
        self.see = nn.Linear(encoder.width, trunk.width)
        self.place = nn.Parameter(0.02 * torch.randn(encoder.tokens, trunk.width))
        self.read = nn.Linear(text_dim, trunk.width)
        self.feel = nn.Linear(state_dim, trunk.width) if state_dim else None
        self.fusion: nn.Parameter | None = None
        self.expert = FlowExpert(trunk, channels=action_dim, width=expert_width)
        if fusion_tokens:
            self.add_fusion(fusion_tokens)

    @classmethod
    def create(cls, *, primary: Mapping[str, Any], trunk: Mapping[str, int], **sizes: Any) -> Self:
        """A policy with fresh weights.

        Args:
            primary: See `make_encoder`.
            trunk: Keywords of `Trunk.of_size`.
            sizes: See the class.
        """
        return cls._create(primary, trunk, sizes, backbone=None)

    @classmethod
    def _create(
        cls, primary: Mapping[str, Any], trunk: Mapping[str, int], sizes: Mapping[str, Any], *, backbone: Path | None
    ) -> Self:
        if "latent" not in sizes:
            raise InputError("latent must say (channels, height, width) of the video's latents")
        model = cls(make_encoder(primary, sizes["latent"], backbone=backbone), Trunk.of_size(**trunk), **sizes)
        model.settings = {"primary": dict(primary), "trunk": dict(trunk), **sizes}
        return model

    @classmethod
    def keywords(cls) -> dict[str, bool]:
        """See `WorldActionModel.keywords`."""
        sizes = {name: needed for name, needed in super().keywords().items() if name not in ("encoder", "sizes")}
        return {**sizes, "primary": True, "trunk": True}

    @classmethod
    def _rebuild(cls, settings: Mapping[str, Any], folder: Path) -> Self:
        """The network of a saved policy, whose weights are still to come."""
        sizes = {key: value for key, value in settings.items() if key not in ("primary", "trunk")}
        return cls._create(settings["primary"], settings["trunk"], sizes, backbone=folder / BACKBONE)

    def add_fusion(self, tokens: int) -> None:
        """Gives a policy without fusion tokens some of its own."""
        if self.fusion is not None:
            raise InputError(f"the policy has {len(self.fusion)} fusion tokens already")
        self.fusion = nn.Parameter(torch.randn(tokens, self.trunk.width) * 0.02)
        self.settings = {**self.settings, "fusion_tokens": tokens}

    def look(self, clean: Mapping[str, Tensor], context: Mapping[str, Any]) -> Tensor:
        """2D tokens of the frame that a chunk begins with, before they are projected: [B, n, D of the encoder].

        Args:
            clean: "video" [B, C, F', H, W] with F' >= F; frame F' - F is the observation.
            context: "text", and "noise" where the encoder looks from noise.
        """
        return self.encoder(self.observed(clean["video"]), context.get("noise", {}), context["text"])

    def observed(self, clean: Tensor) -> Tensor:
        """The chunk's first frame of [B, C, F', ...]."""
        return clean[:, :, clean.shape[2] - self.chunk_frames]

    def segments(self, features: Tensor, clean: Mapping[str, Tensor], context: Mapping[str, Any]) -> dict[str, Segment]:
        """Name -> tokens of the trunk, in its order.

        Args:
            features: What `look` gave.
            clean: "state" [B, S, F', 1, 1] for a policy that is told it.
            context: "text" [B, L, D of the text]; rows of zeros are no tokens, but the first is one.
        """
        text = context["text"].to(self.read.weight.dtype)
        segments = {
            "primary": Segment(tokens=self.see(features.to(self.see.weight.dtype)) + self.place),
            "text": Segment(tokens=self.read(text), valid=written_rows(text)),
        }
        if self.feel is not None:
            if "state" not in clean:
                raise InputError(f"this policy is told the robot's state, {self.feel.in_features} numbers; got none")
            felt = self.observed(clean["state"]).flatten(1)
            segments["state"] = Segment(tokens=self.feel(felt.to(self.feel.weight.dtype))[:, None], block=1)
        if self.fusion is not None:
            segments["fusion"] = Segment(tokens=self.fusion.expand(len(text), -1, -1), block=2)
        return segments

    def prefix(self, clean: Mapping[str, Tensor], context: Mapping[str, Any]) -> Prefix:
        """Runs the trunk over everything that is known before an action is drawn."""
        return self.trunk(list(self.segments(self.look(clean, context), clean, context).values()))

    def act(self, prefix: Prefix, noisy: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            prefix: Of B samples.
            noisy: Actions [B, A, F, N, 1]; slot 0 holds none.
            sigma: [B, F].

        Returns:
            eps - x0 like `noisy`, float32 or better, zero in slot 0; the expert's latent [B, T, width].
        """
        each = noisy.shape[3]
        tokens = noisy[:, :, 1:].flatten(2).transpose(1, 2)
        flow, latent = self.expert(tokens, sigma[:, 1:].repeat_interleave(each, 1), prefix, self.trunk)
        flow = flow.to(torch.promote_types(noisy.dtype, torch.float32))
        flow = flow.transpose(1, 2).unflatten(2, (-1, each))[..., None]
        return torch.cat([torch.zeros_like(flow[:, :, :1]), flow], 2), latent

    def velocity(
        self,
        noisy: Mapping[str, Tensor],
        sigma: Mapping[str, Tensor],
        clean: Mapping[str, Tensor],
        context: Mapping[str, Any],
    ) -> dict[str, Tensor]:
        """See `WorldActionModel.velocity`: of the actions; what is known of the chunk is its first frame."""
        kept = context.get("kept")
        if kept is None or kept.value is None:
            prefix = self.prefix(clean, context)
            if kept is not None:
                kept.value = prefix
        else:
            prefix = kept.value
        return {"action": self.act(prefix, noisy["action"], sigma["action"])[0]}

    def session(
        self, text: Tensor, *, null_text: Tensor | None = None, guidance: Mapping[str, float] | None = None
    ) -> FusionSession:
        """See `WorldActionModel.session`; the policy is not guided."""
        return FusionSession(self, text, guidance=guidance)

    def pass_tokens(self, frames: int) -> int:
        """See `WorldActionModel.pass_tokens`; a pass is one chunk, whatever `frames` came before it."""
        known = self.encoder.tokens + len(self.senses) + (0 if self.fusion is None else len(self.fusion))
        return known + self.execute_frames * self.shapes["action"][1]

    def deployed_parameters(self) -> dict[str, int]:
        """See `WorldActionModel.deployed_parameters`."""
        total = sum(p.numel() for p in self.parameters())
        parts = {"encoder": self.encoder, "trunk": self.trunk, "expert": self.expert}
        counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
        counts["fusion tokens"] = 0 if self.fusion is None else self.fusion.numel()
        return {**counts, "projections": total - sum(counts.values())}

    def save_pretrained(self, folder: str | Path) -> None:
        """See `WorldActionModel.save_pretrained`; a world-action model it looks through goes into a folder within."""
        folder = user_path(folder)
        save_plain(self, self.settings, folder, skip="encoder." if self.encoder.kept_apart else None)
        self.encoder.save(folder)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
    ) -> Self:
        """See `WorldActionModel.from_pretrained`."""
        folder = user_path(folder)
        model = build_plain(folder, lambda settings: cls._rebuild(settings, folder))
        load_weights(model, folder, device=device, skip="encoder." if model.encoder.kept_apart else None)
        return model.to(device=device, dtype=dtype)
