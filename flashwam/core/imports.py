# SPDX-License-Identifier: Apache-2.0
"""Names that users give: classes by a short name or an import path "package.module:Class", and keywords."""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

__all__ = ["check_keywords", "find_class"]


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


def check_keywords(at: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Refuses keywords that are not known.

    Args:
        at: Where they were given, for the message.
        given: Their names.
        known: Names there are.

    Raises:
        ValueError: naming the nearest known one.
    """
    for key in given:
        if key not in known:
            near = get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{at}.{key}: unknown key{hint}; it takes {', '.join(known) or 'none'}")
