# SPDX-License-Identifier: Apache-2.0
"""`flashwam plan`: what a training costs on a number of GPUs, under every way of sharing it."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from flashwam.distillation.methods import find_method
from flashwam.distillation.strategies import check_strategy, find_strategy
from flashwam.plan.around import built_around, seems_built_around
from flashwam.plan.drawing import Drawing, drawing
from flashwam.plan.dry_run import GIB
from flashwam.plan.memory import STRATEGIES, Footprint, Strategy, footprint, strategy_for
from flashwam.plan.names import check_names
from flashwam.plan.roles import adapter_count, roles_of, trained_of
from flashwam.plan.sizes import ModelSize, activation_bytes, meta_model, model_size, text_shape
from flashwam.plan.time import Duration, run_time
from flashwam.recipe.sections import LoopConfig, Recipe
from flashwam.system.errors import InputError

__all__ = ["NOTES", "Option", "TrainingPlan", "plan_training"]

DEFAULT_RANK = 32
NOTES = ("not counted: the CUDA context, fragmentation and the passes without gradient, 1 to 3 GiB",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One way of sharing the work.

    Args:
        footprint: Bytes on one GPU, with the recipe's choice of checkpointing.
        other_peak: The peak with the other choice.
        offered: Whether this version's recipes can choose it.
        chosen: Whether this recipe does.
    """

    footprint: Footprint
    other_peak: int
    offered: bool
    chosen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """Everything that `flashwam plan` shows; bytes are of one GPU.

    Args:
        recipe: Name of the recipe.
        command: "train" or "distill".
        method: Its method.
        precision: "no" or "bf16".
        gpus: How many.
        memory: Bytes of one GPU, None where there is no limit to compare with.
        size: The model's.
        roles: Copies beside the student.
        adapters: Parameters of one set of LoRA adapters; None where the method takes none.
        rank: Their rank, or None.
        tokens: Of a sample's pass; None where the family does not say.
        text_tokens: Of a sample.
        samples_per_gpu: In one pass.
        checkpointing: The recipe's choice.
        activations: Bytes with and without checkpointing; None without `tokens`.
        options: One per strategy.
        steps: Optimiser steps.
        samples_per_step: Over all GPUs.
        time: Of all steps.
        drawing: Of the teacher before the first; None where the method draws nothing.
        warnings: What to mind, in sentences.
    """

    recipe: str
    command: str
    method: str
    precision: str
    gpus: int
    memory: float | None
    size: ModelSize
    roles: tuple[str, ...]
    adapters: int | None
    rank: int | None
    tokens: int | None
    text_tokens: int
    samples_per_gpu: int
    checkpointing: bool
    activations: dict[bool, int] | None
    options: tuple[Option, ...]
    steps: int
    samples_per_step: int
    time: Duration
    drawing: Drawing | None
    warnings: tuple[str, ...]

    def spare(self, peak: int) -> float | None:
        """Bytes left on a GPU, negative where it does not fit; None without a limit."""
        return None if self.memory is None else self.memory - peak


