# SPDX-License-Identifier: Apache-2.0
"""Messages of one protocol at a server that speaks the other: told from what is merely incomplete."""

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["refuse_lingbot_va", "refuse_openpi"]

_LINGBOT_VA = ("reset", "obs", "compute_kv_cache", "look")


def refuse_openpi(request: Mapping[Any, Any]) -> None:
    """Refuses an observation with its prompt, where LingBot-VA's requests are expected.

    Args:
        request: One that cannot be answered, such as a first one that begins no episode.

    Raises:
        ValueError: It is openpi's.
    """
    pictures = (isinstance(value, np.ndarray) and value.ndim == 3 for value in request.values())
    if "obs" not in request and isinstance(request.get("prompt"), str) and any(pictures):
        raise ValueError(
            "this is a message of openpi's protocol, and the server speaks LingBot-VA's: serve with --protocol openpi"
        )


def refuse_lingbot_va(request: Mapping[Any, Any]) -> None:
    """Refuses a request of LingBot-VA's protocol, where an observation of openpi's is expected.

    Args:
        request: One that lacks a picture.

    Raises:
        ValueError: It is LingBot-VA's.
    """
    if any(key in request for key in _LINGBOT_VA):
        raise ValueError(
            "this is a message of LingBot-VA's protocol, and the server speaks openpi's: serve without --protocol "
            "openpi"
        )
