# SPDX-License-Identifier: Apache-2.0
"""A batch for a method: clean tensors, masks and text of B samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

__all__ = ["Batch"]

_BY_NAME = ("clean", "history", "mask", "extra")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """B samples of every stream. Letters: B samples, F latent frames, L text tokens, D text width.

    Args:
        clean: Stream name -> data the losses compare with, [B, C, F, H, W].
        history: Stream name -> what fills the clean slots that later tokens see (executed rather than labelled
            actions, for example), shapes as `clean`.
        mask: Stream name -> bool, broadcastable to `clean`; False where no loss is taken.
        given: [B, F] bool; True for frames that are an observation at rollout too, so their noisy slot carries
            clean data at sigma 0.
        text: [B, L, D].
        null_text: Embedding of the empty prompt, [L, D].
        index: Sample ids, [B] int64; every random draw and every error message refers to them.
        extra: Further tensors by name that a method's own source adds, first axis B.
    """

    clean: Mapping[str, Tensor]
    history: Mapping[str, Tensor]
    mask: Mapping[str, Tensor]
    given: Tensor
    text: Tensor
    null_text: Tensor
    index: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """B."""
        return self.index.shape[0]

    @property
    def frames(self) -> int:
        """F."""
        return self.given.shape[1]

    def loss_mask(self, name: str) -> Tensor:
        """Gives the mask of a stream's loss: its own without the given frames, [B, 1 or C, F, ...]."""
        return self.mask[name] & ~self.given[:, None, :, None, None]

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name, those of a mapping as "clean/<stream>"."""
        nested = {f"{name}/{key}": x for name in _BY_NAME for key, x in getattr(self, name).items()}
        return nested | {name: getattr(self, name) for name in ("given", "text", "null_text", "index")}

    def without_given(self) -> "Batch":
        """The same samples for a model that is told the observation by `history` and predicts that frame too."""
        return replace(self, given=torch.zeros_like(self.given))

    def rows(self, rows: Sequence[int]) -> "Batch":
        """Some of the samples, in the order asked for."""
        at = torch.as_tensor(list(rows), device=self.index.device)
        chosen: dict[str, Any] = {key: {name: t[at] for name, t in getattr(self, key).items()} for key in _BY_NAME}
        return replace(self, **chosen, given=self.given[at], text=self.text[at], index=self.index[at])

    def frames_of(self, which: slice) -> "Batch":
        """The same samples cut to some of their latent frames."""
        cut: dict[str, Any] = {
            key: {name: x[:, :, which] for name, x in getattr(self, key).items()}
            for key in ("clean", "history", "mask")
        }
        return replace(self, **cut, given=self.given[:, which])

    def restricted(self, masks: Mapping[str, Tensor]) -> "Batch":
        """The same samples with losses where the masks of a chunk are True too, chunk after chunk.

        Args:
            masks: Stream name -> bool, broadcastable to [C, F', H, W] of a chunk of F' frames.
        """
        own = dict(self.mask)
        for name, chunk in masks.items():
            times = -(-self.frames // chunk.shape[1])
            own[name] = own[name] & chunk.to(own[name].device).repeat(1, times, 1, 1)[:, : self.frames]
        return replace(self, mask=own)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with every tensor on `device`."""
        moved: dict[str, Any] = {key: getattr(self, key).to(device) for key in ("given", "text", "null_text", "index")}
        moved |= {key: {name: t.to(device) for name, t in getattr(self, key).items()} for key in _BY_NAME}
        return replace(self, **moved)
