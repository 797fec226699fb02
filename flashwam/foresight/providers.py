# SPDX-License-Identifier: Apache-2.0
"""Frozen vision models whose features of a video a foresight is trained to predict.

Letters: n videos, P pictures, T channels, F latent frames, h and w of a grid.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from flashwam.system.errors import InputError
from flashwam.system.files import write_whole
from flashwam.system.imports import class_name, find_class, reading, trusting
from flashwam.system.json_file import built_from, read_mapping, shown
from flashwam.system.paths import user_path

__all__ = ["PROVIDERS", "TargetProvider", "align_frames", "find_provider", "load_provider", "refuse_others", "to_grid"]

PROVIDERS: dict[str, str] = {
    "each_camera": "flashwam.foresight.each_camera:EachCamera",
    "scene": "flashwam.foresight.scene:SceneEncoder",
    "vision": "flashwam.foresight.vision:VisionModel",
}
"""Name in a recipe -> import path; "package.module:Class" works as a provider's name too."""

_FILE = "provider.json"
_AT_ONCE = 64


class TargetProvider(nn.Module, ABC):
    """One vision model: no gradients, always in evaluation mode, pictures prepared in one place for every use.

    Attributes:
        width: T.
    """

    width: int

    @abstractmethod
    def describe(self) -> str:
        """A few words for reports: which model it is."""

    @abstractmethod
    def look(self, pictures: Tensor) -> Tensor:
        """Single pictures, uint8 [m, H, W, 3] -> [m, T, h, w]."""

    @torch.no_grad()
    def extract(self, pictures: Tensor) -> Tensor:
        """Features of every picture of some videos; override it for a model that sees a whole video at once.

        Args:
            pictures: uint8 [n, P, H, W, 3].

        Returns:
            float32 [n, T, P, h, w].

        Raises:
            TypeError: other pictures.
        """
        if pictures.dtype != torch.uint8 or pictures.ndim != 5 or pictures.shape[-1] != 3:
            raise TypeError(f"expected uint8 pictures [n, P, H, W, 3]; got {pictures.dtype} {list(pictures.shape)}")
        device = next(self.parameters()).device
        parts = [self.look(part.to(device)).float() for part in pictures.flatten(0, 1).split(_AT_ONCE)]
        return torch.cat(parts).unflatten(0, pictures.shape[:2]).transpose(1, 2)

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode."""
        return super().train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Stays frozen."""
        return super().requires_grad_(False)

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Plain values from which `from_folder` builds it."""

    @abstractmethod
    def save_weights(self, folder: Path) -> None:
        """Writes the weights."""

    @classmethod
    @abstractmethod
    def from_folder(cls, folder: Path, settings: Mapping[str, Any]) -> Self:
        """Builds what `save` wrote."""

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        """Refuses options that `build` would refuse, before there are data or weights.

        Args:
            options: As for `build`.

        Raises:
            ValueError: The message names them.
        """

    @classmethod
    def needs_records(cls, options: Mapping[str, Any]) -> bool:
        """Tells whether `build` reads what the simulator knew of the episodes, see `flashwam.data.privileged`."""
        return False

    @classmethod
    @abstractmethod
    def build(cls, options: Mapping[str, Any], *, root: Path, seed: int) -> Self:
        """Makes the provider that a recipe's options ask for.

        Args:
            options: The recipe's, without the provider's name.
            root: Folder of the recipe's data, for those that learn from it.
            seed: Of what they learn.
        """

    def save(self, folder: Path | str) -> None:
        """Writes a folder that `load_provider` reads."""
        folder = user_path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.save_weights(folder)
        named = class_name(type(self), PROVIDERS)
        write_whole(folder / _FILE, json.dumps({"provider": named, "settings": self.settings()}, indent=1) + "\n")

    def fingerprint(self) -> str:
        """Tells this provider from another one: its settings and all of its weights."""
        made = hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode())
        for name, x in sorted(self.state_dict().items()):
            made.update(name.encode())
            made.update(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return made.hexdigest()[:16]

    @property
    def parameter_count(self) -> int:
        """Parameters that looking takes."""
        return sum(p.numel() for p in self.parameters())


def refuse_others(chosen: Mapping[str, Mapping[str, Any]], kept: Mapping[str, TargetProvider]) -> None:
    """Refuses the vision models of a recipe that are not those a policy has; none chosen are all of them.

    Raises:
        ValueError: Names differ, or an option that the kept one tells.
    """
    if chosen and set(chosen) != set(kept):
        raise InputError(
            f"providers {sorted(chosen)} are not {sorted(kept)}, which distill.init was trained with: leave them out, "
            "or train its stage anew"
        )
    for name, options in chosen.items():
        settings = kept[name].settings()
        told = settings.get("inner", settings)
        other = {key: told[key] for key, value in options.items() if key in told and told[key] != value}
        if other:
            raise InputError(
                f"providers.{name} of distill.init was trained with {other}: leave these as they are, or train its "
                "stage anew"
            )


def find_provider(name: str) -> type[TargetProvider]:
    """The class behind a recipe's provider: a name in `PROVIDERS` or an import path.

    Raises:
        ValueError: for an unknown name, or a path that does not lead to a `TargetProvider`.
    """
    return find_class(name, TargetProvider, known=PROVIDERS, what="target provider")


def load_provider(folder: Path | str, *, trust: bool = False) -> TargetProvider:
    """Reads what `TargetProvider.save` wrote, frozen.

    Args:
        folder: The provider's.
        trust: Import the class that its file names, where it is none of `PROVIDERS`, and run its code.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the provider is unknown, would have to be imported without `trust`, or does not fit its settings.
    """
    path = user_path(folder) / _FILE
    content = read_mapping(path, missing="expected a target provider that flashwam saved")
    settings = content.get("settings")
    if not isinstance(settings, dict):
        raise InputError(f"{path} must hold the settings of a target provider, a mapping; got {shown(settings)}")
    with trusting(trust), reading(path):
        kind = find_provider(content.get("provider"))
        provider = built_from(path, lambda: kind.from_folder(user_path(folder), settings))
    return provider.requires_grad_(False).eval()


def to_grid(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """[n, T, P, h, w] on another grid: bilinear, smoothed where it becomes coarser."""
    if tuple(x.shape[3:]) == tuple(grid):
        return x
    n, frames = x.shape[0], x.shape[2]
    flat = x.transpose(1, 2).flatten(0, 1)
    resized = functional.interpolate(flat, tuple(grid), mode="bilinear", antialias=True)
    return resized.unflatten(0, (n, frames)).transpose(1, 2)


def align_frames(x: Tensor, frames: int, how: Literal["last", "mean"]) -> Tensor:
    """Pictures [n, T, P, h, w] to latent frames [n, T, F, h, w].

    P is F, or 1 + r (F - 1) where a causal autoencoder makes one picture of the first latent frame and r of each other.

    Args:
        x: One value per picture.
        frames: F.
        how: The last picture of each latent frame, or the mean of all of them.

    Raises:
        ValueError: P fits no whole r.
    """
    pictures = x.shape[2]
    if pictures == frames:
        return x
    if frames < 2 or (pictures - 1) % (frames - 1):
        raise InputError(f"{pictures} pictures do not belong to {frames} latent frames: expected F or 1 + r (F - 1)")
    rest = x[:, :, 1:].unflatten(2, (frames - 1, -1))
    rest = rest[:, :, :, -1] if how == "last" else rest.mean(3)
    return torch.cat([x[:, :, :1], rest], 2)
