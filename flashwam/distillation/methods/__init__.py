# SPDX-License-Identifier: Apache-2.0
"""Objectives by name."""

import inspect
from collections.abc import Mapping

from flashwam.core.imports import find_class
from flashwam.core.streams import StreamSpec
from flashwam.distillation.methods.base import Method, MethodOutput, NonFiniteError, StreamTerm
from flashwam.distillation.methods.consistency import ConsistencyDistillation
from flashwam.distillation.methods.flow_matching import FlowMatching
from flashwam.distillation.methods.on_policy import OnPolicy
from flashwam.recipe import LoopConfig
from flashwam.wam.base import WorldActionModel

__all__ = [
    "METHODS",
    "ConsistencyDistillation",
    "FlowMatching",
    "Method",
    "MethodOutput",
    "NonFiniteError",
    "OnPolicy",
    "StreamTerm",
    "find_method",
    "make_method",
]

METHODS: dict[str, type[Method]] = {
    "flow_matching": FlowMatching,
    "consistency": ConsistencyDistillation,
    "on_policy": OnPolicy,
}


def find_method(name: str) -> type[Method]:
    """The class behind a recipe's `method`: a name in `METHODS` or an import path "package.module:Class".

    Raises:
        ValueError: for an unknown name, or a path that does not lead to a `Method`.
    """
    return find_class(name, Method, known=METHODS, what="method")


def make_method(
    loop: LoopConfig,
    streams: Mapping[str, StreamSpec],
    student: WorldActionModel,
    *,
    teacher: WorldActionModel | None = None,
) -> Method:
    """The method that a recipe's section asks for, with its options.

    Raises:
        ValueError: for an unknown method or option, naming those there are.
    """
    kind = find_method(loop.method)
    options = dict(loop.options)
    known = set(inspect.signature(kind).parameters) - {"streams", "student", "teacher", "keep_target"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ValueError(f"method {loop.method!r} has no options {unknown}; expected any of {sorted(known)}")
    return kind(streams, student, teacher=teacher, keep_target=loop.save_weights == "target", **options)
