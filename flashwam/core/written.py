# SPDX-License-Identifier: Apache-2.0
"""Rows of a text embedding that hold text, and those that fill it up.

Letters: B samples, L text tokens, D text width.
"""

from torch import Tensor

__all__ = ["mean_of_written", "written_rows"]


def written_rows(text: Tensor) -> Tensor:
    """Tells tokens from padding: rows of zeros are no tokens, but the first row always is one.

    Args:
        text: [B, L, D].

    Returns:
        bool [B, L].
    """
    written = (text != 0).any(-1)
    written[:, 0] = True
    return written


def mean_of_written(text: Tensor) -> Tensor:
    """The mean of the tokens alone, the same however long the padding is: [B, L, D] -> [B, D]."""
    written = written_rows(text)[..., None].to(text.dtype)
    return (text * written).sum(1) / written.sum(1)
