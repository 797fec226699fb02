# SPDX-License-Identifier: Apache-2.0
"""Types of a class's fields, resolved once: a recipe asks for the same few hundreds of times."""

import functools
from types import MappingProxyType
from typing import Any, get_type_hints

__all__ = ["field_types"]


@functools.cache
def field_types(kind: type, *, extras: bool = False) -> MappingProxyType[str, Any]:
    """Resolves the annotations of a class: name of a field -> its type.

    Args:
        kind: A class.
        extras: Keep what `Annotated` adds to a type.
    """
    return MappingProxyType(get_type_hints(kind, include_extras=extras))
