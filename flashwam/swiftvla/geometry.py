# SPDX-License-Identifier: Apache-2.0
"""A causal geometry transformer over pictures in the form of StreamVGGT (arXiv 2507.11539), at any size.

Attention alternates between the tokens of one frame and those of all frames so far. StreamVGGT's own weights load into
`GeometryConfig.streamvggt()`; a tiny one is trained on the simulator's depth (`flashwam.swiftvla.geometry_training`).
Letters: B samples, F frames, H, W pixels, n patches, D width.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flashwam.swiftvla.attention import Block, LayerCache, grid_rotations
from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.files import write_whole
from flashwam.system.json_file import build, read_mapping
from flashwam.system.paths import user_path
from flashwam.system.tensor_file import fitting, load_tensors, write_tensors
from flashwam.wam.weights import key_problems

__all__ = ["GeometryCache", "GeometryConfig", "GeometryTransformer", "pool_patches"]

_CONFIG, _WEIGHTS = "geometry.json", "geometry.safetensors"
_PREFIX = "aggregator."
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class GeometryConfig:
    """Sizes of a geometry transformer.

    Args:
        size: Side of the pictures in pixels, a multiple of `patch`.
        patch: Side of a patch.
        width: D; features have 2 D channels.
        depth: Pairs of a frame block and a global block.
        heads: Heads; width / heads must be a multiple of 4.
        registers: Tokens of a frame without a place, beside its camera token.
        vision_depth: Blocks of the DINOv2 in front, for one patch convolution alone 0.
        scale: Where the residual factors of the pairs start.
    """

    size: int = 64
    patch: int = 8
    width: int = 96
    depth: int = 2
    heads: int = 4
    registers: int = 2
    vision_depth: int = 0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.size % self.patch or self.size < 1:
            raise InputError(f"size {self.size} must be a multiple of patch {self.patch}")
        if self.width % (4 * self.heads):
            raise InputError(f"width {self.width} must be a multiple of 4 heads, {4 * self.heads}")
        if min(self.depth, self.registers + 1) < 1 or self.vision_depth < 0:
            raise InputError(f"depth must be at least 1, registers and vision_depth at least 0; got {self}")

    @classmethod
    def streamvggt(cls) -> "GeometryConfig":
        """The released network's sizes."""
        return cls(size=518, patch=14, width=1024, depth=24, heads=16, registers=4, vision_depth=24, scale=0.01)

    @property
    def grid(self) -> int:
        """Patches on a side."""
        return self.size // self.patch

    @property
    def special(self) -> int:
        """Tokens of a frame before its patches."""
        return 1 + self.registers


class PatchConvolution(nn.Module):
    """Pictures [B, 3, H, W] -> patches [B, n, D]."""

    def __init__(self, config: GeometryConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, config.patch, config.patch)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.proj(pictures).flatten(2).transpose(1, 2)


