# SPDX-License-Identifier: Apache-2.0
"""Rollout of B episodes in lock-step by a model whose only past is the last frame it saw.

Shapes: B episodes, C channels, F latent frames, L text tokens, D text width.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flashwam.wam.base import RolloutSession
from flashwam.wam.guidance import guided_velocity

if TYPE_CHECKING:
    from flashwam.wam.cogvideox.wam import CogVideoX

__all__ = ["CogVideoXSession"]


class CogVideoXSession(RolloutSession):
    """Video and actions of a chunk are drawn together, given the latent of the current frame.

    That latent is appended first; after a chunk, what was seen is appended and its last frame is the next chunk's
    observation. Nothing older is kept, and actions leave no trace.

    Args:
        wam: The model.
        text: [B, L, D].
        null_text: Embedding of the empty prompt, [L, D]; needed where a guidance scale is not 1.
        guidance: Stream name -> scale w of v_null + w (v_text - v_null); 1 where absent.

    Raises:
        ValueError: guidance names unknown streams, or lacks a fitting `null_text`.
    """

    def __init__(
        self,
        wam: "CogVideoX",
        text: Tensor,
        *,
        null_text: Tensor | None = None,
        guidance: Mapping[str, float] | None = None,
    ) -> None:
        guidance = dict(guidance or {})
        unknown = set(guidance) - set(wam.streams)
        if unknown:
            raise ValueError(f"guidance names unknown streams {sorted(unknown)}; streams are {sorted(wam.streams)}")
        guided = any(scale != 1 for scale in guidance.values())
        if guided and null_text is None:
            raise ValueError(f"guidance {guidance} needs null_text, the embedding of the empty prompt, [L, D]")
        if guided and null_text.shape != text.shape[1:]:
            raise ValueError(f"null_text must be {tuple(text.shape[1:])} as text is, got {tuple(null_text.shape)}")
        self.frame_index = 0
        self.guidance = guidance
        self._wam = wam
        self._text = text
        # Without guidance it is not looked at.
        self._null_text = text[0] if null_text is None else null_text.to(text)
        self._observation: Tensor | None = None
        self._imagined: Tensor | None = None
        # Whether the observation is newer than the last chunk drawn.
        self._renewed = False

    @torch.no_grad()
    def velocity(self, noisy: Mapping[str, Tensor], sigma: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Guided velocities of the current chunk, of all streams in one forward.

        Args:
            noisy: Stream name -> [B, C, F, H, W].
            sigma: Stream name -> [B, F], constant over F.

        Raises:
            RuntimeError: Nothing was observed yet.
        """
        return guided_velocity(
            self._wam,
            noisy,
            sigma,
            self._clean(noisy),
            text=self._text,
            null_text=self._null_text,
            scales=self.guidance,
            together_with=self._wam.whole_stages,
        )

    @torch.no_grad()
    def features(self, noisy: Mapping[str, Tensor], sigma: Mapping[str, Tensor], *, blocks: Sequence[int]) -> Tensor:
        """See `RolloutSession.features`; needs both streams.

        Raises:
            RuntimeError: Nothing was observed yet.
        """
        return self._wam.features(noisy, sigma, self._clean(noisy), {"text": self._text}, blocks=blocks)

    def _clean(self, noisy: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The observation in the place of the chunk's first frame."""
        if self._observation is None:
            raise RuntimeError("nothing was observed: append('video', latent of the current frame, predicted=False)")
        self._renewed = False
        clean = {stream: torch.zeros_like(x) for stream, x in noisy.items()}
        if "video" in clean:
            clean["video"][:, :, 0] = self._observation
        return clean

    def append(self, stream: str, clean: Tensor, *, predicted: bool) -> None:
        """Takes tokens [B, C, F, H, W] of the current chunk; of video the last frame counts, of actions nothing.

        Raises:
            ValueError: The stream is unknown, or the tensor is not one of its own.
        """
        if stream not in self._wam.streams:
            raise ValueError(f"stream must be one of {sorted(self._wam.streams)}, got {stream!r}")
        channels, height, width = self._wam.shapes[stream]
        fits = clean.ndim == 5 and clean.shape[2] > 0
        if not fits or (clean.shape[0], clean.shape[1], *clean.shape[3:]) != (len(self._text), channels, height, width):
            expected = f"[{len(self._text)}, {channels}, frames, {height}, {width}]"
            raise ValueError(f"{stream} must be {expected}, got {tuple(clean.shape)}")
        if stream != "video":
            return
        if predicted:
            self._imagined = clean[:, :, -1].clone()
        else:
            self._observation, self._imagined, self._renewed = clean[:, :, -1].clone(), None, True

    def drop_predicted(self) -> None:
        """See `RolloutSession.drop_predicted`."""
        self._imagined = None

    def advance(self, frames: int) -> None:
        """Moves on by `frames` latent frames; without observed video, to the last predicted one.

        Raises:
            ValueError: No video of this chunk was appended, or `frames` is below 1.
        """
        if frames < 1:
            raise ValueError(f"advance needs at least one frame, got {frames}")
        if not self._renewed:
            if self._imagined is None:
                raise ValueError(f"advance({frames}) needs video of this chunk: append it first")
            self._observation = self._imagined
        self._imagined, self._renewed = None, False
        self.frame_index += frames
