# SPDX-License-Identifier: Apache-2.0
"""Text embeddings without any download: every word is hashed to a fixed vector of signs.

This is no language model: it only tells prompts apart. It has the shape of one, a row per word and an end mark after
the last, zero rows after that, so that a UMT5 embedding can take its place. The empty prompt is the end mark alone.
"""

import hashlib
import logging
import re

import torch
from torch import Tensor

__all__ = ["TEXT_LENGTH", "TEXT_WIDTH", "encode_text", "say_cut"]

logger = logging.getLogger(__name__)

TEXT_LENGTH = 8
TEXT_WIDTH = 32
_END = "</s>"
_WORD = re.compile(r"[^\W_]+")
"""Letters and digits of any script."""
_MOST_SAID = 10_000
_said: set[bytes] = set()


def say_cut(prompt: str, *, has: int, used: int) -> None:
    """Warns, once per prompt and process, that a text encoder takes no more than the beginning of a prompt.

    Args:
        prompt: As it was given.
        has: Its tokens.
        used: How many of them are encoded; nothing is said where that is all.
    """
    if has <= used:
        return
    key = hashlib.sha256(f"{has} {used} {prompt}".encode("utf-8", "replace")).digest()
    if key in _said:
        return
    if len(_said) >= _MOST_SAID:
        _said.clear()
    _said.add(key)
    logger.warning(
        "a prompt has %d tokens and the text encoder takes %d: the rest is cut off, and prompts that differ only there "
        "are one to the model (%r)",
        has,
        used,
        prompt if len(prompt) <= 60 else f"{prompt[:60]}...",
    )


def _word_vector(word: str, width: int) -> list[float]:
    bits = "".join(
        f"{byte:08b}"
        for block in range(-(-width // 256))
        for byte in hashlib.sha256(f"{block} {word}".encode()).digest()
    )
    return [1.0 if bit == "1" else -1.0 for bit in bits[:width]]


def encode_text(prompt: str, *, length: int = TEXT_LENGTH, width: int = TEXT_WIDTH) -> Tensor:
    """Embeds a prompt: case and punctuation do not matter. Where it has more words than `length` - 1, the last of these
    rows stands for all the rest together, so that no two prompts become one.

    Args:
        prompt: The instruction; "" gives the null embedding that guidance uses.
        length: Rows.
        width: Columns.

    Returns:
        float32 [length, width] of -1, 1, and zero rows after the end mark.
    """
    words = _WORD.findall(prompt.lower())
    if len(words) > length - 1:
        words[length - 2 :] = [" ".join(words[length - 2 :])]
    words.append(_END)
    out = torch.zeros(length, width)
    out[: len(words)] = torch.tensor([_word_vector(word, width) for word in words])
    return out
