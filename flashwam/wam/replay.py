# SPDX-License-Identifier: Apache-2.0
"""A rollout for models without a cache: every call is a whole teacher-forced pass over the past."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from flashwam.system.errors import InputError
from flashwam.wam.guidance import guided_velocity
from flashwam.wam.layout import Layout
from flashwam.wam.session import RolloutSession

__all__ = ["Replayed", "ReplaySession"]


class Replayed(Protocol):
    """The part of a model that a replay needs."""

    @property
    def layout(self) -> Layout:
        """See `Layout`."""

    def __call__(
        self,
        noisy: Mapping[str, Tensor],
        sigma: Mapping[str, Tensor],
        clean: Mapping[str, Tensor],
        context: Mapping[str, Any],
    ) -> dict[str, Tensor]:
        """See `WorldActionModel.velocity`."""


class ReplaySession(RolloutSession):
    """The velocities of a cached session, from `WorldActionModel.velocity` alone.

    Args:
        wam: The model.
        text: [B, L, D].
        null_text: [L, D]; needed where a guidance scale is not 1.
        guidance: Stream name -> scale; 1 where absent.

    Raises:
        ValueError: guidance names unknown streams, or lacks a fitting `null_text`.
    """

    def __init__(
        self,
        wam: Replayed,
        text: Tensor,
        *,
        null_text: Tensor | None = None,
        guidance: Mapping[str, float] | None = None,
    ) -> None:
        guidance = dict(guidance or {})
        unknown = sorted(set(guidance) - set(wam.layout.streams))
        if unknown:
            raise InputError(f"guidance names unknown streams {unknown}; streams are {list(wam.layout.streams)}")
        guided = any(scale != 1 for scale in guidance.values())
        if guided and null_text is None:
            raise InputError(f"guidance {guidance} needs null_text, the embedding of the empty prompt, [L, D]")
        if guided and null_text.shape != text.shape[1:]:
            raise ValueError(f"null_text must be {tuple(text.shape[1:])} as text is, got {tuple(null_text.shape)}")
        self._wam, self._layout = wam, wam.layout
        self._text, self._null_text, self._guidance = text, null_text, guidance
        self._seen = 0
        self._past: dict[str, Tensor] = {}
        self._chunk: dict[str, tuple[Tensor, bool]] = {}

    @property
    def frame_index(self) -> int:
        """See `RolloutSession`; a chunk that begins with the observation begins at the last frame seen."""
        return max(0, self._seen - int(self._layout.conditions_on_first))

    @torch.no_grad()
    def velocity(self, noisy: Mapping[str, Tensor], sigma: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `RolloutSession.velocity`."""
        return guided_velocity(
            self._wam,
            noisy,
            sigma,
            self._clean(noisy),
            text=self._text,
            null_text=self._null_text,
            scales={name: self._guidance.get(name, 1.0) for name in noisy},
            together_with=self._layout.whole_stages,
        )

    def _clean(self, noisy: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The past and what is known of the current chunk, every stream and sense."""
        like = next(iter(noisy.values()))
        clean = {}
        for name, (channels, height, width) in self._layout.observed_shapes.items():
            if name in self._chunk:
                current = self._chunk[name][0]
            else:
                # Slots that nothing was put into belong to blocks that these tokens do not see.
                current = like.new_zeros(like.shape[0], channels, like.shape[2], height, width)
            if self._layout.conditions_on_first:
                if name not in self._past:
                    raise RuntimeError("a chunk begins with the observation: append it and advance(1) first")
                clean[name] = torch.cat([self._past[name][:, :, -1:], current[:, :, 1:]], 2)
                continue
            clean[name] = torch.cat([self._past[name], current], 2) if name in self._past else current
        return clean

    def append(self, stream: str, clean: Tensor, *, predicted: bool) -> None:
        """See `RolloutSession.append`.

        Raises:
            ValueError: The stream is unknown, or the tensor is not one of its own.
            RuntimeError: Observed tokens of this chunk were appended before.
        """
        shapes = self._layout.observed_shapes
        if stream not in shapes:
            raise ValueError(f"stream must be one of {list(shapes)}, got {stream!r}")
        batch, (channels, *size) = len(self._text), shapes[stream]
        fits = clean.ndim == 5 and clean.shape[2] > 0
        if not fits or (*clean.shape[:2], *clean.shape[3:]) != (batch, channels, *size):
            expected = f"[{batch}, {channels}, frames, {size[0]}, {size[1]}]"
            raise ValueError(f"{stream} must be {expected}, got {tuple(clean.shape)}")
        held = self._chunk.get(stream)
        if held is not None and not held[1]:
            raise RuntimeError(f"{stream} of this chunk was appended already: call advance(frames) first")
        self._chunk[stream] = (clean, predicted)

    def drop_predicted(self) -> None:
        """See `RolloutSession.drop_predicted`."""
        self._chunk = {name: held for name, held in self._chunk.items() if not held[1]}

    def advance(self, frames: int) -> None:
        """See `RolloutSession.advance`.

        Raises:
            ValueError: Not just so many observed frames of every stream and sense were appended.
        """
        if frames < 1:
            raise ValueError(f"advance needs at least one frame, got {frames}")
        held = {name: 0 if predicted else x.shape[2] for name, (x, predicted) in self._chunk.items()}
        names = tuple(self._layout.observed_shapes)
        if set(held) != set(names) or set(held.values()) != {frames}:
            raise ValueError(f"advance({frames}) needs so many observed frames of {names}; got {held}")
        for name, (x, _) in self._chunk.items():
            kept = name in self._past and not self._layout.conditions_on_first
            self._past[name] = torch.cat([self._past[name], x], 2) if kept else x
        self._chunk.clear()
        self._seen += frames

    def amend(self, seen: Mapping[str, Tensor]) -> None:
        """See `RolloutSession.amend`."""
        if self._chunk:
            raise RuntimeError("what was seen of the chunk before comes before this chunk's own")
        for name, x in seen.items():
            held = self._past[name].shape[2] if name in self._past else 0
            if x.shape[2] > held:
                raise ValueError(f"got {x.shape[2]} frames of {name}; what was told before has {held}")
            self._past[name] = torch.cat([self._past[name][:, :, : held - x.shape[2]], x], 2)
