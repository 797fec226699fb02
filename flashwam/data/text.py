# SPDX-License-Identifier: Apache-2.0
"""Text embeddings without any download: every word is hashed to a fixed vector of signs.

This is no language model: it only tells prompts apart. It has the shape of one, a row per word and an end mark after
the last, zero rows after that, so that a UMT5 embedding can take its place. The empty prompt is the end mark alone.
"""

import hashlib
import re

import torch
from torch import Tensor

__all__ = ["TEXT_LENGTH", "TEXT_WIDTH", "encode_text"]

TEXT_LENGTH = 8
TEXT_WIDTH = 32
_END = "</s>"


def _word_vector(word: str, width: int) -> list[float]:
    bits = "".join(
        f"{byte:08b}"
        for block in range(-(-width // 256))
        for byte in hashlib.sha256(f"{block} {word}".encode()).digest()
    )
    return [1.0 if bit == "1" else -1.0 for bit in bits[:width]]


def encode_text(prompt: str, *, length: int = TEXT_LENGTH, width: int = TEXT_WIDTH) -> Tensor:
    """Embeds a prompt: case and punctuation do not matter, words beyond `length` - 1 are cut off.

    Args:
        prompt: The instruction; "" gives the null embedding that guidance uses.
        length: Rows.
        width: Columns.

    Returns:
        float32 [length, width] of -1, 1, and zero rows after the end mark.
    """
    words = [*re.findall(r"[a-z0-9]+", prompt.lower())[: length - 1], _END]
    out = torch.zeros(length, width)
    out[: len(words)] = torch.tensor([_word_vector(word, width) for word in words])
    return out
