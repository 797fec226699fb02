# SPDX-License-Identifier: Apache-2.0
"""The copies of the model that a run keeps, asked of the method itself."""

from collections.abc import Collection
from copy import deepcopy
from dataclasses import replace
from typing import overload

from flashwam.distillation.adapters import STUDENT, adapter_targets
from flashwam.distillation.methods import find_method, make_method
from flashwam.distillation.roles import CRITIC
from flashwam.plan.sizes import adapter_parameters
from flashwam.recipe.sections import LoopConfig, Recipe
from flashwam.wam.base import WorldActionModel

__all__ = ["adapter_count", "roles_of", "trained_of"]


def roles_of(recipe: Recipe, loop: LoopConfig, model: WorldActionModel, command: str) -> list[str]:
    """Those of "target", "teacher", "critic" and "reference" that the method keeps beside the student.

    Args:
        recipe: Gives the streams.
        loop: Names method and options.
        model: The model, without memory or with.
        command: "train" or "distill".
    """
    kind = find_method(loop.method)
    if kind.builds_student:
        kept = {
            "target": kind.needs_target or loop.save_weights == "target",
            "teacher": kind.needs_teacher and kind.keeps_teacher,
        }
        return [name for name, there in kept.items() if there]
    # Adapters change how the roles are held, not which there are.
    whole = replace(loop, lora=None)
    teacher = deepcopy(model) if command == "distill" else None
    method = make_method(whole, recipe.streams, model, teacher=teacher)
    held = {name: getattr(method.roles, name) for name in ("target", "teacher", "critic", "reference")}
    return [name for name, role in held.items() if role is not None and (name != "teacher" or method.keeps_teacher)]


def trained_of(roles: Collection[str]) -> list[str]:
    """The roles that an optimiser moves, of those that `roles_of` gives and the student."""
    return [STUDENT, *(role for role in roles if role == CRITIC)]


@overload
def adapter_count(model: WorldActionModel, loop: LoopConfig, *, rank: int) -> int: ...
@overload
def adapter_count(model: WorldActionModel, loop: LoopConfig) -> int | None: ...
def adapter_count(model: WorldActionModel, loop: LoopConfig, *, rank: int | None = None) -> int | None:
    """Counts the parameters of one set of adapters: the recipe's own, else of the given rank, else None.

    Raises:
        ValueError: The recipe's own have no layers to go to.
    """
    if loop.lora is not None:
        return adapter_parameters(model, loop.lora.rank, adapter_targets(type(model), loop.lora))
    return None if rank is None else adapter_parameters(model, rank, model.adapter_targets or None)
