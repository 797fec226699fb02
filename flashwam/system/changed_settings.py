# SPDX-License-Identifier: Apache-2.0
"""Settings that something on disk was made with, compared with those that are asked for now."""

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["changed_settings"]


def changed_settings(noted: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Tells in words what is asked for otherwise than was noted: "seed: 0 there, 4 now; ..."; empty where nothing is.

    Args:
        noted: As read from JSON; what it does not tell is unknown, and no change.
        asked: Values that JSON can hold.
    """
    now = json.loads(json.dumps(asked))
    return "; ".join(
        f"{key}: {noted[key]!r} there, {value!r} now"
        for key, value in now.items()
        if key in noted and noted[key] != value
    )
