# SPDX-License-Identifier: Apache-2.0
"""Encoders of the observed frame, a policy's first input, each with the tokens that a student may have to reconstruct.

Letters: B samples, C latent channels, H, W latent size, n tokens, D width of a token, F latent frames.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flashwam.system.errors import InputError
from flashwam.wam import load
from flashwam.wam.features import LooksInside, looked_into
from flashwam.wam.taps import check_blocks

__all__ = ["BACKBONE", "PatchEncoder", "PrimaryEncoder", "WamEncoder", "make_encoder", "picture_cells"]

BACKBONE = "backbone"
"""Folder, within a saved policy's, of the world-action model that it looks through."""


class PrimaryEncoder(nn.Module, ABC):
    """Tokens of the observed frame.

    Attributes:
        tokens: n.
        width: D.
        frozen: Whether its weights are left alone; its tokens are then a target that stands still.
    """

    tokens: int
    width: int
    frozen: bool = True

    @abstractmethod
    def forward(self, observation: Tensor, noise: Mapping[str, Tensor], text: Tensor) -> Tensor:
        """
        Args:
            observation: [B, C, H, W].
            noise: Every stream of the policy -> what a look at its chunk starts from, [B, C, F, H, W].
            text: [B, L, D of the text].

        Returns:
            [B, n, D], about zero mean and unit variance.
        """

    def target(self, observation: Tensor, tokens: Tensor) -> Tensor:
        """Gives the target that a student without these tokens reconstructs: what `forward` gave, or the picture itself
        where the encoder moves. [B, n, D'], without gradient."""
        return (tokens if self.frozen else picture_cells(observation, self.tokens)).detach()

    @property
    def target_width(self) -> int:
        """D'."""
        return self.width

    def check(self, shapes: Mapping[str, tuple[int, int, int]], chunk_frames: int) -> None:
        """Refuses a policy whose streams it cannot look at.

        Args:
            shapes: The policy's streams -> (C, H, W).
            chunk_frames: Frames of its chunk.

        Raises:
            ValueError: They do not fit.
        """

    kept_apart: bool = False
    """True if its weights are no part of the policy's file, but written by `save`."""

    def save(self, folder: Path) -> None:
        """Writes what is kept apart from the policy's own file."""


def picture_cells(observation: Tensor, tokens: int) -> Tensor:
    """Cuts [B, C, H, W] into `tokens` equal cells of a square grid: [B, tokens, C * cell]."""
    side = round(tokens**0.5)
    if side**2 != tokens or observation.shape[-1] % side or observation.shape[-2] % side:
        raise InputError(f"{tuple(observation.shape[-2:])} cannot be cut into {tokens} cells of a square grid")
    return _cells(observation, side, side)


def _cells(observation: Tensor, rows: int, columns: int) -> Tensor:
    """Cuts [B, C, H, W] into a grid of cells, row by row: [B, rows * columns, C * cell]."""
    cells = observation.unflatten(-1, (columns, -1)).unflatten(-3, (rows, -1))
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


class PatchEncoder(PrimaryEncoder):
    """The latents themselves, cut into patches; it has no weights.

    Args:
        latent: (C, H, W).
        patch: Side of a patch.
    """

    def __init__(self, latent: Sequence[int], *, patch: int = 2) -> None:
        super().__init__()
        channels, height, width = latent
        if height % patch or width % patch:
            raise InputError(f"expected latents whose sides are multiples of patch {patch}; got {tuple(latent)}")
        self._grid = height // patch, width // patch
        self.tokens, self.width = self._grid[0] * self._grid[1], channels * patch**2

    def forward(self, observation: Tensor, noise: Mapping[str, Tensor], text: Tensor) -> Tensor:
        """See `PrimaryEncoder.forward`."""
        return _cells(observation, *self._grid)


