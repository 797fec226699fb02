# SPDX-License-Identifier: Apache-2.0
"""Objectives by name."""

import importlib

from flashwam.distill.methods.base import Method, MethodOutput, NonFiniteError, StreamTerm
from flashwam.distill.methods.consistency import ConsistencyDistillation
from flashwam.distill.methods.flow_matching import FlowMatching

__all__ = [
    "METHODS",
    "ConsistencyDistillation",
    "FlowMatching",
    "Method",
    "MethodOutput",
    "NonFiniteError",
    "StreamTerm",
    "find_method",
]

METHODS: dict[str, type[Method]] = {
    "flow_matching": FlowMatching,
    "consistency": ConsistencyDistillation,
}


def find_method(name: str) -> type[Method]:
    """The class behind a recipe's `method`: a name in `METHODS` or an import path "package.module:Class".

    Raises:
        ValueError: for an unknown name, or a path that does not lead to a `Method`.
    """
    if name in METHODS:
        return METHODS[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(f"unknown method {name!r}; expected one of {sorted(METHODS)} or 'package.module:Class'")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"method {name!r} could not be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise ValueError(f"{name!r} must name a subclass of flashwam.distill.methods.Method; got {found!r}")
    return found
