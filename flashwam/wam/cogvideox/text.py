# SPDX-License-Identifier: Apache-2.0
"""T5 embeddings of prompts, padded as CogVideoX was trained: without a mask, so the padding is attended to.

Letters: L rows, D width.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashwam.system.paths import user_path
from flashwam.wam import t5
from flashwam.wam.prompts import PromptCache

__all__ = ["LENGTH", "T5", "T5Prompts"]

LENGTH = 226
"""Tokens of a prompt with its padding, and rows of an embedding."""


class T5:
    """Tokenizer and encoder of a checkpoint, loaded for the first prompt that needs them.

    Args:
        checkpoint: Holds ``text_encoder/`` and ``tokenizer/``.
        dtype: Of the parameters. Not float16, in which T5 overflows.
        device: Where the encoder runs.
        length: Rows of an embedding.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The files are not those of a T5 encoder and its tokenizer.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
        length: int = LENGTH,
    ) -> None:
        t5.check_dtype(dtype)
        self.length = length
        self._folder, self._dtype, self._device = user_path(checkpoint), dtype, device
        self._width = int(t5.read_text_config(self._folder / "text_encoder", kind="t5")["d_model"])

    @cached_property
    def model(self) -> Any:
        """transformers' encoder."""
        return t5.load_encoder(self._folder / "text_encoder", kind="t5", dtype=self._dtype, device=self._device)

    @cached_property
    def _tokenizer(self) -> Any:
        path = t5.tokenizer_file(self._folder / "tokenizer")
        return t5.load_tokenizer(path, self.model.config)

    def tokens(self, prompt: str) -> list[int]:
        """Token ids of a prompt, the end mark and the padding behind them: as many as `length`."""
        ids = t5.token_ids(self._tokenizer, prompt, length=self.length)
        return ids + [self.model.config.pad_token_id] * (self.length - len(ids))

    def count(self, prompt: str) -> int:
        """Tokens of a prompt, the end mark among them, before it is cut."""
        return len(self._tokenizer.encode(prompt).ids)

    @torch.no_grad()
    def encode(self, prompt: str) -> Tensor:
        """prompt -> [L, D] in the encoder's dtype, on the CPU; "" -> zeros, which text was dropped to in training."""
        if not prompt:
            return torch.zeros(self.length, self._width, dtype=self._dtype)
        ids = torch.tensor([self.tokens(prompt)], device=self.model.shared.weight.device)
        return self.model(input_ids=ids).last_hidden_state[0].cpu()


class T5Prompts(PromptCache):
    """See `PromptCache`; the encoder is a `T5`."""

    tokenizers = ("tokenizer.json", "spiece.model")
    rows = LENGTH

    @staticmethod
    def clean(prompt: str) -> str:
        """See `PromptCache.clean`; only what surrounds a prompt is left out."""
        return prompt.strip()

    def load(self, checkpoint: Path, *, dtype: torch.dtype, device: torch.device | str, length: int) -> T5:
        """See `PromptCache.load`."""
        return T5(checkpoint, dtype=dtype, device=device, length=length)