class WamEncoder(PrimaryEncoder):
    """Hidden states of a frozen world-action model that looks at its whole chunk once, from pure noise.

    Every chunk is looked at as if it were an episode's first: what lies further back is not known.

    Args:
        wam: The model.
        blocks: After which of its blocks.
        side: Tokens on a side of each frame, to which the model's own are averaged.
    """

    kept_apart = True

    def __init__(self, wam: LooksInside, *, blocks: Sequence[int], side: int) -> None:
        super().__init__()
        check_blocks(blocks, wam.feature_blocks)
        self.wam, self.blocks, self.side = wam, tuple(blocks), side
        self.tokens, self.width = wam.chunk_frames * side**2, wam.feature_width(self.blocks)

    def check(self, shapes: Mapping[str, tuple[int, int, int]], chunk_frames: int) -> None:
        """See `PrimaryEncoder.check`."""
        own = {name: tuple(shape) for name, shape in self.wam.shapes.items()}
        if own != dict(shapes) or chunk_frames < self.wam.chunk_frames:
            raise InputError(
                f"the world-action model it looks through has streams {own} and chunks of {self.wam.chunk_frames} "
                f"frames; the policy has {dict(shapes)} and {chunk_frames}: take the same streams, no shorter chunks"
            )

    @classmethod
    def from_folder(cls, folder: str | Path, *, blocks: Sequence[int], side: int) -> "WamEncoder":
        """Around a model that `save_pretrained` wrote.

        Raises:
            ValueError: It is one that cannot be looked into.
        """
        wam = looked_into(load(folder))
        return cls(wam.float(), blocks=blocks, side=side)

    @torch.no_grad()
    def forward(self, observation: Tensor, noise: Mapping[str, Tensor], text: Tensor) -> Tensor:
        """See `PrimaryEncoder.forward`."""
        frames = self.wam.chunk_frames
        looked = self.wam.layout.whole_stages({"video"})
        noisy = {name: noise[name][:, :, :frames].clone() for name in self.wam.streams if name in looked}
        sigma = {name: x.new_ones(x.shape[0], frames) for name, x in noisy.items()}
        clean = {
            name: observation.new_zeros(len(observation), c, frames, h, w)
            for name, (c, h, w) in self.wam.shapes.items()
        }
        clean["video"][:, :, 0] = observation
        if not self.wam.conditions_on_first:
            noisy["video"][:, :, 0] = observation
            sigma["video"][:, 0] = 0
        maps = self.wam.features(noisy, sigma, clean, {"text": text}, blocks=self.blocks)
        maps = F.adaptive_avg_pool2d(maps.transpose(1, 2).flatten(0, 1), self.side)
        return maps.unflatten(0, (-1, frames)).flatten(3).permute(0, 1, 3, 2).flatten(1, 2)

    def save(self, folder: Path) -> None:
        """See `PrimaryEncoder.save`."""
        self.wam.save_pretrained(folder / BACKBONE)


def make_encoder(settings: Mapping[str, Any], latent: Sequence[int], *, backbone: Path | None = None) -> PrimaryEncoder:
    """The encoder that a recipe's `primary` asks for.

    Args:
        settings: "name" ("patches" or "wam") and the encoder's keywords; for "wam", "pretrained" is its folder.
        latent: (C, H, W).
        backbone: A saved policy's own `BACKBONE`, in place of "pretrained".

    Raises:
        ValueError: The name or a keyword is not known.
    """
    options = dict(settings)
    name = options.pop("name", None)
    try:
        if name == "patches":
            return PatchEncoder(latent, **options)
        if name == "wam":
            folder = options.pop("pretrained", None)
            if backbone is None and folder is None:
                raise InputError("primary.pretrained must name the folder of a trained world-action model")
            return WamEncoder.from_folder(backbone or folder, **options)
    except TypeError as error:
        raise InputError(f"primary encoder {name!r} does not take {sorted(options)}: {error}") from error
    raise InputError(f'primary.name must be "patches" or "wam"; got {name!r}')
