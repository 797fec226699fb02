# SPDX-License-Identifier: Apache-2.0
"""A rollout for models without a cache: every call is a whole teacher-forced pass over the past."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from flashwam.wam.base import RolloutSession, WorldActionModel
from flashwam.wam.guidance import guided_velocity

__all__ = ["ReplaySession"]


class ReplaySession(RolloutSession):
    """What a cached session computes, from `WorldActionModel.velocity` alone.

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
        wam: WorldActionModel,
        text: Tensor,
        *,
        null_text: Tensor | None = None,
        guidance: Mapping[str, float] | None = None,
    ) -> None:
        guidance = dict(guidance or {})
        unknown = sorted(set(guidance) - set(wam.streams))
        if unknown:
            raise ValueError(f"guidance names unknown streams {unknown}; streams are {list(wam.streams)}")
        guided = any(scale != 1 for scale in guidance.values())
        if guided and null_text is None:
            raise ValueError(f"guidance {guidance} needs null_text, the embedding of the empty prompt, [L, D]")
        if guided and null_text.shape != text.shape[1:]:
            raise ValueError(f"null_text must be {tuple(text.shape[1:])} as text is, got {tuple(null_text.shape)}")
        self._wam, self._text, self._null_text, self._guidance = wam, text, null_text, guidance
        self._seen = 0
        self._past: dict[str, Tensor] = {}
        self._chunk: dict[str, tuple[Tensor, bool]] = {}

    @property
    def frame_index(self) -> int:
        """See `RolloutSession`; a chunk that begins with the observation begins at the last frame seen."""
        return max(0, self._seen - int(self._wam.conditions_on_first))

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
            together_with=self._wam.whole_stages,
        )

    @torch.no_grad()
    def features(self, noisy: Mapping[str, Tensor], sigma: Mapping[str, Tensor], *, blocks: Sequence[int]) -> Tensor:
        """See `RolloutSession.features`."""
        return self._wam.features(noisy, sigma, self._clean(noisy), {"text": self._text}, blocks=blocks)

    def _clean(self, noisy: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The past and what is known of the current chunk, every stream."""
        like = next(iter(noisy.values()))
        clean = {}
        for name, (channels, height, width) in self._wam.shapes.items():
            # Slots that nothing was put into belong to blocks that these tokens do not see.
            current = like.new_zeros(like.shape[0], channels, like.shape[2], height, width)
            if self._wam.conditions_on_first:
                if name not in self._past:
                    raise RuntimeError("a chunk begins with the observation: append it and advance(1) first")
                clean[name] = torch.cat([self._past[name][:, :, -1:], current[:, :, 1:]], 2)
                continue
            if name in self._chunk:
                current = self._chunk[name][0]
            clean[name] = torch.cat([self._past[name], current], 2) if name in self._past else current
        return clean

    def append(self, stream: str, clean: Tensor, *, predicted: bool) -> None:
        """See `RolloutSession.append`.

        Raises:
            ValueError: The stream is unknown, or the tensor is not one of its own.
            RuntimeError: Observed tokens of this chunk were appended before.
        """
        if stream not in self._wam.streams:
            raise ValueError(f"stream must be one of {list(self._wam.streams)}, got {stream!r}")
        batch, (channels, *size) = len(self._text), self._wam.shapes[stream]
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
            ValueError: Not just so many observed frames of every stream were appended.
        """
        if frames < 1:
            raise ValueError(f"advance needs at least one frame, got {frames}")
        held = {name: 0 if predicted else x.shape[2] for name, (x, predicted) in self._chunk.items()}
        if set(held) != set(self._wam.streams) or set(held.values()) != {frames}:
            raise ValueError(f"advance({frames}) needs so many observed frames of {self._wam.streams}; got {held}")
        for name, (x, _) in self._chunk.items():
            kept = name in self._past and not self._wam.conditions_on_first
            self._past[name] = torch.cat([self._past[name], x], 2) if kept else x
        self._chunk.clear()
        self._seen += frames
