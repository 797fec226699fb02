# SPDX-License-Identifier: Apache-2.0
"""A teacher, a vision model and windows for which it is known what a look at the noise can tell."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashwam.core.batch import Batch
from flashwam.data.pictures import PictureDecoder
from flashwam.foresight.policy import ForesightPolicy
from flashwam.foresight.providers import TargetProvider
from flashwam.wam import Layout, LooksInside

SPREAD = {"observation": 0.6, "noise": 0.8}


class World(LooksInside):
    """The coming video is 0.6 o + 0.8 z: o is observed, z is the noise it is drawn from; a look shows z."""

    layout = Layout(streams=("video", "action"), chunk_frames=2, shapes={"video": (3, 1, 1), "action": (2, 1, 1)})
    feature_blocks = 1

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def velocity(self, noisy, sigma, clean, context):
        out = {}
        for name, x in noisy.items():
            level = sigma[name][:, None, :, None, None].clamp(min=1e-6)
            if name == "action":
                out[name] = x / level
                continue
            seen = SPREAD["observation"] * x[:, :, :1]
            # x = (1 - s) (m + 0.8 z) + s z says which z it came from.
            z = (x - (1 - level) * seen) / ((1 - level) * SPREAD["noise"] + level)
            out[name] = z - (seen + SPREAD["noise"] * z)
        return out

    def feature_width(self, blocks):
        return 48

    def features(self, noisy, sigma, clean, context, *, blocks):
        mix = torch.randn(48, 3, generator=torch.Generator().manual_seed(0))
        shift = torch.linspace(-1, 1, 48)[:, None, None, None]
        return torch.tanh(0.5 * torch.einsum("oc,bcfhw->bofhw", mix, noisy["video"]) + shift)


class Colour(TargetProvider):
    """A picture's mean colour, a vision model of one place."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.width = 3

    def describe(self) -> str:
        return "mean colour"

    def look(self, pictures: Tensor) -> Tensor:
        return self.scale * (pictures.float().mean((1, 2)) - 128)[..., None, None] / 25

    def settings(self) -> dict[str, Any]:
        return {}

    def save_weights(self, folder: Path) -> None:
        """Nothing to write."""

    @classmethod
    def from_folder(cls, folder: Path, settings: Mapping[str, Any]) -> "Colour":
        return cls()

    @classmethod
    def build(cls, options: Mapping[str, Any], *, root: Path, seed: int) -> "Colour":
        return cls()


class Dye(PictureDecoder):
    """Latents of three channels as the colour of one pixel."""

    def pictures(self, latents: Tensor) -> Tensor:
        return (latents * 25 + 128).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 4, 1)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)

    @classmethod
    def load(cls, folder: Path) -> "Dye":
        return cls()

    @property
    def parameter_count(self) -> int:
        return 0


class Observations:
    """Windows of one chunk: the observation is unit Gaussian, the future that was recorded another draw."""

    def __init__(self, shapes=World.layout.shapes, text: int = 4, frames: int = 2) -> None:
        self.shapes, self.text, self.frames = shapes, text, frames

    def batch(self, indices: list[int]) -> Batch:
        clean: dict[str, list[Tensor]] = {name: [] for name in self.shapes}
        for i in indices:
            generator = torch.Generator().manual_seed(1000 + i)
            for name, (c, h, w) in self.shapes.items():
                clean[name].append(torch.randn(c, self.frames, h, w, generator=generator))
        data = {name: torch.stack(parts) for name, parts in clean.items()}
        given = torch.zeros(len(indices), self.frames, dtype=torch.bool)
        given[:, 0] = True
        mask = {name: torch.ones(len(indices), 1, self.frames, 1, 1, dtype=torch.bool) for name in data}
        return Batch(
            clean=data,
            history=data,
            mask=mask,
            given=given,
            text=torch.zeros(len(indices), 2, self.text),
            null_text=torch.zeros(2, self.text),
            index=torch.tensor(indices),
        )


TOLD = {name: {"shift": 2.0, "teacher_steps": 4} for name in World.layout.shapes}
"""The way in which this teacher is sampled."""


def toy_policy(teacher: LooksInside, *, trained: str = "decouplers") -> ForesightPolicy:
    """A small policy around a teacher of this world."""
    return ForesightPolicy(
        teacher,
        {"colour": Colour()},
        Dye(),
        trained=trained,
        text_width=4,
        blocks=[0],
        grid=(1, 1),
        decoupler={"width": 32, "blocks": 1, "heads": 2, "dropout": 0.0},
        resampler={"width": 8, "queries": 1, "depth": 1, "heads": 2, "head_dim": 4},
        expert={"width": 16, "encoder": 1, "decoder": 1, "heads": 2, "dropout": 0.0},
    )
