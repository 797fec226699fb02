# SPDX-License-Identifier: Apache-2.0
"""A small vision model for the miniature: it learns per-pixel labels, and its features are what lies before them.

Letters: m pictures, T channels, H and W pixels.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from flashwam.foresight.providers import TargetProvider, load_provider
from flashwam.foresight.scene_labels import LABELS, RECORDED, read_labels
from flashwam.system.errors import DivergedError, InputError
from flashwam.system.tensor_file import fitting, load_tensors, write_tensors

__all__ = ["SceneEncoder", "train_scene"]

logger = logging.getLogger(__name__)

FACTOR = 8
_WEIGHTS = "scene.safetensors"


class SceneEncoder(TargetProvider):
    """Convolutions to an eighth of the picture's size, and a linear read-out of every pixel's label.

    Args:
        labels: Name of what it learnt, for reports.
        classes: Classes of the label; 0 for a quantity.
        width: T.
    """

    def __init__(self, *, labels: str, classes: int, width: int = 32) -> None:
        super().__init__()
        self.labels, self.classes, self.width = labels, classes, width
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, 2 * width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(2 * width, width, 3, padding=1),
        )
        self.head = nn.Sequential(nn.GELU(), nn.Conv2d(width, max(1, classes) * FACTOR**2, 1), nn.PixelShuffle(FACTOR))

    def describe(self) -> str:
        """See `TargetProvider.describe`."""
        return f"scene encoder trained on {self.labels}"

    def look(self, pictures: Tensor) -> Tensor:
        """See `TargetProvider.look`; sides must be multiples of 8."""
        x = pictures.permute(0, 3, 1, 2).float() / 127.5 - 1
        return self.encoder(x.to(next(self.encoder.parameters()).dtype))

    def settings(self) -> dict[str, Any]:
        """See `TargetProvider.settings`."""
        return {"labels": self.labels, "classes": self.classes, "width": self.width}

    def save_weights(self, folder: Path) -> None:
        """See `TargetProvider.save_weights`."""
        write_tensors(folder / _WEIGHTS, self.state_dict())

    @classmethod
    def from_folder(cls, folder: Path, settings: Mapping[str, Any]) -> Self:
        """See `TargetProvider.from_folder`."""
        with fitting([folder / _WEIGHTS]):
            provider = cls(**settings)
        provider.load_state_dict(load_tensors(folder / _WEIGHTS))
        return provider

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        """See `TargetProvider.check`."""
        labels, unknown = options.get("labels"), sorted(set(options) - {"labels", "steps", "width", "per_repo"})
        if labels is None or unknown:
            raise InputError(f"a scene provider takes labels, steps, width and per_repo; got {labels=}, {unknown=}")
        if labels not in LABELS:
            raise InputError(f"labels must be one of {sorted(LABELS)}; got {labels!r}")

    @classmethod
    def needs_records(cls, options: Mapping[str, Any]) -> bool:
        """See `TargetProvider.needs_records`."""
        return options.get("labels") in RECORDED

    @classmethod
    def build(cls, options: Mapping[str, Any], *, root: Path, seed: int) -> Self:
        """Trains one per data folder. Options: `labels`, see `flashwam.foresight.scene_labels`; `train_scene`'s."""
        cls.check(options)
        options = dict(options)
        labels = options.pop("labels")
        stem = "_".join(f"{key}{value}" for key, value in sorted(options.items()))
        folder = root / "scene" / f"{labels}_seed{seed}{'_' + stem if stem else ''}"
        if (folder / "provider.json").is_file():
            return load_provider(folder)
        pictures, known = read_labels(root, labels, per_repo=options.pop("per_repo", 40))
        provider = train_scene(pictures, known, labels=labels, seed=seed, **options)
        provider.save(folder)
        return provider

    @property
    def parameter_count(self) -> int:
        """See `TargetProvider.parameter_count`: the read-out is for training alone."""
        return sum(p.numel() for p in self.encoder.parameters())


def train_scene(
    pictures: np.ndarray,
    known: np.ndarray,
    *,
    labels: str,
    steps: int = 400,
    batch_size: int = 32,
    learning_rate: float = 2e-3,
    width: int = 32,
    seed: int = 0,
) -> SceneEncoder:
    """Trains an encoder on labelled pictures; every draw depends on (seed, step) alone.

    Args:
        pictures: uint8 [n, H, W, 3]; sides are multiples of 8.
        known: [n, H, W], whole numbers for classes, others for a quantity, which is standardised.
        labels: What they are called.
        steps: Optimisation steps.
        batch_size: Pictures a step.
        learning_rate: Peak of a one-cycle schedule.
        width: T.
        seed: Of weights and draws.

    Raises:
        ValueError: pictures and labels do not fit each other, or a label is not finite.
    """
    if pictures.shape[:3] != known.shape or pictures.shape[1] % FACTOR or pictures.shape[2] % FACTOR:
        raise InputError(
            f"expected pictures [n, H, W, 3] with sides of a multiple of {FACTOR} and labels [n, H, W]; got "
            f"{pictures.shape} and {known.shape}"
        )
    if not np.isfinite(known).all():
        raise InputError(f"labels {labels!r} hold values that are not finite")
    discrete = known.dtype.kind in "iu"
    classes = int(known.max()) + 1 if discrete else 0
    wanted = torch.from_numpy(known).long() if discrete else torch.from_numpy(known).float()
    mean, std = (0.0, 1.0) if discrete else (float(wanted.mean()), float(wanted.std().clamp(min=1e-6)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SceneEncoder(labels=labels, classes=classes, width=width)
    for p in model.parameters():
        p.requires_grad = True
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    frames = torch.from_numpy(pictures)
    for step in range(steps):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        index = torch.randint(len(frames), (batch_size,), generator=generator)
        out = model.head(model.look(frames[index]))
        if discrete:
            loss = functional.cross_entropy(out, wanted[index])
        else:
            loss = functional.mse_loss(out[:, 0], (wanted[index] - mean) / std)
        if not bool(torch.isfinite(loss)):
            raise DivergedError(
                f"scene encoder: the loss is {float(loss.detach())} at step {step}; lower the learning rate"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    logger.info("scene encoder for %s: last loss %.3f", labels, float(loss.detach()))
    return model.requires_grad_(False).eval()
