# SPDX-License-Identifier: Apache-2.0
"""`flashwam analyze`: which consistency function fits which stream."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashwam.commands.shared import Command, add_json, add_recipe, load, path, write_json

WORDS = """\
what a student starts from, where it is trained, and which consistency function fits which stream
Before any training, per stream: what f is over the teacher's weights where the student will be sampled, how many of
the training samples lie there, the hops from there to the data, where its noise lies, how strongly each consistency
function lets a gradient through, and a verdict, with how often such verdicts were right. With a trained run, the
measured gradients are laid over the theory. Writes JSON, figures and one page."""
EXAMPLES = (
    "  flashwam analyze flash_wam\n"
    "  flashwam analyze flash_wam streams.action.shift=0.05 --json -\n"
    "  flashwam analyze flash_wam --checkpoint runs/flash_wam"
)


def _options(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser)
    parser.add_argument("--checkpoint", type=path, metavar="RUN", help="a run whose measured gradients are shown too")
    parser.add_argument("--out", type=path, metavar="DIR", help="folder (default: runs/analysis/<name>)")
    add_json(parser)


def _action(arguments: argparse.Namespace) -> None:
    from flashwam.plan.names import check_names
    from flashwam.report.analyze import analyze
    from flashwam.report.record import read_record
    from flashwam.report.record_page import record_sentence

    recipe = load(arguments)
    check_names(recipe, "train" if recipe.distill is None else "distill")
    out = arguments.out or Path("runs") / "analysis" / recipe.name
    results = analyze(recipe, out=out, checkpoint=arguments.checkpoint)
    if write_json(arguments, results):
        print("\n".join(analysis_lines(results)))
        print(f"how often such numbers were right: {record_sentence(read_record())}")
        print(f"page: {results['page']}")


def analysis_lines(analysis: Mapping[str, Any]) -> list[str]:
    """A schedule analysis in a few lines: the table and the verdicts."""
    wide = max(len("schedule"), *(len(numbers["label"]) for numbers in analysis["streams"].values()))
    lines = [
        f"{'stream':<8} {'schedule':<{wide}} {'median':>7} {'<0.1':>6}  {'function':<8} {'E|b|':>7} {'E b^2':>7} "
        f"{'order':>6}"
    ]
    for name, numbers in analysis["streams"].items():
        head = f"{name:<8} {numbers['label']:<{wide}} {numbers['median']:>7.3f} {numbers['mass_below_low_noise']:>6.1%}"
        for label, function in numbers["functions"].items():
            own, order = "*" if label == numbers["own"] else " ", function["order_at_zero"]
            lines.append(
                f"{head:<{wide + 24}} {own}{label:<8}{function['mean_gradient_scale']:>7.4f} "
                f"{function['mean_squared_gradient_scale']:>7.4f} {'-' if order is None else f'{order:.2f}':>6}"
            )
            head = ""
    lines.append("(* = the recipe's own)")
    lines += [
        f"{name} {level_line(level, numbers['own'])}"
        for name, numbers in analysis["streams"].items()
        for level in numbers["levels"]
    ]
    lines += [f"{name}: {numbers['verdict']['reason']}" for name, numbers in analysis["streams"].items()]
    if analysis.get("together"):
        lines.append(f"different functions for the streams? {analysis['together']['reason']}")
    if analysis.get("recommended"):
        lines.append(f"method: {analysis['recommended']['reason']}")
    for entry in analysis.get("warnings", []):
        lines.append(f"warning: {entry if isinstance(entry, str) else ' '.join(map(str, entry))}")
    return lines


def level_line(level: Mapping[str, Any], own: str) -> str:
    """One level of a student's sampler in a line: its start, and what the method teaches there."""
    from flashwam.report.levels import mix_text, percent

    line = f"at sigma {level['sigma']:.2g}: starts as {mix_text(level['start'][own])} ({own})"
    if "near" not in level:
        return line
    hops = "1 hop" if level["hops"] == 1 else f"{level['hops']} hops"
    steps = "1 teacher step" if level["teacher_steps"] == 1 else f"{level['teacher_steps']} teacher steps"
    return f"{line}; {percent(level['near'])} of the training samples near it; {hops} to the data, {steps}"


COMMAND = Command(name="analyze", words=WORDS, examples=EXAMPLES, options=_options, action=_action)
