# SPDX-License-Identifier: Apache-2.0
"""The dtypes in which a model is served, by name."""

import torch

from flashwam.system.errors import InputError

__all__ = ["DTYPES", "dtype_named"]

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def dtype_named(name: str) -> torch.dtype:
    """Finds a dtype.

    Raises:
        ValueError: Models are not served in it.
    """
    if name not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}; got {name!r}")
    return DTYPES[name]
