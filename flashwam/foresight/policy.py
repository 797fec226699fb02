# SPDX-License-Identifier: Apache-2.0
"""A policy that acts on one look into a world-action model (S-VAM, arXiv 2603.16195).

Its video is never drawn. One truncated pass of the frozen backbone at pure noise gives features; decouplers turn them
into what vision models would see in the video that this noise leads to; a resampler and a small diffusion expert turn
all of it into actions.
Letters: B samples, R states of each, C channels, F latent frames, K chunks, T channels of a vision model, h and w of
the grid.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from flashwam.data.pictures import DECODERS, PictureDecoder
from flashwam.foresight.decoupler import Decoupler
from flashwam.foresight.diffusion_expert import DiffusionExpert
from flashwam.foresight.frozen import Frozen
from flashwam.foresight.providers import TargetProvider, load_provider, to_grid
from flashwam.foresight.resampler import MeanPool, UniPerceiver
from flashwam.foresight.session import ForesightSession
from flashwam.system.errors import InputError
from flashwam.system.files import write_whole
from flashwam.system.imports import class_name, find_class, reading
from flashwam.system.json_file import read_mapping, shown
from flashwam.system.paths import user_path
from flashwam.wam import load
from flashwam.wam.base import WorldActionModel
from flashwam.wam.features import LooksInside, looked_into
from flashwam.wam.plain import build_plain, load_weights, save_plain
from flashwam.wam.session import Kept, RolloutSession
from flashwam.wam.taps import check_blocks

__all__ = ["POOLINGS", "ForesightPolicy"]

_DECODER = "decoder.json"
POOLINGS = ("perceiver", "mean")
_FEATURES = "features"


class ForesightPolicy(WorldActionModel):
    """Streams, chunks and rollout are the backbone's; the video is a probe, the actions are drawn by the expert.

    Args:
        backbone: A world-action model with features; frozen.
        providers: Name -> vision model whose view of the coming video is predicted; frozen, used at rollout on the
            observed picture alone.
        decoder: Of the backbone's latents into pictures; frozen.
        text_width: Channels of the text embedding.
        blocks: After which blocks the backbone is looked into.
        grid: (h, w) on which features, targets and foresight lie.
        decoupler: Keywords of `Decoupler`; with `positions` true for a learned place embedding.
        use: Providers whose foresight the actions are drawn from; all if None.
        raw: Whether the actions are drawn from the backbone's features too.
        pooling: "perceiver" for `UniPerceiver`, "mean" for `MeanPool`.
        resampler: Keywords of `UniPerceiver`; of `MeanPool` the width alone.
        expert: Keywords of `DiffusionExpert`.
        trained: "decouplers" or "expert" (with the resampler): the part that takes gradients and is ever in training
            mode.

    Raises:
        ValueError: nothing is left to draw actions from, or a name is unknown.
    """

    built_on = "backbone"

    def __init__(
        self,
        backbone: WorldActionModel,
        providers: Mapping[str, TargetProvider],
        decoder: PictureDecoder,
        *,
        text_width: int,
        blocks: Sequence[int],
        grid: tuple[int, int],
        decoupler: Mapping[str, Any] | None = None,
        use: Sequence[str] | None = None,
        raw: bool = True,
        pooling: Literal["perceiver", "mean"] = "perceiver",
        resampler: Mapping[str, Any] | None = None,
        expert: Mapping[str, Any] | None = None,
        trained: Literal["decouplers", "expert"] = "expert",
    ) -> None:
        _check_choices(backbone, providers, use=use, pooling=pooling, trained=trained)
        backbone, stages = looked_into(backbone), (("video",), ("action",))
        check_blocks(blocks, backbone.feature_blocks)
        super().__init__(
            replace(backbone.layout, streams=("video", "action"), stages=stages, probes=("video",), frame_levels=False)
        )
        self._frozen = Frozen(backbone, providers, decoder)
        self.blocks, self.grid, self.raw = tuple(blocks), (int(grid[0]), int(grid[1])), raw
        self.use = tuple(providers) if use is None else tuple(use)
        self.trained = trained
        self.settings = {
            "text_width": text_width,
            "blocks": list(self.blocks),
            "grid": list(self.grid),
            "decoupler": dict(decoupler or {}),
            "use": list(self.use),
            "raw": raw,
            "pooling": pooling,
            "resampler": dict(resampler or {}),
            "expert": dict(expert or {}),
            "trained": trained,
        }
        frames, width = backbone.chunk_frames, backbone.feature_width(self.blocks)
        options = dict(decoupler or {})
        if options.pop("positions", False):
            options["positions"] = (frames, *self.grid)
        self.decouplers = nn.ModuleDict(
            {name: Decoupler(width, provider.width, **options) for name, provider in providers.items()}
        )
        channels = (width if raw else 0) + sum(providers[name].width for name in self.use)
        if not channels:
            raise InputError("without features and without foresight there is nothing to draw actions from")
        sizes = dict(resampler or {})
        if pooling == "perceiver":
            self.resampler = UniPerceiver(channels, frames, **sizes)
        else:
            self.resampler = MeanPool(channels, frames, **{key: sizes[key] for key in ("width",) if key in sizes})
        actions, per_frame, _ = backbone.shapes["action"]
        tokens = self.resampler.norm_out.normalized_shape[0]
        self.expert = DiffusionExpert(
            actions, frames, per_frame, token_channels=tokens, text=text_width, **(expert or {})
        )
        self.requires_grad_(True).train()

    @classmethod
    def create(cls, **settings: Any) -> Self:
        """Not possible from settings alone.

        Raises:
            ValueError: always.
        """
        raise InputError(
            "a foresight policy is made from a trained world-action model: use flashwam distill with method foresight"
        )

    @property
    def backbone(self) -> LooksInside:
        """The frozen world-action model that is looked into."""
        return self._frozen.backbone

    @property
    def providers(self) -> dict[str, TargetProvider]:
        """Name -> frozen vision model."""
        return self._frozen.providers

    @property
    def decoder(self) -> PictureDecoder:
        """Latents to pictures, frozen."""
        return self._frozen.decoder

    def rebuilt(self, **changes: Any) -> "ForesightPolicy":
        """The same backbone, vision models and decouplers with a fresh resampler and expert under changed settings."""
        fixed = ("text_width", "blocks", "grid", "decoupler")
        other = [key for key in fixed if key in changes and changes[key] != self.settings[key]]
        if other:
            held = {key: self.settings[key] for key in other}
            raise InputError(f"{other} belong to the decouplers, which are trained already with {held}; leave them so")
        policy = ForesightPolicy(self.backbone, self.providers, self.decoder, **{**self.settings, **changes})
        policy.decouplers.load_state_dict(self.decouplers.state_dict())
        return policy.to(next(self.parameters()).device)

    def look(
        self, states: Mapping[str, Tensor], sigma: Mapping[str, Tensor], clean: Mapping[str, Tensor], text: Tensor
    ) -> Tensor:
        """Features of every frame on the grid, [B, C, F', h, w], without gradient.

        Args:
            states: Every stream -> what is looked at, [B, C, F', H, W].
            sigma: The same streams -> [B, F'].
            clean: As in `velocity`.
            text: [B, L, D].
        """
        needed = self.backbone.layout.whole_stages(("video",))
        parts = ({name: part[name] for name in self.streams if name in needed} for part in (states, sigma))
        with torch.no_grad():
            return to_grid(self.backbone.features(*parts, clean, {"text": text}, blocks=self.blocks), self.grid)

    def see(self, latents: Tensor) -> dict[str, Tensor]:
        """Finds features of single frames, latents [B, C, H, W]: vision model -> standardised [B, T, h, w]."""
        pictures = self.decoder.pictures(latents[:, :, None])
        return {
            name: self.decouplers[name].standardise(self.features_of(name, pictures)[:, :, 0])
            for name in self.providers
        }

    def see_before(self, video: Tensor, frames: int) -> dict[str, Tensor]:
        """See `see`: of the frame that each of K chunks, the last `frames` of [B, C, F', H, W], is drawn from, [B K, T,
        h, w]."""
        # That is the last frame that was seen before the chunk, or its own first one.
        starts = range(video.shape[2] - frames, video.shape[2], self.chunk_frames)
        at = [start if self.conditions_on_first or start == 0 else start - 1 for start in starts]
        return self.see(video[:, :, at].transpose(1, 2).flatten(0, 1))

    def features_of(self, name: str, pictures: Tensor) -> Tensor:
        """Finds features of one vision model in pictures uint8 [n, P, H, W, 3], on the grid: [n, T, P, h, w]."""
        return to_grid(self.providers[name].extract(pictures), self.grid)

    def foresee(self, features: Tensor, reference: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Predictions for one chunk.

        Args:
            features: [B, C, F, h, w].
            reference: From `see`.

        Returns:
            Name -> standardised features of the coming video, [B, T, F, h, w].
        """
        return {name: module(features, reference[name]) for name, module in self.decouplers.items()}

    def tokens(self, features: Tensor, foresight: Mapping[str, Tensor], text: Tensor) -> Tensor:
        """Makes the expert's context from one chunk's features, foresight and text: [B, S, D]."""
        parts = ([features] if self.raw else []) + [foresight[name] for name in self.use]
        return self.expert.encode(self.resampler(torch.cat(parts, 1)), text)

    def forward(
        self,
        noisy: Mapping[str, Tensor],
        sigma: Mapping[str, Tensor],
        clean: Mapping[str, Tensor],
        context: Mapping[str, Any],
    ) -> dict[str, Tensor]:
        """`velocity`; asked for no stream at all, what it foresees: name -> [B, T, F', h, w], standardised."""
        if noisy:
            return self.velocity(noisy, sigma, clean, context)
        looked = self.foresight(clean, context)
        return {name: x.transpose(1, 2).flatten(2, 3) for name, x in looked.items() if name != _FEATURES}

    def velocity(
        self,
        noisy: Mapping[str, Tensor],
        sigma: Mapping[str, Tensor],
        clean: Mapping[str, Tensor],
        context: Mapping[str, Any],
    ) -> dict[str, Tensor]:
        """See `WorldActionModel.velocity`; every chunk is looked at under its own past and drawn alone.

        Args:
            noisy: "action" [R B, A, F', N, 1], whole chunks; R states of every sample, all first ones first.
            sigma: "action" [R B, F'].
            clean: Every stream -> [B, C, F, H, W].
            context: "text"; "noise" and "noise_sigma", or "foresight", as `foresight` gave it; optional "kept".
        """
        if set(noisy) != {"action"}:
            raise ValueError(f"this policy looks at its video and draws actions alone; got noisy {sorted(noisy)}")
        x, count = noisy["action"], noisy["action"].shape[2] // self.chunk_frames
        kept: Kept | None = context.get("kept")
        seen = None if kept is None else kept.value
        if seen is None:
            looked = {
                name: x.flatten(0, 1)
                for name, x in (context.get("foresight") or self.foresight(clean, context)).items()
            }
            features = looked.pop(_FEATURES)
            seen = self.tokens(features, looked, context["text"].repeat_interleave(count, 0))
            if kept is not None:
                kept.value = seen
        seen = seen.repeat(len(x) * count // len(seen), 1, 1)
        out = self.expert(_split(x, count), sigma["action"].unflatten(1, (count, -1)).flatten(0, 1), seen)
        return {"action": out.unflatten(0, (-1, count)).transpose(1, 2).flatten(2, 3)}

    def foresight(self, clean: Mapping[str, Tensor], context: Mapping[str, Any]) -> dict[str, Tensor]:
        """One look at every of K chunks under its own past: "features" [B, K, C, F, h, w], and what they foresee, by
        provider, [B, K, T, F, h, w] standardised.

        Args:
            clean: As in `velocity`.
            context: "text", "noise" and "noise_sigma".
        """
        noise = context["noise"]
        frames, size = noise["video"].shape[2], self.chunk_frames
        if frames % size or (self.conditions_on_first and frames != size):
            whole = f"one chunk of {size}" if self.conditions_on_first else f"whole chunks of {size}"
            raise InputError(f"this policy needs {whole} latent frames; got {frames}: see data.window_frames")
        count = frames // size
        features = _split(self.look(noise, context["noise_sigma"], clean, context["text"]), count)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.trained == "decouplers"):
            foresight = self.foresee(features, self.see_before(clean["video"], frames))
        return {name: x.unflatten(0, (-1, count)) for name, x in {_FEATURES: features, **foresight}.items()}

    def session(
        self, text: Tensor, *, null_text: Tensor | None = None, guidance: Mapping[str, float] | None = None
    ) -> RolloutSession:
        """See `WorldActionModel.session`; nothing of a policy is guided."""
        if any(scale != 1 for scale in (guidance or {}).values()):
            raise InputError(f"a foresight policy has no guidance: set guidance_scale to 1; got {dict(guidance or {})}")
        return ForesightSession(self, text)

    def deployed_parameters(self) -> dict[str, int]:
        """See `WorldActionModel.deployed_parameters`: of the backbone what runs down to the deepest block, and every
        vision model by its description."""
        count = {f"backbone to block {self.blocks[-1]}": self.backbone.feature_parameters(self.blocks)}
        count |= {
            f"{name}: {provider.describe()}": provider.parameter_count for name, provider in self.providers.items()
        }
        count["picture decoder"] = self.decoder.parameter_count
        for name in ("decouplers", "resampler", "expert"):
            count[name] = sum(p.numel() for p in getattr(self, name).parameters())
        return count

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Reaches the part that is `trained` alone; everything else stays frozen."""
        for name in ("decouplers", "resampler", "expert"):
            getattr(self, name).requires_grad_(requires_grad and self._learns(name))
        return self

    def train(self, mode: bool = True) -> Self:
        """Reaches the part that is `trained` alone; no other ever drops anything out."""
        super().train(mode)
        for name in ("decouplers", "resampler", "expert"):
            getattr(self, name).train(mode and self._learns(name))
        return self

    def _learns(self, name: str) -> bool:
        return (name == "decouplers") == (self.trained == "decouplers")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._frozen.apply(fn)
        return super()._apply(fn, recurse)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes what acting takes: the policy's own weights, `backbone/`, `providers/<name>/` and `decoder/`."""
        folder = user_path(folder)
        save_plain(self, self.settings, folder)
        self.backbone.save_pretrained(folder / "backbone")
        for name, provider in self.providers.items():
            provider.save(folder / "providers" / name)
        self.decoder.save(folder / "decoder")
        named = {"decoder": class_name(type(self.decoder), DECODERS), "providers": list(self.providers)}
        write_whole(folder / _DECODER, json.dumps(named) + "\n")

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        **options: Any,
    ) -> Self:
        """Loads what `save_pretrained` wrote.

        Args:
            folder: The policy's.
            dtype: Of all parameters; that of the files by default.
            device: Where they go.
            options: For the backbone, such as attention.

        Raises:
            FileNotFoundError, ValueError: A file is missing, or keys do not fit.
        """
        folder = user_path(folder)
        path = folder / _DECODER
        named = read_mapping(path)
        names = named.get("providers")
        if not isinstance(names, list) or any(not isinstance(n, str) or Path(n).name != n for n in names):
            raise InputError(f"{path} must list the names of the folders in {folder / 'providers'}; got {shown(names)}")
        with reading(path):
            kind = find_class(named.get("decoder"), PictureDecoder, known=DECODERS, what="picture decoder")
        providers = {name: load_provider(folder / "providers" / name) for name in names}
        decoder, backbone = kind.load(folder / "decoder"), load(folder / "backbone", **options)
        policy = build_plain(folder, lambda settings: cls(backbone, providers, decoder, **settings))
        load_weights(policy, folder, device=device)
        return policy.requires_grad_(True).to(device=device, dtype=dtype)


def _split(x: Tensor, count: int) -> Tensor:
    """[B, C, K F, ...] -> [B K, C, F, ...]."""
    return x.unflatten(2, (count, -1)).transpose(1, 2).flatten(0, 1)


def _check_choices(
    backbone: WorldActionModel,
    providers: Mapping[str, TargetProvider],
    *,
    use: Sequence[str] | None,
    pooling: str,
    trained: str,
) -> None:
    if _FEATURES in providers:
        raise InputError(f"a provider cannot be called {_FEATURES!r}, which is the backbone's own")
    unknown = sorted(set(use or ()) - set(providers))
    if unknown:
        raise InputError(f"use names {unknown}; the providers are {sorted(providers)}")
    if pooling not in POOLINGS or trained not in ("decouplers", "expert"):
        raise InputError(f"pooling must be one of {POOLINGS}, trained decouplers or expert; got {pooling, trained}")
    if {"video", "action"} != set(backbone.streams):
        raise InputError(f"a backbone has the streams video and action; got {backbone.streams}")
