# SPDX-License-Identifier: Apache-2.0
"""Classes named in a recipe: a short name, or an import path "package.module:Class"."""

import importlib
from collections.abc import Mapping

__all__ = ["find_class"]


def find_class(name: str, base: type, *, known: Mapping[str, type | str], what: str) -> type:
    """The subclass of `base` that `name` stands for.

    Args:
        name: A key of `known`, or "package.module:Class".
        base: What the class must derive from.
        known: Short name -> class or import path.
        what: What it is, for error messages, such as "method".

    Raises:
        ValueError: for an unknown name, an import that fails, or something that is no subclass of `base`.
    """
    found = known.get(name, name)
    if isinstance(found, type):
        return found
    module, colon, attribute = found.partition(":")
    if not colon:
        raise ValueError(f"unknown {what} {name!r}; expected one of {sorted(known)} or 'package.module:Class'")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{what} {name!r} could not be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(f"{what} {name!r} must be a subclass of {base.__module__}.{base.__name__}; got {found!r}")
    return found
