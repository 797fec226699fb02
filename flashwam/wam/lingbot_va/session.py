# SPDX-License-Identifier: Apache-2.0
"""Cached rollout of B episodes in lock-step.

Shapes: B episodes, C channels, F latent frames, H, W the rest of a stream's tokens, L text tokens, D text width.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from flashwam.wam.base import RolloutSession
from flashwam.wam.lingbot_va.cache import BlockCache
from flashwam.wam.lingbot_va.masks import STREAM_OFFSET
from flashwam.wam.lingbot_va.patches import keep_used
from flashwam.wam.lingbot_va.transformer import WanTransformer3DModel

__all__ = ["LingBotSession"]


class LingBotSession(RolloutSession):
    """What the masked pass computes, one chunk at a time.

    A stream whose guidance scale is not 1 runs every row twice, with and without text; both halves have their own
    past in the cache. Everything runs without gradients.

    Args:
        transformer: The network.
        text: Text embeddings, [B, L, D].
        null_text: Embedding of the empty prompt, [L, D]; needed where a guidance scale is not 1.
        guidance: Stream name -> scale w of v = v_null + w (v_text - v_null); 1 where absent.
        window: Reach of attention in blocks, as in the training mask.
        used_channels: See `LingBotConfig`.
    """

    def __init__(
        self,
        transformer: WanTransformer3DModel,
        text: Tensor,
        *,
        null_text: Tensor | None = None,
        guidance: Mapping[str, float] | None = None,
        window: int,
        used_channels: tuple[int, ...] | None = None,
    ) -> None:
        guidance = dict(guidance or {})
        unknown = set(guidance) - set(STREAM_OFFSET)
        if unknown:
            raise ValueError(f"guidance names unknown streams {sorted(unknown)}; streams are {sorted(STREAM_OFFSET)}")
        self.guidance = {stream: float(guidance.get(stream, 1.0)) for stream in STREAM_OFFSET}
        guided = any(scale != 1.0 for scale in self.guidance.values())
        if guided and null_text is None:
            raise ValueError(f"guidance {guidance} needs null_text, the embedding of the empty prompt, [L, D]")
        if guided and null_text.shape != text.shape[1:]:
            raise ValueError(f"null_text must be {tuple(text.shape[1:])} as text is, got {tuple(null_text.shape)}")
        self.frame_index = 0
        self._transformer = transformer
        self._used_channels = used_channels
        self._batch = text.shape[0]
        self._chunk = 0
        self._observed: dict[str, int] = {}
        with torch.no_grad():
            if guided:
                text = torch.cat([text, null_text.to(text).expand(self._batch, -1, -1)])
            self._text = transformer.text_key_value(text)
        config = transformer.config
        self._cache = BlockCache(
            config.num_layers,
            text.shape[0],
            heads=config.num_attention_heads,
            head_dim=config.attention_head_dim,
            window=window,
            dtype=self._text[0][0].dtype,
            device=self._text[0][0].device,
        )

    @property
    def blocks(self) -> tuple[tuple[int, int, bool], ...]:
        """(block id, tokens, predicted) of everything in the cache, oldest first."""
        return tuple((block.index, block.end - block.begin, block.predicted) for block in self._cache.blocks)

    @torch.no_grad()
    def velocity(self, stream: str, noisy: Tensor, sigma: Tensor) -> Tensor:
        """See `RolloutSession.velocity`."""
        self._check(stream, noisy)
        noisy = keep_used(stream, noisy, self._used_channels)
        scale = self.guidance[stream]
        if scale == 1.0:
            return self._velocity(stream, noisy, sigma, rows=self._batch)
        both = self._velocity(stream, _twice(noisy), _twice(sigma), rows=2 * self._batch)
        with_text, without = both.chunk(2)
        return torch.lerp(without, with_text, scale)

    @torch.no_grad()
    def append(self, stream: str, clean: Tensor, *, predicted: bool, sigma: Tensor | None = None) -> None:
        """See `RolloutSession.append`; `sigma` [B, F] is the level these tokens are embedded at, 0 by default."""
        self._check(stream, clean)
        clean = keep_used(stream, clean, self._used_channels)
        if not predicted and self._cache.has_predicted:
            raise RuntimeError("the cache holds predicted tokens: call drop_predicted() before observed ones")
        if not predicted and stream in self._observed:
            raise RuntimeError(f"{stream} of this chunk was appended already: call advance(frames) first")
        if sigma is None:
            sigma = clean.new_zeros(self._batch, clean.shape[2], dtype=torch.float32)
        if self._text[0][0].shape[0] > self._batch:
            clean, sigma = _twice(clean), _twice(sigma)
        index = self._open(stream, clean, rows=clean.shape[0])
        self._transformer.cached_append(
            stream, clean, 1000.0 * sigma, text=self._text, start=self.frame_index, cache=self._cache
        )
        self._cache.close(index, predicted=predicted)
        if not predicted:
            self._observed[stream] = clean.shape[2]

    def drop_predicted(self) -> None:
        """See `RolloutSession.drop_predicted`."""
        self._cache.drop_predicted()

    def advance(self, frames: int) -> None:
        """See `RolloutSession.advance`."""
        wrong = {stream: held for stream, held in self._observed.items() if held != frames}
        if wrong or frames < 1:
            raise ValueError(f"advance({frames}) does not fit the latent frames appended in this chunk: {wrong}")
        self.frame_index += frames
        self._chunk += 1
        self._observed.clear()
        self._cache.forget(2 * self._chunk)

    def _velocity(self, stream: str, noisy: Tensor, sigma: Tensor, *, rows: int) -> Tensor:
        self._open(stream, noisy, rows=rows)
        text = self._text
        if rows < text[0][0].shape[0]:
            text = [(k[:rows], v[:rows]) for k, v in text]
        return self._transformer.cached_velocity(
            stream, noisy, 1000.0 * sigma, text=text, start=self.frame_index, cache=self._cache
        )

    def _open(self, stream: str, x: Tensor, *, rows: int) -> int:
        index = 2 * self._chunk + STREAM_OFFSET[stream]
        tokens = x.shape[2] * self._transformer.tokens_per_frame(stream, x)
        self._cache.open(index, tokens, rows=rows)
        return index

    def _check(self, stream: str, x: Tensor) -> None:
        if stream not in STREAM_OFFSET:
            raise ValueError(f"stream must be one of {sorted(STREAM_OFFSET)}, got {stream!r}")
        if x.shape[0] != self._batch:
            raise ValueError(f"this session runs {self._batch} episodes in lock-step, got a batch of {x.shape[0]}")


def _twice(x: Tensor) -> Tensor:
    return torch.cat([x, x])
