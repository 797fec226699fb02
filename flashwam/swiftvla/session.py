# SPDX-License-Identifier: Apache-2.0
"""A rollout of a policy that knows the present frame and nothing older.

Letters: B episodes, C channels, F latent frames, H and W the rest of a stream's tokens, L text tokens, D text width.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from flashwam.swiftvla.trunk import Prefix
from flashwam.system.errors import InputError
from flashwam.wam.layout import Layout
from flashwam.wam.session import RolloutSession

__all__ = ["Acting", "FusionSession"]


class Acting(Protocol):
    """The part of a policy that its rollout needs; see `FusionPolicy`."""

    @property
    def layout(self) -> Layout:
        """Its streams, chunk and senses."""

    def prefix(self, clean: Mapping[str, Tensor], context: Mapping[str, Any]) -> Prefix:
        """Everything that is known before an action is drawn."""

    def act(self, prefix: Prefix, noisy: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Velocity of the actions, and the expert's latent."""


class FusionSession(RolloutSession):
    """One look per chunk; every velocity of the chunk reads what the trunk made of it.

    Args:
        policy: The policy.
        text: [B, L, D].
        guidance: Stream name -> scale; 1 where absent.

    Raises:
        ValueError: A scale is not 1.
    """

    def __init__(self, policy: Acting, text: Tensor, *, guidance: Mapping[str, float] | None = None) -> None:
        guided = {name: scale for name, scale in (guidance or {}).items() if scale != 1}
        if guided:
            raise InputError(f"a policy without an empty prompt of its training cannot be guided; got {guided}")
        self.frame_index = 0
        self._policy, self._text = policy, text
        self._seen: dict[str, Tensor] = {}
        self._prefix: Prefix | None = None

    @torch.no_grad()
    def probe(self, noise: Mapping[str, Tensor], sigma: Mapping[str, Tensor]) -> None:
        """See `RolloutSession.probe`."""
        missing = [name for name in ("video", *self._policy.layout.senses) if name not in self._seen]
        if missing:
            raise RuntimeError(f"a chunk begins with the observation: append {missing} and advance(1) first")
        unseen = (0, 0, 0, 0, 0, self._policy.layout.chunk_frames - 1)
        clean = {name: torch.nn.functional.pad(x, unseen) for name, x in self._seen.items()}
        self._prefix = self._policy.prefix(clean, {"text": self._text, "noise": noise})

    @torch.no_grad()
    def velocity(self, noisy: Mapping[str, Tensor], sigma: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `RolloutSession.velocity`."""
        if self._prefix is None:
            raise RuntimeError("nothing was looked at since the last observation: call probe(noise, sigma) first")
        return {"action": self._policy.act(self._prefix, noisy["action"], sigma["action"])[0]}

    def append(self, stream: str, clean: Tensor, *, predicted: bool) -> None:
        """See `RolloutSession.append`; of what is observed the last frame counts, of the rest nothing."""
        if not predicted:
            self._seen[stream] = clean[:, :, -1:]

    def drop_predicted(self) -> None:
        """See `RolloutSession.drop_predicted`: nothing predicted was kept."""

    def advance(self, frames: int) -> None:
        """See `RolloutSession.advance`."""
        self.frame_index += frames
        self._prefix = None
