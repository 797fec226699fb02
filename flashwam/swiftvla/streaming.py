# SPDX-License-Identifier: Apache-2.0
"""Streams an episode through a geometry transformer whose memory is a FIFO cache of a few frames.

Letters: T time steps, V views, H, W pixels, m tokens, C channels, K cache entries.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from flashwam.swiftvla.geometry import GeometryCache, GeometryTransformer, pool_patches
from flashwam.system.errors import InputError

__all__ = ["CAPACITIES", "StreamingGeometry", "draw_capacity"]

CAPACITIES = (3, 4, 5, 6)
"""Sizes of the cache that training draws from."""


def draw_capacity(generator: np.random.Generator, capacities: tuple[int, ...] = CAPACITIES) -> int:
    """K of one training sample, each equally often."""
    return int(capacities[int(generator.integers(len(capacities)))])


class StreamingGeometry:
    """Pictures one time step after another -> tokens of the last view, which know what the cache still holds.

    The views of a step enter in order and see each other; only the last one's tokens are given out, the others refresh
    the cache. The network is frozen.

    Args:
        model: The network.
        side: Tokens on a side of the coarser grid that patches are averaged to; m = side * side.
        capacity: K.
        unit: What K counts: pictures, or time steps of all their views.
    """

    name = "geometry"

    def __init__(
        self, model: GeometryTransformer, *, side: int = 4, capacity: int = CAPACITIES[-1], unit: str = "frame"
    ) -> None:
        if not 1 <= side <= model.config.grid:
            raise InputError(f"side must be in 1..{model.config.grid}, the patches on a side; got {side}")
        if unit not in ("frame", "step"):
            raise InputError(f'unit must be "frame" or "step"; got {unit!r}')
        if capacity < 1:
            raise InputError(f"capacity must be at least 1; got {capacity}")
        self.model = model.requires_grad_(False).eval()
        self.side, self.capacity, self.unit = side, capacity, unit
        self._cache: GeometryCache | None = None

    @property
    def tokens(self) -> int:
        """m."""
        return self.side**2

    @property
    def channels(self) -> int:
        """C."""
        return self.model.channels

    @property
    def cached(self) -> int:
        """Pictures in the cache."""
        return 0 if self._cache is None else len(self._cache)

    @property
    def fingerprint(self) -> str:
        """Sixteen characters that tell these features from others, whatever K is."""
        digest = hashlib.sha256(f"{self.side} {self.unit}".encode())
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def reset(self) -> None:
        """Forgets everything: an episode begins."""
        self._cache = None

    @torch.no_grad()
    def step(self, pictures: np.ndarray | Tensor) -> Tensor:
        """The next time step of B episodes in lock-step.

        Args:
            pictures: uint8 [B, V, H, W, 3], the view whose tokens count last.

        Returns:
            [B, m, C], float32.
        """
        views = self._views(pictures)
        if self._cache is None:
            self._cache = self._empty(self.capacity, len(views))
        for view in views:
            features = self.model.step(view, self._cache)
        return pool_patches(features, self.model.config, self.side)

    def _views(self, pictures: np.ndarray | Tensor) -> Tensor:
        """uint8 [B, V, H, W, 3] -> [V, B, 3, H, W] in [0, 1], where the network is."""
        pixels = torch.as_tensor(pictures)
        if pixels.dtype != torch.uint8 or pixels.ndim != 5 or pixels.shape[-1] != 3:
            raise TypeError(f"expected uint8 pictures [B, V, H, W, 3], got {pixels.dtype} {tuple(pixels.shape)}")
        return pixels.to(self.model.camera_token.device).permute(1, 0, 4, 2, 3).float() / 255

    def _empty(self, capacity: int, views: int) -> GeometryCache:
        return self.model.cache(capacity * (views if self.unit == "step" else 1))

    def stream(self, pictures: np.ndarray | Tensor, begins: np.ndarray | Tensor) -> Tensor:
        """Episodes one after another, as a robot sees them.

        Args:
            pictures: uint8 [T, V, H, W, 3].
            begins: Bool [T], True where an episode begins, which the first step always does.

        Returns:
            [T, m, C]; each step as if only its own episode had been seen.
        """
        if len(pictures) != len(begins):
            raise ValueError(f"expected a flag per step: {len(pictures)} steps, {len(begins)} flags")
        self.reset()
        tokens = []
        for picture, begin in zip(pictures, begins, strict=True):
            if begin:
                self.reset()
            tokens.append(self.step(picture[None])[0])
        return torch.stack(tokens)

    @torch.no_grad()
    def stream_each(
        self, pictures: Iterable[np.ndarray | Tensor], capacities: Sequence[int]
    ) -> Iterator[dict[int, Tensor]]:
        """One episode, streamed once for caches of several sizes; the provider's own cache is left alone.

        From the second global block on, a frame knows what the cache held when earlier frames entered it, so each K has
        a pass of its own through the later blocks. What comes before is computed once: the vision transformer and the
        first frame block, 25 of StreamVGGT's 72 blocks.

        Args:
            pictures: uint8 [V, H, W, 3] of every step, which may be decoded as they are asked for.
            capacities: Values of K.

        Yields:
            K -> [m, C] of each step, the same as `at_capacity(K).stream` gives.
        """
        caches: dict[int, GeometryCache] = {}
        for step in pictures:
            views = self._views(step[None])
            caches = caches or {capacity: self._empty(capacity, len(views)) for capacity in capacities}
            for view in views:
                begun = self.model.begin(view, first=all(cache.frames == 0 for cache in caches.values()))
                features = {capacity: self.model.finish(begun, cache) for capacity, cache in caches.items()}
            yield {capacity: pool_patches(x, self.model.config, self.side)[0] for capacity, x in features.items()}

    def at_capacity(self, capacity: int) -> "StreamingGeometry":
        """The same network with another K and an empty cache."""
        return StreamingGeometry(self.model, side=self.side, capacity=capacity, unit=self.unit)
