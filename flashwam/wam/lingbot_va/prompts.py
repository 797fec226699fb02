# SPDX-License-Identifier: Apache-2.0
"""Prompts embedded by UMT5, kept on disk."""

from pathlib import Path

import torch

from flashwam.wam.lingbot_va.text import LENGTH, TOKENIZER, Umt5, clean_prompt
from flashwam.wam.prompts import PromptCache

__all__ = ["PromptEncoder"]


class PromptEncoder(PromptCache):
    """See `PromptCache`; the encoder is a `Umt5`."""

    tokenizers = TOKENIZER
    rows = LENGTH

    @staticmethod
    def clean(prompt: str) -> str:
        """See `PromptCache.clean`."""
        return clean_prompt(prompt)

    def load(self, checkpoint: Path, *, dtype: torch.dtype, device: torch.device | str, length: int) -> Umt5:
        """See `PromptCache.load`."""
        return Umt5(checkpoint, dtype=dtype, device=device, length=length)
