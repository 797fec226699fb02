# SPDX-License-Identifier: Apache-2.0
"""UMT5 embeddings of prompts.

A prompt is encoded alone, without padding, so that no convention for masks matters.

Letters: L rows, D width.
"""

import html
import re
from pathlib import Path

import torch
from torch import Tensor

from flashwam.system.errors import MissingPackageError
from flashwam.system.paths import user_path
from flashwam.wam import t5

__all__ = ["LENGTH", "TOKENIZER", "Umt5", "clean_prompt"]

LENGTH = 512
"""Rows of an embedding; those after the prompt's end are zero."""
TOKENIZER = ("tokenizer.json",)


def clean_prompt(prompt: str) -> str:
    """Broken unicode mended, HTML entities resolved twice, white space collapsed: what the text encoder is given."""
    try:
        import ftfy
    except ImportError as error:
        raise MissingPackageError("prompts are cleaned with ftfy: pip install 'flashwam[lingbot]'") from error
    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(prompt)))).strip()


class Umt5:
    """Tokenizer and encoder of a checkpoint.

    Args:
        checkpoint: Holds ``text_encoder/`` and ``tokenizer/tokenizer.json``.
        dtype: Of the parameters. Not float16, in which UMT5 overflows.
        device: Where the encoder runs.
        length: Rows of an embedding.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The files are not those of a UMT5 encoder and its tokenizer.
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
        checkpoint = user_path(checkpoint)
        self.length = length
        self.model = t5.load_encoder(checkpoint / "text_encoder", kind="umt5", dtype=dtype, device=device)
        path = t5.tokenizer_file(checkpoint / "tokenizer", TOKENIZER)
        self._tokenizer = t5.load_tokenizer(path, self.model.config)

    def tokens(self, prompt: str) -> list[int]:
        """Token ids of a cleaned prompt, the end mark last, at most `length`."""
        return t5.token_ids(self._tokenizer, prompt, length=self.length)

    def count(self, prompt: str) -> int:
        """Tokens of a prompt, the end mark among them, before it is cut."""
        return len(self._tokenizer.encode(prompt).ids)

    @torch.no_grad()
    def encode(self, prompt: str) -> Tensor:
        """A cleaned prompt -> [L, D] in the encoder's dtype, on the CPU; rows after the end mark are zero."""
        ids = torch.tensor([self.tokens(prompt)], device=self.model.shared.weight.device)
        rows = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].cpu()
        return torch.cat([rows, rows.new_zeros(self.length - rows.shape[0], rows.shape[1])])
