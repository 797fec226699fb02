# SPDX-License-Identifier: Apache-2.0
"""The numbers in which a rollout multiplies, by name."""

from typing import Literal, get_args

from flashwam.system.errors import InputError

__all__ = ["PRECISIONS", "Precision", "check_precision"]

Precision = Literal["own", "fp8"]
""""own": those of the model's weights; "fp8": 8-bit ones, see `flashwam.core.float8`."""
PRECISIONS = get_args(Precision)


def check_precision(name: str) -> None:
    """Checks a name.

    Raises:
        ValueError: It is none of a precision.
    """
    if name not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}; got {name!r}")
