# SPDX-License-Identifier: Apache-2.0
"""The rule of the teacher-forced pass: which tokens see which."""

from torch import Tensor

__all__ = ["allowed"]


def allowed(q_block: Tensor, q_noisy: Tensor, k_block: Tensor, k_noisy: Tensor, window: int | Tensor) -> Tensor:
    """The one mask rule; arguments broadcast against each other.

    Args:
        q_block: Block id of the query, int.
        q_noisy: Whether the query is a noisy token, bool.
        k_block: Block id of the key, int.
        k_noisy: Whether the key is a noisy token, bool.
        window: Largest distance in blocks (two blocks a chunk) that attention reaches back.

    Returns:
        Bool, True where the query sees the key.
    """
    clean_to_clean = ~q_noisy & ~k_noisy & (k_block <= q_block)
    noisy_to_clean = q_noisy & ~k_noisy & (k_block < q_block)
    noisy_to_noisy = q_noisy & k_noisy & (k_block == q_block)
    near = (q_block - k_block).abs() <= window
    return near & (clean_to_clean | noisy_to_clean | noisy_to_noisy)
