# SPDX-License-Identifier: Apache-2.0
"""The attention mask of the teacher-forced pass, and the token layout that follows from it.

A chunk is two blocks: its video (block 2c) and its actions (block 2c + 1). Noisy tokens see the clean past and their
own noisy block; clean tokens are block-causal and never see noise.

Shapes: F latent frames, S tokens of the pass, Q noisy tokens (they come first).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import gcd

import torch
from torch import Tensor
from torch.nn import functional

from flashwam.system.errors import InputError
from flashwam.wam.lingbot_va.flex import flex_attend
from flashwam.wam.lingbot_va.mask_rule import allowed

__all__ = ["ATTENTION_BACKENDS", "PassLayout", "allowed", "block_ids", "check_backend", "teacher_forced_layout"]

ATTENTION_BACKENDS = ("sdpa", "flex")
STREAM_OFFSET = {"video": 0, "action": 1}

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def block_ids(stream: str, frames: int, chunk_frames: int) -> Tensor:
    """Block id of every latent frame of a stream, int64 [F]."""
    return 2 * (torch.arange(frames) // chunk_frames) + STREAM_OFFSET[stream]


def check_backend(name: str) -> str:
    """Returns `name`, or refuses a backend that would drop the mask."""
    if name not in ATTENTION_BACKENDS:
        raise InputError(
            f"attention backend must be one of {', '.join(ATTENTION_BACKENDS)}, got {name!r}: "
            "a backend that cannot honour the block-causal mask is refused, training without it learns to cheat"
        )
    return name


@dataclass(frozen=True, slots=True, eq=False)
class PassLayout:
    """Tokens of one teacher-forced pass: noisy segments first, clean segments after, streams in order within both."""

    noisy: tuple[str, ...]
    """Streams with noisy tokens."""
    clean_frames: dict[str, int]
    """Leading latent frames of each stream kept as clean tokens; later ones are seen by no noisy token."""
    group: int
    """Consecutive tokens that surely share a latent frame (greatest common divisor of tokens per frame)."""
    noisy_tokens: int
    """Q."""
    attend: Attend
    """Masked attention of all S queries over all S keys; [B, heads, S, d] each."""
    attend_noisy: Attend
    """The same for the first Q queries alone."""


@lru_cache(maxsize=128)
def teacher_forced_layout(
    frames: int,
    *,
    tokens_per_frame: tuple[tuple[str, int], ...],
    noisy: tuple[str, ...],
    noisy_frames: int | None = None,
    chunk_frames: int,
    window: int,
    backend: str = "sdpa",
    device: torch.device | str = "cpu",
) -> PassLayout:
    """Lays out the tokens of a pass and builds its mask once.

    Clean blocks at or after the last noisy block are left out: no token that yields an output can see them, so outputs
    and gradients are the same without them.

    Args:
        frames: Latent frames F.
        tokens_per_frame: (stream, tokens per latent frame) in stream order.
        noisy: Streams whose noisy tokens take part.
        noisy_frames: They take part for so many last frames; all by default.
        chunk_frames: Latent frames per chunk.
        window: Reach of attention in blocks, see `mask_rule.allowed`.
        backend: "sdpa" (dense mask) or "flex" (block mask).
        device: Where the mask lives.

    Returns:
        The cached layout.
    """
    check_backend(backend)
    per_frame = dict(tokens_per_frame)
    ids = {stream: block_ids(stream, frames, chunk_frames) for stream in per_frame}
    last = max(int(ids[stream][-1]) for stream in noisy)
    clean_frames = {stream: int((block < last).sum()) for stream, block in ids.items()}

    first = 0 if noisy_frames is None else frames - noisy_frames
    noisy_ids = [ids[stream][first:].repeat_interleave(per_frame[stream]) for stream in noisy]
    clean_ids = [ids[stream][:kept].repeat_interleave(per_frame[stream]) for stream, kept in clean_frames.items()]
    block = torch.cat(noisy_ids + clean_ids)
    queries = sum(len(part) for part in noisy_ids)
    is_noisy = torch.arange(len(block)) < queries
    with torch.inference_mode(False):
        block, is_noisy = block.to(device), is_noisy.to(device)
        build = _dense_attention if backend == "sdpa" else flex_attend
        attend = build(block, is_noisy, window, len(block))
        attend_noisy = build(block, is_noisy, window, queries)
    return PassLayout(
        noisy=noisy,
        clean_frames=clean_frames,
        group=gcd(*per_frame.values()),
        noisy_tokens=queries,
        attend=attend,
        attend_noisy=attend_noisy,
    )


def _dense_attention(block: Tensor, is_noisy: Tensor, window: int, queries: int) -> Attend:
    """Scaled dot-product attention of the first `queries` tokens under the dense mask."""
    mask = allowed(block[:queries, None], is_noisy[:queries, None], block[None], is_noisy[None], window)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    return attend
