# SPDX-License-Identifier: Apache-2.0
"""Section of a comparison's page: what each method is in a line, and the settings of its trainings."""

from collections.abc import Mapping, Sequence
from typing import Any

from flashwam.core.temperature import noise_text
from flashwam.distillation.methods import METHODS, Method, find_method
from flashwam.distillation.methods.dmd_term import DMD
from flashwam.report.page import Section, Table
from flashwam.report.recipes import row_recipes
from flashwam.report.row import Row

__all__ = ["method_line", "methods_section"]


def methods_section(rows: Sequence[Row]) -> Section | None:
    """A line a method; None where no training says how it was made.

    Args:
        rows: Final ones, in the order to show them.
    """
    told: dict[str, Sequence[str]] = {}
    for row in rows:
        recipes = [one for one in row_recipes(row) if _loop(one, row.kind) is not None]
        if recipes and row.kind != "baseline":
            told.setdefault(row.run, _cells(row, recipes))
    if not told:
        return None
    return Section(
        heading="What was trained, and how long",
        paragraphs=("A student starts from its teacher's weights unless its line says otherwise.",),
        tables=(
            Table(
                columns=("method", "the model ...", "trainings", "steps", "batch", "learning rate"),
                rows=[(run, *cells) for run, cells in told.items()],
                prose=frozenset({1}),
                caption="Trainings: of different seeds; numbers are over all of them. Steps: of the optimiser. Batch: "
                "samples a step. Learning rate: after warm-up, and its course from there.",
            ),
        ),
    )


def method_line(recipe: Mapping[str, Any], loop: Mapping[str, Any]) -> str:
    """Objective and streams of a recipe in a line: "learns ...; video lcm, action linear".

    Args:
        recipe: Resolved, as plain values.
        loop: Its section that trains.
    """
    name = str(loop.get("method", ""))
    objective = find_method(name).in_a_line if name in METHODS else ""
    parts = [objective or f"is trained by {name}"]
    streams = recipe.get("streams")
    if name != "flow_matching" and isinstance(streams, Mapping):
        parts.append(_streams_text(streams, name))
    if init := loop.get("init"):
        parts.append(f"starts from {init}")
    if loop.get("lora"):
        parts.append("adapters alone (LoRA)")
    return "; ".join(part for part in parts if part)


def _loop(recipe: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    """The section that trained a model of this kind."""
    found = recipe.get("train" if kind == "teacher" else "distill")
    return found if isinstance(found, Mapping) else None


def _cells(row: Row, recipes: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    loops = [loop for recipe in recipes if (loop := _loop(recipe, row.kind)) is not None]
    batches = [loop.get("batch_size", 0) * loop.get("accumulation", 1) for loop in loops]
    rates = [f"{loop['lr']:g}, {loop.get('lr_decay', 'constant')}" for loop in loops if "lr" in loop]
    return (
        method_line(recipes[0], loops[0]),
        str(row.trainings),
        _each([f"{loop['steps']:,}" for loop in loops if "steps" in loop]),
        _each([str(batch) for batch in batches if batch]),
        _each(rates),
    )


def _each(values: Sequence[str]) -> str:
    return " or ".join(dict.fromkeys(values))


def _streams_text(streams: Mapping[str, Mapping[str, Any]], method: str) -> str:
    told = {name: _stream_text(stream, method) for name, stream in streams.items()}
    if len(told) > 1 and len(set(told.values())) == 1:
        return f"{' and '.join(told)}: {next(iter(told.values()))}"
    return "; ".join(f"{name}: {text}" for name, text in told.items())


def _stream_text(stream: Mapping[str, Any], method: str) -> str:
    kind = find_method(method) if method in METHODS else Method
    regulariser, matched = stream.get("regulariser", 0.0), stream.get("loss") == DMD
    held = "its pairs" if matched else "flow matching on the data"
    beside = [f"{held}, weight {regulariser:g}"] if regulariser else []
    if stream.get("weight", 1.0) == 0:
        return ", ".join(["not distilled", *beside])
    function = stream.get("consistency", "")
    parts = [str(function.get("name", "") if isinstance(function, Mapping) else function)]
    if matched:
        parts.append("drawn to the teacher's distribution")
    # As a method is taught: by draws of the teacher as it is driven, or by its single steps.
    by_draws = "guidance_scale" in kind.teacher_draws and not matched
    guided = stream.get("guidance_scale", 1.0) != 1 if by_draws else stream.get("guidance") is not None
    if guided:
        parts.append("guided teacher")
    if "teacher_temperature" in kind.teacher_draws and (temperature := stream.get("teacher_temperature", 1.0)) != 1:
        parts.append(f"which the teacher draws from {noise_text(temperature)}")
    if method == "consistency" and (anchors := stream.get("anchors")):
        substeps = stream.get("teacher_substeps", 1)
        parts.append(f"{anchors} jumps of {substeps} teacher step{'s' * (substeps > 1)}")
    return ", ".join([*(part for part in parts if part), *beside])
