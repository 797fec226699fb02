# SPDX-License-Identifier: Apache-2.0
"""The time a run will take: measured where the model is small, else a stored throughput, scaled."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch

from flashwam.distillation.methods import find_method
from flashwam.recipe.sections import LoopConfig, Recipe
from flashwam.system.durations import duration_text
from flashwam.system.stage_clock import stage_clock
from flashwam.wam import family
from flashwam.wam.base import WorldActionModel

__all__ = ["MEASURABLE", "STORED", "Duration", "Throughput", "forward_seconds", "run_time"]

MEASURABLE = 50_000_000
"""Parameters up to which a plan times a few passes instead of looking a throughput up."""
STEP = 3.0
"""A pass with gradient, in passes without."""
_WARM, _TIMED = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """A measured cost of training: somebody's step on somebody's machine.

    Args:
        method: A recipe's method.
        gpu_seconds: Of one GPU per sample.
        passes: Forward passes without gradient, beside the student's own.
        parameters: Of the model.
        tokens: Of a sample's pass.
        source: Where the number is from, in words.
    """

    method: str
    gpu_seconds: float
    passes: float
    parameters: int
    tokens: int
    source: str


_DAY, _GPUS, _PARAMETERS, _TOKENS = 24 * 3600, 4, 5_088_872_670, 1136
STORED = (
    Throughput(
        method="consistency",
        gpu_seconds=_DAY * _GPUS / (2000 * 48),
        passes=3.0,
        parameters=_PARAMETERS,
        tokens=_TOKENS,
        source="Flash-WAM reports about 24 h on 4 H100 for 2,000 steps of 48 LIBERO samples",
    ),
    Throughput(
        method="flow_matching",
        gpu_seconds=_DAY * _GPUS / (4000 * 120),
        passes=0.0,
        parameters=_PARAMETERS,
        tokens=_TOKENS,
        source="Flash-WAM reports about 24 h for 4,000 steps of 120 LIBERO samples, taken to be on 4 H100 too",
    ),
)
"""The published samples' length is not known: they are taken to be those of recipes/lingbot_va/libero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Duration:
    """Seconds of the whole run, or None where nothing is known, and how that is known."""

    seconds: float | None
    how: str

    def __str__(self) -> str:
        return f"unknown: {self.how}" if self.seconds is None else f"{duration_text(self.seconds)} ({self.how})"


def run_time(
    recipe: Recipe,
    loop: LoopConfig,
    model: WorldActionModel,
    *,
    parameters: int,
    tokens: int | None,
    text: tuple[int, int | None],
    gpus: int | None,
) -> Duration:
    """Time of all steps.

    Args:
        recipe: The recipe.
        loop: Its section.
        model: As `flashwam.plan.sizes.meta_model` gives it.
        parameters: Of the model.
        tokens: Of a sample's pass; None where the family does not say.
        text: (L, D) of a sample's text; D is None where the family does not say.
        gpus: How many; None for as many as the stored throughput was measured with.
    """
    if parameters > MEASURABLE:
        return _stored(recipe, loop, parameters, tokens, gpus)
    return _measured(recipe, loop, model, text, gpus or 1)


def _stored(recipe: Recipe, loop: LoopConfig, parameters: int, tokens: int | None, gpus: int | None) -> Duration:
    passes = find_method(loop.method).passes_without_gradient(recipe.streams, loop.options)
    if passes is None or tokens is None:
        return Duration(seconds=None, how="too large to time here, and no throughput is stored for it")
    # Of another method the consistency run is the nearest relative: it has a teacher too.
    known = next((entry for entry in STORED if entry.method == loop.method), STORED[0])
    gpus = gpus or _GPUS
    size = parameters * tokens / (known.parameters * known.tokens)
    work = (STEP + passes) / (STEP + known.passes)
    samples = loop.steps * loop.batch_size * loop.accumulation
    how = f"stored throughput: {known.source}"
    if size != 1:
        how += f"; times {size:.2f} for parameters x tokens a pass"
    if work != 1:
        how += f"; times {work:.2f} for passes a step"
    if loop.lora is not None:
        how += "; of training whole models, where adapters need less"
    if gpus != _GPUS:
        how += f"; scaled from {_GPUS} to {gpus} GPUs as if nothing were lost"
    return Duration(seconds=known.gpu_seconds * size * work * samples / gpus, how=how)


def _measured(
    recipe: Recipe, loop: LoopConfig, model: WorldActionModel, text: tuple[int, int | None], gpus: int
) -> Duration:
    method = find_method(loop.method)
    passes = method.passes_without_gradient(recipe.streams, loop.options)
    length, width = text
    if passes is None:
        return Duration(seconds=None, how=f"no cost is known for method {loop.method!r}")
    if width is None:
        return Duration(seconds=None, how=f"{recipe.wam.family} has no text_shape")
    forward, step = _measure(recipe, loop, model, (length, width))
    seconds = loop.accumulation * (step + passes * forward)
    how = (
        f"measured here: {seconds * 1000:.0f} ms a step, of which the student's own pass takes {step * 1000:.0f} ms; "
        f"{torch.get_num_threads()} thread"
    )
    if method.builds_student:
        how += "; an upper bound, and what the teacher draws before training comes on top"
    if gpus > 1:
        how += f"; divided by {gpus} as if nothing were lost"
    return Duration(seconds=seconds * loop.steps / gpus, how=how)


def forward_seconds(recipe: Recipe, loop: LoopConfig, model: WorldActionModel, text_shape: tuple[int, int]) -> float:
    """Measures a batch's pass without gradient, on random data of the run's shapes; see `run_time`."""
    with torch.no_grad():
        return _seconds(_pass(recipe, loop, model, text_shape))


def _measure(
    recipe: Recipe, loop: LoopConfig, model: WorldActionModel, text_shape: tuple[int, int]
) -> tuple[float, float]:
    """Seconds of a pass without and with gradient, on random data of the run's shapes."""
    forward = _pass(recipe, loop, model, text_shape)

    def step() -> None:
        torch.stack([v.square().mean() for v in forward().values()]).sum().backward()

    with torch.no_grad():
        without = _seconds(forward)
    return without, _seconds(step)


def _pass(
    recipe: Recipe, loop: LoopConfig, planned: WorldActionModel, text_shape: tuple[int, int]
) -> Callable[[], Mapping[str, torch.Tensor]]:
    device = _device()
    # One that only its folder describes was loaded; any other has no weights yet.
    described = family(recipe.wam.family).create(**recipe.wam.config) if recipe.wam.config else deepcopy(planned)
    model = described.to(device)
    rows, frames = loop.batch_size, recipe.data.window_frames
    clean = {
        name: torch.randn(rows, channels, frames, height, width, device=device)
        for name, (channels, height, width) in model.shapes.items()
    }
    sigma = {name: torch.full((rows, frames), 0.5, device=device) for name in clean}
    told = clean | {name: torch.randn(rows, size, frames, 1, 1, device=device) for name, size in model.senses.items()}
    context = {"text": torch.randn(rows, *text_shape, device=device), "noise": clean}

    return lambda: model.velocity(clean, sigma, told, context)


def _seconds(function: Callable[[], object]) -> float:
    for _ in range(_WARM):
        function()
    clock = stage_clock(_device())
    start = clock()
    for _ in range(_TIMED):
        function()
    return (clock() - start) / _TIMED


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
