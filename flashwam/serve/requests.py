# SPDX-License-Identifier: Apache-2.0
"""Fields of a session's requests, which may hold anything before they are read here."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flashwam.serve.codec import Observation

__all__ = ["flag", "frames_under_way", "observations_in"]


def flag(request: Mapping[str, Any], key: str) -> bool:
    """Reads whether a request is of a kind; False where it does not say.

    Raises:
        ValueError: It says neither true nor false.
    """
    value = request.get(key, False)
    if not isinstance(value, (bool, int, np.bool_, np.integer, type(None))):
        raise ValueError(f"{key} must be true or false; got {type(value).__name__}")
    return bool(value)


def frames_under_way(value: Any) -> int:
    """Reads a number of latent frames that are still to be executed.

    Raises:
        ValueError: It is no whole number of at least 0.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise ValueError(f"under_way must be a number of latent frames, 0 or more; got {type(value).__name__}")
    return int(value)


def observations_in(observations: Any, *, some: bool = True) -> Sequence[Observation]:
    """Reads the observations of a request.

    Args:
        observations: Whatever it has for them.
        some: Refuse a list of none.

    Raises:
        ValueError: They are no maps in a list.
    """
    if (
        not isinstance(observations, list)
        or (some and not observations)
        or not all(isinstance(o, dict) for o in observations)
    ):
        raise ValueError("observations must be maps from camera to picture, in a list where there are several")
    return observations
