# SPDX-License-Identifier: Apache-2.0
"""The measures that say which of two models is better."""

from flashwam.system.errors import InputError

__all__ = ["FEWEST_DRAWS", "check_measure", "is_better"]

FEWEST_DRAWS = 8
"""Draws of one window that tell whether they take several ways."""

_LEAST = ("_error_teacher", "_error_expert", "_error_recorded", "_between")
_MOST = ("success", "same_way")
_ONE = ("_variance_ratio", "_sharpness_ratio")


def check_measure(name: str) -> None:
    """Refuses a measure that does not say which of two models is better.

    Raises:
        ValueError: It does not.
    """
    if not name.endswith((*_LEAST, *_MOST, *_ONE)):
        raise InputError(
            f"a measure by which one model is better than another: one that ends in {', '.join(_LEAST)} (least is "
            f"best), {', '.join(_MOST)} (most) or {', '.join(_ONE)} (nearest to 1), such as all_error_teacher"
        )


def is_better(name: str, value: float, than: float) -> bool:
    """Tells whether a value of a measure is better than another; equal ones are not.

    Args:
        name: One that `check_measure` takes.
        value: The value.
        than: The other.
    """
    if name.endswith(_LEAST):
        return value < than
    return value > than if name.endswith(_MOST) else abs(value - 1) < abs(than - 1)
