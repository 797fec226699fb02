# SPDX-License-Identifier: Apache-2.0
"""Rollout of a foresight policy: one look a chunk, then steps of the expert alone.

Letters: B episodes, C channels, F latent frames, H and W latent size, L text tokens, D text width.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from flashwam.foresight.providers import to_grid
from flashwam.wam.features import LooksInside
from flashwam.wam.layout import Layout
from flashwam.wam.session import RolloutSession

__all__ = ["Foreseeing", "ForesightSession"]


class Foreseeing(Protocol):
    """The part of a policy that its rollout needs; see `ForesightPolicy`."""

    blocks: tuple[int, ...]
    grid: tuple[int, int]

    @property
    def expert(self) -> nn.Module:
        """Draws the actions."""

    @property
    def layout(self) -> Layout:
        """Its streams and chunk."""

    @property
    def backbone(self) -> LooksInside:
        """The world-action model that is looked into."""

    def see(self, latents: Tensor) -> dict[str, Tensor]:
        """Views of single frames, by vision model."""

    def foresee(self, features: Tensor, reference: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Views of the coming video, by vision model."""

    def tokens(self, features: Tensor, foresight: Mapping[str, Tensor], text: Tensor) -> Tensor:
        """The expert's condition."""


class ForesightSession(RolloutSession):
    """The backbone's own rollout, cut off below the deepest block, and what the policy makes of each look.

    Args:
        policy: The policy.
        text: [B, L, D].

    Attributes:
        part_seconds: backbone, reference (decoding the observed picture and the vision models), decouplers, resampler
            (with the expert's encoder) and expert -> seconds spent.
    """

    def __init__(self, policy: Foreseeing, text: Tensor) -> None:
        self._policy, self._text = policy, text
        self._session = policy.backbone.feature_session(text, blocks=policy.blocks)
        self._observed: Tensor | None = None
        self._seen: Tensor | None = None
        self.part_seconds: dict[str, float] = dict.fromkeys(
            ("backbone", "reference", "decouplers", "resampler", "expert"), 0.0
        )

    @property
    def frame_index(self) -> int:
        """See `RolloutSession`."""
        return self._session.frame_index

    @torch.no_grad()
    def probe(self, noise: Mapping[str, Tensor], sigma: Mapping[str, Tensor]) -> None:
        """See `RolloutSession.probe`.

        Raises:
            RuntimeError: nothing was observed yet, and no frame is given.
        """
        policy = self._policy
        given = bool((sigma["video"][:, 0] == 0).all())
        observed = noise["video"][:, :, 0] if given else self._observed
        if observed is None:
            raise RuntimeError("nothing was observed: append the video and advance first")
        needed = policy.backbone.layout.whole_stages(("video",))
        parts = ({name: part[name] for name in policy.layout.streams if name in needed} for part in (noise, sigma))
        with self._timed("backbone"):
            features = to_grid(self._session.features(*parts, blocks=policy.blocks), policy.grid)
        with self._timed("reference"):
            reference = policy.see(observed)
        with self._timed("decouplers"):
            foresight = policy.foresee(features, reference)
        with self._timed("resampler"):
            self._seen = policy.tokens(features, foresight, self._text)

    @torch.no_grad()
    def velocity(self, noisy: Mapping[str, Tensor], sigma: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `RolloutSession.velocity`.

        Raises:
            RuntimeError: this chunk was not looked at.
        """
        if self._seen is None:
            raise RuntimeError("the chunk was not looked at yet: call probe first")
        with self._timed("expert"):
            return {"action": self._policy.expert(noisy["action"], sigma["action"], self._seen)}

    def append(self, stream: str, clean: Tensor, *, predicted: bool) -> None:
        """See `RolloutSession.append`."""
        self._session.append(stream, clean, predicted=predicted)
        if stream == "video" and not predicted:
            self._observed = clean[:, :, -1]

    def drop_predicted(self) -> None:
        """See `RolloutSession.drop_predicted`."""
        self._session.drop_predicted()

    def advance(self, frames: int) -> None:
        """See `RolloutSession.advance`; the next chunk needs a look of its own."""
        self._session.advance(frames)
        self._seen = None

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        """Adds the seconds of what happens within, by the session's clock."""
        start = self.clock()
        yield
        self.part_seconds[part] += self.clock() - start
