# SPDX-License-Identifier: Apache-2.0
"""Durations in words."""

__all__ = ["duration_text"]


def duration_text(seconds: float) -> str:
    """A duration as it is spoken of."""
    if seconds < 90:
        return f"about {seconds:.0f} s"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h"
