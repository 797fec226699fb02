# SPDX-License-Identifier: Apache-2.0
"""Objectives by name, one class each.

A part of distillation.
"""

import inspect
import logging
from collections.abc import Mapping

from flashwam.core.streams import StreamSpec
from flashwam.distillation.adapted_model import adapted
from flashwam.distillation.adapters import STUDENT, Adapters
from flashwam.distillation.methods.base import Method, MethodOutput, NonFiniteError, StreamTerm
from flashwam.distillation.methods.consistency import ConsistencyDistillation
from flashwam.distillation.methods.distribution_matching import DistributionMatching
from flashwam.distillation.methods.flow_matching import FlowMatching
from flashwam.distillation.methods.on_policy import OnPolicy
from flashwam.distillation.methods.options import refuse_unread
from flashwam.distillation.methods.pairs import Pairs
from flashwam.distillation.methods.values import check_each
from flashwam.recipe.sections import LoopConfig, Recipe
from flashwam.system.errors import InputError
from flashwam.system.imports import find_class
from flashwam.wam.base import WorldActionModel

__all__ = [
    "METHODS",
    "ConsistencyDistillation",
    "DistributionMatching",
    "FlowMatching",
    "Method",
    "MethodOutput",
    "NonFiniteError",
    "OnPolicy",
    "Pairs",
    "StreamTerm",
    "check_adapters",
    "check_options",
    "check_streams",
    "find_method",
    "make_method",
]

logger = logging.getLogger(__name__)

METHODS: dict[str, type[Method] | str] = {
    "flow_matching": FlowMatching,
    "consistency": ConsistencyDistillation,
    "on_policy": OnPolicy,
    "pairs": Pairs,
    "distribution_matching": DistributionMatching,
    "foresight": "flashwam.foresight.method:Foresight",
    "masked_reconstruction": "flashwam.swiftvla.method:MaskedReconstruction",
}
"""Short name -> class, or the import path of one that stands above the engine and is imported when it is asked for."""


def find_method(name: str) -> type[Method]:
    """The class behind a recipe's `method`: a name in `METHODS` or an import path "package.module:Class".

    Raises:
        ValueError: for an unknown name, or a path that does not lead to a `Method`.
    """
    return find_class(name, Method, known=METHODS, what="method")


def check_streams(recipe: Recipe, loop: LoopConfig) -> None:
    """Refuses per-stream choices of a recipe that nothing of it reads, and warns of a guided teacher that is distilled
    without guidance.

    Args:
        recipe: The recipe.
        loop: The section that is to be run; what a distillation reads may stand there while the teacher is trained.

    Raises:
        ValueError: A stream chooses what the method does not know; or a method is unknown.
    """
    loops = [loop] if recipe.distill is None or loop is recipe.distill else [loop, recipe.distill]
    _warn_of_unguided(recipe.streams, find_method(loop.method), recipe.name)
    refuse_unread(recipe.streams, [find_method(each.method).choices_of for each in loops], method=loop.method)


def _warn_of_unguided(streams: Mapping[str, StreamSpec], kind: type[Method], recipe: str) -> None:
    for name, spec in streams.items():
        scale = spec.guidance_scale
        if scale != 1 and spec.weight > 0 and spec.guidance is None and "guidance" in (kind.choices_of(spec) or ()):
            logger.warning(
                "recipe %r: the teacher is driven at streams.%s.guidance_scale=%g and distilled without guidance; to "
                "distil it as it is driven, set streams.%s.guidance=[%g,%g]",
                *(recipe, name, scale, name, scale, scale),
            )


def check_options(loop: LoopConfig) -> None:
    """Refuses options that a section's method does not have.

    Raises:
        ValueError: for an unknown method or option, naming those there are.
    """
    known = set(inspect.signature(find_method(loop.method)).parameters)
    known -= {"streams", "student", "teacher", "keep_target"}
    unknown = sorted(set(loop.options) - known)
    if unknown:
        raise InputError(f"method {loop.method!r} has no options {unknown}; expected any of {sorted(known)}")


def check_adapters(loop: LoopConfig) -> None:
    """Refuses low-rank adapters for a method that trains whole weights.

    Raises:
        ValueError: The section asks for them; or the method is unknown.
    """
    if loop.lora is not None and not find_method(loop.method).takes_adapters:
        raise InputError(
            f"method {loop.method!r} trains whole weights, of a model of its own that low-rank adapters do not fit: "
            "leave lora out, or set it to null"
        )


def make_method(
    loop: LoopConfig,
    streams: Mapping[str, StreamSpec],
    student: WorldActionModel,
    *,
    teacher: WorldActionModel | None = None,
    seed: int = 0,
) -> Method:
    """The method that a recipe's section asks for, with its options.

    Args:
        loop: Names method and options. With `loop.lora`, student and teacher are made of one model, and `loop.init`
            names the student whose adapter is taken over.
        streams: Per-stream choices, in generation order.
        student: The model to train; with `loop.lora` the one whose weights all roles share. It is changed in place.
        teacher: The frozen model; with `loop.lora` None or the student's.
        seed: Of what starts at random.

    Raises:
        ValueError: for an unknown method or option, naming those there are; for adapters that do not fit the model.
    """
    check_options(loop)
    check_adapters(loop)
    kind, options = find_method(loop.method), dict(loop.options)
    check_each("options", options, kind.option_values)
    if loop.lora is not None:
        if teacher is not None and teacher is not student:
            raise InputError("with lora, teacher and student share one model: give the teacher's as both")
        adapters = Adapters(student, loop.lora, seed=seed)
        if loop.init is not None:
            adapters.load(loop.init)
        student, teacher = adapted(adapters, STUDENT), adapted(adapters, None)
    return kind(streams, student, teacher=teacher, keep_target=loop.save_weights == "target", **options)
