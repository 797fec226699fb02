# SPDX-License-Identifier: Apache-2.0
"""A training's plan as text and as plain values."""

from typing import Any

from flashwam.plan.drawing import Drawing
from flashwam.plan.dry_run import GIB, gib
from flashwam.plan.sizes import activation_formula
from flashwam.plan.training import NOTES, Option, TrainingPlan

__all__ = ["plan_lines", "plan_numbers"]

_NOT_OFFERED = " (not in recipes yet)"


def plan_lines(plan: TrainingPlan) -> list[str]:
    """Formats a plan as `flashwam plan` prints it: GiB on one GPU, or MiB where all are below one."""
    limit = "" if plan.memory is None else f" of {plan.memory / GIB:g} GiB"
    of = f"{plan.gpus} GPU{'s' if plan.gpus > 1 else ''}{limit}"
    samples = plan.steps * plan.samples_per_step
    end = [
        ("steps", f"{plan.steps:,} of {plan.samples_per_step} samples, {samples:,} in all"),
        ("time", str(plan.time)),
        *([] if plan.drawing is None else plan.drawing.rows()),
        *(("note", text) for text in NOTES),
        *(("warning", text) for text in plan.warnings),
    ]
    return [
        f"{plan.command} {plan.recipe}: method {plan.method}, precision {plan.precision}, {of}",
        *_rows(_facts(plan)),
        "",
        *_table(plan),
        "",
        *_rows(end),
    ]


def _facts(plan: TrainingPlan) -> list[tuple[str, str]]:
    size, kept = plan.size, plan.activations
    rest = size.parameters - size.blocks
    *others, last = plan.roles or ("",)
    copies = f"; {', '.join(others)}{' and ' * bool(others)}{last} of the same size" if last else ""
    shared = (
        "" if plan.adapters is None else f"; with LoRA of rank {plan.rank} one backbone and {plan.adapters:,} a role"
    )
    facts = [
        ("parameters", f"{size.parameters:,}: {size.layers} blocks of {size.block:,}, and {rest:,} around them"),
        ("roles", f"student{copies}{shared}"),
    ]
    if kept is not None:
        tokens = f"{plan.tokens:,} tokens and {plan.text_tokens} of text"
        facts += [
            ("a pass", f"samples a GPU: {plan.samples_per_gpu}, each of {tokens}"),
            ("activations", f"{gib(kept[True])} with checkpointing, {gib(kept[False])} without"),
            ("", f"estimate: {activation_formula(size)}"),
            ("", f"the recipe has checkpointing {'on' if plan.checkpointing else 'off'}"),
        ]
    return facts


def _rows(rows: list[tuple[str, str]]) -> list[str]:
    return [f"  {what:<12}{much}" for what, much in rows]


def _table(plan: TrainingPlan) -> list[str]:
    parts = ["weights", "gradients", "optimiser", *plan.roles]
    other = "without ckpt." if plan.checkpointing else "with ckpt."
    small = max(option.footprint.peak for option in plan.options) < GIB
    unit = 2**20 if small else GIB
    table = [
        ["  MiB a GPU" if small else "  GiB a GPU", *parts, "buffers", "activations", "or step", "peak", other, "fits"]
    ]
    for option in plan.options:
        found = option.footprint
        held = [found.resident.get(part, 0) for part in parts]
        numbers = [*held, found.buffers, found.activations, found.step, found.peak, option.other_peak]
        table.append([_label(option), *(f"{value / unit:.1f}" for value in numbers), _verdict(plan, found.peak, unit)])
    widths = [max(len(row[k]) for row in table) for k in range(len(table[0]))]
    lines = []
    for name, *cells, verdict in table:
        columns = (f"{cell:>{width}}" for cell, width in zip(cells, widths[1:-1], strict=True))
        lines.append("  ".join([f"{name:<{widths[0]}}", *columns, verdict]))
    return [
        *lines,
        "  * what the recipe says; peak: what stays, and buffers with activations or the step, whichever is more",
    ]


def _label(option: Option) -> str:
    name = option.footprint.strategy.label + ("" if option.offered else _NOT_OFFERED)
    return ("* " if option.chosen else "  ") + name


def _verdict(plan: TrainingPlan, peak: int, unit: int) -> str:
    spare = plan.spare(peak)
    if spare is None:
        return "-"
    return f"yes, {spare / unit:.1f} spare" if spare >= 0 else f"NO, {-spare / unit:.1f} over"


def plan_numbers(plan: TrainingPlan) -> dict[str, Any]:
    """Gives a plan's numbers as `flashwam plan --json` writes them; bytes are of one GPU."""
    size = plan.size
    kept = plan.activations
    return {
        "recipe": plan.recipe,
        "command": plan.command,
        "method": plan.method,
        "precision": plan.precision,
        "gpus": plan.gpus,
        "memory_gib": None if plan.memory is None else plan.memory / GIB,
        "parameters": {
            "total": size.parameters,
            "blocks": size.blocks,
            "layers": size.layers,
            "block": size.block,
            "outside_blocks": size.parameters - size.blocks,
            "adapters": plan.adapters,
            "adapter_rank": plan.rank,
            "roles": dict.fromkeys(("student", *plan.roles), size.parameters),
            "roles_lora": None
            if plan.adapters is None
            else {
                "backbone": size.parameters,
                "student": plan.adapters,
                **{role: 0 if role == "teacher" else plan.adapters for role in plan.roles},
            },
        },
        "tokens_per_sample": plan.tokens,
        "text_tokens_per_sample": plan.text_tokens,
        "samples_per_gpu": plan.samples_per_gpu,
        "checkpointing": plan.checkpointing,
        "activation_bytes": None if kept is None else {"checkpointing": kept[True], "without": kept[False]},
        "activation_formula": activation_formula(plan.size),
        "strategies": [_option(plan, option) for option in plan.options],
        "steps": plan.steps,
        "samples_per_step": plan.samples_per_step,
        "samples": plan.steps * plan.samples_per_step,
        "seconds": plan.time.seconds,
        "gpu_hours": None if plan.time.seconds is None else plan.time.seconds * plan.gpus / 3600,
        "time_from": plan.time.how,
        "made_first": None if plan.drawing is None else _drawing(plan.drawing),
        "notes": list(NOTES),
        "warnings": list(plan.warnings),
    }


def _drawing(made: Drawing) -> dict[str, Any]:
    prepared = made.prepared
    return {
        "what": prepared.what,
        "count": prepared.count,
        "bytes_each": prepared.bytes_each,
        "bytes": prepared.bytes,
        "beside": prepared.beside,
        "passes": made.passes,
        "gpu_hours": None if made.seconds is None else [seconds / 3600 for seconds in made.seconds],
        "time_from": made.how,
    }


def _option(plan: TrainingPlan, option: Option) -> dict[str, Any]:
    found, spare = option.footprint, plan.spare(option.footprint.peak)
    return {
        "name": found.strategy.label,
        "strategy": found.strategy.name,
        "sharded": sorted(found.strategy.sharded),
        "offered": option.offered,
        "chosen": option.chosen,
        "bytes": dict(found.resident),
        "buffer_bytes": found.buffers,
        "activation_bytes": found.activations,
        "step_bytes": found.step,
        "peak_bytes": found.peak,
        "peak_bytes_other_checkpointing": option.other_peak,
        "fits": None if spare is None else spare >= 0,
        "spare_bytes": spare,
    }