def plan_training(
    recipe: Recipe,
    command: Literal["train", "distill"] | None = None,
    *,
    gpus: int = 1,
    memory_gib: float | None = None,
    rank: int | None = None,
    trust: bool = False,
) -> TrainingPlan:
    """Plans a recipe's training or distillation.

    Args:
        recipe: The recipe.
        command: Which of its sections; the distillation where there is one by default.
        gpus: How many share the work.
        memory_gib: GiB of one GPU, to tell what fits.
        rank: Of the LoRA adapters; the recipe's own by default, else 32.
        trust: See `load_wam`, of a model that only a folder describes.

    Raises:
        ValueError: for a number out of range, or a section that is not there.
    """
    _check_numbers(gpus, memory_gib=memory_gib, rank=rank)
    command, loop = _section(recipe, command)
    rank = _adapter_rank(loop, rank)
    check_names(recipe, command)
    model = meta_model(recipe, trust=trust)
    size = model_size(model)
    adapters = None if rank is None else adapter_count(model, loop, rank=rank)
    roles = tuple(roles_of(recipe, loop, model, command))
    checkpointing = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    tokens, text = model.pass_tokens(recipe.data.window_frames), text_shape(recipe, model)
    samples, half = -(-loop.batch_size // gpus), loop.precision == "bf16"
    kept = None if tokens is None else _activations(size, tokens, text_tokens=text[0], samples=samples, half=half)

    def needed(strategy: Strategy, checkpointing: bool) -> Footprint:
        return footprint(
            strategy,
            parameters=size.parameters,
            adapters=adapters or 0,
            unit=size.unit,
            roles=roles,
            half=half,
            gpus=gpus,
            activations=0 if kept is None else kept[checkpointing],
        )

    return TrainingPlan(
        recipe=recipe.name,
        command=command,
        method=loop.method,
        precision=loop.precision,
        gpus=gpus,
        memory=None if memory_gib is None else memory_gib * GIB,
        size=size,
        roles=roles,
        adapters=adapters,
        rank=rank,
        tokens=tokens,
        text_tokens=text[0],
        samples_per_gpu=samples,
        checkpointing=checkpointing,
        activations=kept,
        options=_options(loop, needed, trained=trained_of(roles), checkpointing=checkpointing),
        steps=loop.steps,
        samples_per_step=loop.batch_size * loop.accumulation,
        time=run_time(recipe, loop, model, parameters=size.parameters, tokens=tokens, text=text, gpus=gpus),
        drawing=drawing(recipe, loop, model, text=text),
        warnings=(
            *_warnings(loop, command, gpus, tokens, trained=trained_of(roles)),
            *_of_a_policy(recipe, loop, trust=trust),
        ),
    )


def _of_a_policy(recipe: Recipe, loop: LoopConfig, *, trust: bool) -> list[str]:
    if find_method(loop.method).builds_student:
        return []
    told = built_around(recipe, loop, trust=trust) or seems_built_around(recipe)
    return [] if told is None else [told]


def _section(
    recipe: Recipe, command: Literal["train", "distill"] | None
) -> tuple[Literal["train", "distill"], LoopConfig]:
    """The command to plan, and its section of the recipe."""
    command = command or ("train" if recipe.distill is None else "distill")
    loop = recipe.train if command == "train" else recipe.distill
    if loop is None:
        raise InputError(f"recipe {recipe.name!r} has no distill section to plan; plan its train section")
    return command, loop


def _adapter_rank(loop: LoopConfig, asked: int | None) -> int | None:
    """Chooses the rank of a method's adapters: the recipe's own, the one that is asked for, or a usual one; None where
    it takes none."""
    if find_method(loop.method).takes_adapters:
        return loop.lora.rank if loop.lora is not None else asked or DEFAULT_RANK
    if asked is not None:
        raise InputError(f"rank is of low-rank adapters, and method {loop.method!r} trains whole weights: leave it out")
    return None


def _check_numbers(gpus: int, *, memory_gib: float | None, rank: int | None) -> None:
    if isinstance(gpus, bool) or not isinstance(gpus, int) or gpus < 1:
        raise InputError(f"gpus must be a whole number of at least 1; got {gpus!r}")
    if memory_gib is not None and not (math.isfinite(memory_gib) and memory_gib > 0):
        raise InputError(f"memory must be a positive number of GiB; got {memory_gib!r}")
    if rank is not None and rank < 1:
        raise InputError(f"rank must be at least 1; got {rank!r}")


def _activations(size: ModelSize, tokens: int, *, text_tokens: int, samples: int, half: bool) -> dict[bool, int]:
    """Bytes with and without checkpointing."""
    return {
        on: activation_bytes(size, tokens=tokens, text_tokens=text_tokens, samples=samples, half=half, checkpointing=on)
        for on in (True, False)
    }


def _options(
    loop: LoopConfig,
    needed: Callable[[Strategy, bool], Footprint],
    *,
    trained: Collection[str],
    checkpointing: bool,
) -> tuple[Option, ...]:
    """Every strategy that a method can have, of which a recipe can name some: ZeRO-3 keeps the teacher whole, FSDP as
    `shard_teacher` says; ZeRO trains the student alone."""
    adapters = find_method(loop.method).takes_adapters
    chosen = strategy_for(loop.strategy, lora=loop.lora is not None, shard_teacher=loop.shard_teacher)
    return tuple(
        Option(
            footprint=needed(strategy, checkpointing),
            other_peak=needed(strategy, not checkpointing).peak,
            offered=("teacher" not in strategy.sharded or strategy.name == "fsdp")
            and (len(trained) == 1 or find_strategy(strategy.name).trains_several),
            chosen=strategy == chosen,
        )
        for strategy in STRATEGIES
        if adapters or strategy.name != "lora"
    )


def _warnings(
    loop: LoopConfig, command: str, gpus: int, tokens: int | None, *, trained: Collection[str]
) -> tuple[str, ...]:
    found = []
    try:
        check_strategy(loop, trained)
    except InputError as error:
        found.append(str(error))
    if find_method(loop.method).builds_student:
        found.append(
            f"method {loop.method!r} trains a model of its own on top of a frozen one: what is said of a trained copy "
            "of the whole model is more than it needs"
        )
    if loop.batch_size % gpus:
        total = loop.batch_size * loop.accumulation
        remedy = f"take a multiple of {gpus}"
        if total % gpus == 0:
            remedy = f"{command}.batch_size={gpus} {command}.accumulation={total // gpus} keeps {total} samples a step"
        found.append(f"training refuses batch_size {loop.batch_size} on {gpus} GPUs; {remedy}")
    if gpus > 1 and loop.strategy == "single":
        found.append(f"strategy 'single' runs one process; choose {command}.strategy for {gpus} GPUs")
    if tokens is None:
        found.append("activations are not counted: this family does not say how many tokens a pass has")
    return tuple(found)
