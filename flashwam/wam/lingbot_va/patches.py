# SPDX-License-Identifier: Apache-2.0
"""Stream tensors to tokens and back.

Shapes: B batch, C channels, F latent frames, h, w tokens per column and row, p, q latent rows and columns per token,
A action channels, N actions per frame.
"""

from functools import lru_cache

import torch
from torch import Tensor

from flashwam.system.errors import InputError

__all__ = ["action_tokens", "action_untokens", "keep_used", "patchify", "unpatchify"]


def patchify(x: Tensor, patch: tuple[int, int]) -> Tensor:
    """Latents [B, C, F, h p, w q] to tokens [B, F h w, C p q]; channels vary slowest within a token."""
    if x.shape[3] % patch[0] or x.shape[4] % patch[1]:
        raise InputError(f"latent size {tuple(x.shape[3:])} must be a multiple of the patch {patch}")
    x = x.unflatten(4, (-1, patch[1])).unflatten(3, (-1, patch[0]))
    return x.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3)


def unpatchify(tokens: Tensor, size: tuple[int, int, int], patch: tuple[int, int]) -> Tensor:
    """Head outputs [B, F h w, p q C] of size (F, h, w) to latents [B, C, F, h p, w q]; channels vary fastest."""
    x = tokens.unflatten(2, (*patch, -1)).unflatten(1, size)
    return x.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)


def action_tokens(x: Tensor) -> Tensor:
    """Actions [B, A, F, N, 1] to tokens [B, F N, A]."""
    return x.flatten(2).transpose(1, 2)


def action_untokens(tokens: Tensor, frames: int) -> Tensor:
    """Head outputs [B, F N, A] to actions [B, A, F, N, 1]."""
    return tokens.transpose(1, 2).unflatten(2, (frames, -1)).unsqueeze(-1)


def keep_used(stream: str, x: Tensor, channels: tuple[int, ...] | None) -> Tensor:
    """Zeroes the action channels [B, A, F, N, 1] that no control goes to; other streams, and None, stay as they are."""
    if channels is None or stream != "action":
        return x
    return x * _mask(channels, x.shape[1], x.dtype, x.device)


@lru_cache
def _mask(channels: tuple[int, ...], count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """1 on the channels, [A, 1, 1, 1]; kept, since making it on a GPU would wait for the GPU."""
    # Not of the inference mode of whoever asks first.
    with torch.inference_mode(False):
        mask = torch.zeros(count, 1, 1, 1, dtype=dtype)
        mask[list(channels)] = 1
        return mask.to(device)
