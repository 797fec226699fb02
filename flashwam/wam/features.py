# SPDX-License-Identifier: Apache-2.0
"""World-action models that can be looked into: hidden states of the video, in training and in a rollout.

Letters: B samples, D channels, F latent frames, h and w tokens of a frame, L text tokens.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from flashwam.system.errors import InputError
from flashwam.wam.base import WorldActionModel
from flashwam.wam.replay import Replayed, ReplaySession
from flashwam.wam.session import RolloutSession

__all__ = ["LookingReplay", "LooksInside", "looked_into"]


class LooksInside(WorldActionModel):
    """A family whose blocks can be looked into; it writes the three abstract members beside `velocity`."""

    @property
    @abstractmethod
    def feature_blocks(self) -> int:
        """Number of blocks that `features` can be taken after."""

    @abstractmethod
    def feature_width(self, blocks: Sequence[int]) -> int:
        """Channels of `features` of these blocks."""

    @abstractmethod
    def features(
        self,
        noisy: Mapping[str, Tensor],
        sigma: Mapping[str, Tensor],
        clean: Mapping[str, Tensor],
        context: Mapping[str, Any],
        *,
        blocks: Sequence[int],
    ) -> Tensor:
        """Hidden states of the video's noisy tokens in the pass that `velocity` makes, which ends after the deepest.

        Args:
            noisy, sigma, clean, context: As in `velocity`; streams that are not drawn together with the video may be
                left out.
            blocks: After which blocks, from 0, ascending.

        Returns:
            [B, D, F', h, w] for tokens on a grid of h x w, float32 or better: of every block the hidden states,
            normalised over channels without weights, one after the other.

        Raises:
            ValueError: the family lacks a block.
        """

    def feature_parameters(self, blocks: Sequence[int]) -> int:
        """Parameters that `feature_session` runs for these blocks; all of the model's unless a family knows better."""
        return sum(p.numel() for p in self.parameters())

    def feature_session(self, text: Tensor, *, blocks: Sequence[int]) -> RolloutSession:
        """A rollout that is asked for nothing but `features` of these blocks; a family may run no deeper ones."""
        return self.session(text)

    def session(
        self, text: Tensor, *, null_text: Tensor | None = None, guidance: Mapping[str, float] | None = None
    ) -> RolloutSession:
        """See `WorldActionModel.session`; what it opens gives `features` too."""
        return LookingReplay(self, text, null_text=null_text, guidance=guidance)


class LookingReplay(ReplaySession):
    """A replay that gives features.

    Args:
        wam: The model.
        text: [B, L, D].
        run: Computes its velocities; the model itself if None.
        options: See `ReplaySession`.
    """

    def __init__(self, wam: LooksInside, text: Tensor, *, run: Replayed | None = None, **options: Any) -> None:
        super().__init__(wam if run is None else run, text, **options)
        self._looker = wam

    @torch.no_grad()
    def features(self, noisy: Mapping[str, Tensor], sigma: Mapping[str, Tensor], *, blocks: Sequence[int]) -> Tensor:
        """See `RolloutSession.features`."""
        return self._looker.features(noisy, sigma, self._clean(noisy), {"text": self._text}, blocks=blocks)


def looked_into(model: WorldActionModel) -> LooksInside:
    """Gives the model back as one that can be looked into.

    Raises:
        ValueError: It cannot.
    """
    if isinstance(model, LooksInside):
        return model
    raise InputError(
        f"{type(model).__name__} gives no hidden states, and a policy wants to look into it: derive the family from "
        "flashwam.wam.LooksInside and write `features`"
    )