class Dino(nn.Module):
    """DINOv2 with four registers: pictures [B, 3, H, W] -> normalised patches [B, n, D]."""

    def __init__(self, config: GeometryConfig) -> None:
        super().__init__()
        self.patch_embed = PatchConvolution(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.register_tokens = nn.Parameter(torch.zeros(1, 4, config.width))
        self.mask_token = nn.Parameter(torch.zeros(1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.grid**2, config.width))
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, normed=False, scale=1.0, eps=1e-6) for _ in range(config.vision_depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=1e-6)

    def forward(self, pictures: Tensor) -> Tensor:
        patches = self.patch_embed(pictures)
        x = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], 1) + self.pos_embed
        x = torch.cat([x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 5:]


class GeometryCache:
    """The global blocks' memory of an episode; evicts by frame.

    Args:
        depth: Global blocks.
        limit: Frames kept; None for all.

    Attributes:
        frames: Frames of the episode so far, those that were evicted among them.
    """

    def __init__(self, depth: int, limit: int | None) -> None:
        self.layers = [LayerCache(limit) for _ in range(depth)]
        self.frames = 0

    def __len__(self) -> int:
        return len(self.layers[0])


class GeometryTransformer(nn.Module):
    """Pictures in time order -> a feature per patch that knows the frames before.

    Args:
        config: Sizes.
    """

    def __init__(self, config: GeometryConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = Dino(config) if config.vision_depth else PatchConvolution(config)

        def blocks() -> nn.ModuleList:
            made = (
                Block(config.width, config.heads, normed=True, scale=config.scale, eps=1e-5)
                for _ in range(config.depth)
            )
            return nn.ModuleList(made)

        self.frame_blocks, self.global_blocks = blocks(), blocks()
        # One of each for an episode's first frame and one for the others.
        self.camera_token = nn.Parameter(1e-2 * torch.randn(1, 2, 1, config.width))
        self.register_token = nn.Parameter(1e-2 * torch.randn(1, 2, config.registers, config.width))
        angle = grid_rotations(
            config.grid, config.grid, head_width=config.width // config.heads, special=config.special
        )
        self.register_buffer("angle", angle, persistent=False)
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(3, 1, 1), persistent=False)

    @property
    def channels(self) -> int:
        """Of a feature: 2 D, the last frame block's output beside the last global block's."""
        return 2 * self.config.width

    def cache(self, limit: int | None = None) -> GeometryCache:
        """A cache for a new episode."""
        return GeometryCache(self.config.depth, limit)

    def forward(self, pictures: Tensor) -> Tensor:
        """A whole episode at once: every frame sees itself and all before.

        Args:
            pictures: [B, F, 3, H, W] in [0, 1].

        Returns:
            Camera token, registers and patches of each frame, [B, F, special + n, 2 D].
        """
        count, frames = pictures.shape[:2]
        x = self._tokens(pictures.flatten(0, 1), torch.arange(frames).expand(count, -1).flatten() == 0)
        size = x.shape[1]
        frame = torch.arange(frames, device=x.device).repeat_interleave(size)
        mask = frame[:, None] >= frame[None, :]
        for inside, across in zip(self.frame_blocks, self.global_blocks, strict=True):
            x = seen = inside(x, angle=self.angle)
            x = across(x.unflatten(0, (count, frames)).flatten(1, 2), angle=self.angle.repeat(frames, 1), mask=mask)
            x = x.unflatten(1, (frames, size)).flatten(0, 1)
        return torch.cat([seen, x], -1).unflatten(0, (count, frames))

    def step(self, pictures: Tensor, cache: GeometryCache) -> Tensor:
        """The next frame of B episodes in lock-step, which enters the cache.

        Args:
            pictures: [B, 3, H, W] in [0, 1].
            cache: Of this episode.

        Returns:
            [B, special + n, 2 D].
        """
        return self.finish(self.begin(pictures, first=cache.frames == 0), cache)

    def begin(self, pictures: Tensor, *, first: bool) -> Tensor:
        """The part of `step` in which no earlier frame has a say, the same for caches of every size: patches, special
        tokens, the first frame block.

        Args:
            pictures: [B, 3, H, W] in [0, 1].
            first: They begin an episode.

        Returns:
            [B, special + n, D].
        """
        return self.frame_blocks[0](self._tokens(pictures, torch.full((len(pictures),), first)), angle=self.angle)

    def finish(self, begun: Tensor, cache: GeometryCache) -> Tensor:
        """The rest of `step`, which depends on what the cache holds.

        Args:
            begun: What `begin` gave.
            cache: Of this episode; the frame enters it.

        Returns:
            [B, special + n, 2 D].
        """
        x = seen = begun
        for number, (across, layer) in enumerate(zip(self.global_blocks, cache.layers, strict=True)):
            if number:
                x = seen = self.frame_blocks[number](x, angle=self.angle)
            x = across(x, angle=self.angle, cache=layer)
        cache.frames += 1
        return torch.cat([seen, x], -1)

    def _tokens(self, pictures: Tensor, first: Tensor) -> Tensor:
        side = self.config.size
        if pictures.shape[1:] != (3, side, side):
            raise ValueError(f"expected pictures [B, 3, {side}, {side}]; got {tuple(pictures.shape)}")
        patches = self.patch_embed((pictures - self.mean) / self.std)
        which = (~first).long().to(patches.device)
        return torch.cat([self.camera_token[0, which], self.register_token[0, which], patches], 1)

    def save_pretrained(self, folder: Path | str) -> None:
        """Writes sizes and weights."""
        folder = user_path(folder)
        write_tensors(folder / _WEIGHTS, self.state_dict())
        write_whole(folder / _CONFIG, json.dumps(asdict(self.config), indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, path: Path | str) -> "GeometryTransformer":
        """Loads what `save_pretrained` wrote, or StreamVGGT's checkpoint file (`checkpoints.pth`, or as safetensors).

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The weights are of another network; the message says which keys do not fit.
        """
        path = user_path(path)
        if path.is_dir():
            if not (path / _CONFIG).is_file():
                raise MissingFileError(f"{path / _CONFIG} is missing: train a geometry transformer there first")
            config = build(path / _CONFIG, GeometryConfig, read_mapping(path / _CONFIG))
            weights = load_tensors(path / _WEIGHTS)
            with fitting([path / _WEIGHTS]):
                return cls._with(config, weights, path)
        if not path.is_file():
            raise MissingFileError(f"{path} is missing: expected a folder of ours or StreamVGGT's checkpoint file")
        if path.suffix == ".safetensors":
            found = load_tensors(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
        weights = {key.removeprefix(_PREFIX): x for key, x in found.items() if key.startswith(_PREFIX)}
        if not weights:
            raise InputError(f"{path} holds no {_PREFIX}* weights: expected StreamVGGT's checkpoint")
        return cls._with(GeometryConfig.streamvggt(), weights, path)

    @classmethod
    def _with(cls, config: GeometryConfig, weights: dict[str, Tensor], path: Path) -> "GeometryTransformer":
        model = cls(config)
        shapes = [{key: tuple(x.shape) for key, x in part.items()} for part in (model.state_dict(), weights)]
        key_problems(shapes[0], shapes[1], what=path)
        model.load_state_dict(weights)
        return model.eval()


def pool_patches(features: Tensor, config: GeometryConfig, side: int) -> Tensor:
    """Features [B, special + n, C] -> the patches' means on a coarser grid, [B, side * side, C]."""
    patches = features[:, config.special :].transpose(1, 2).unflatten(2, (config.grid, config.grid))
    return F.adaptive_avg_pool2d(patches, side).flatten(2).transpose(1, 2)
