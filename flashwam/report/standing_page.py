# SPDX-License-Identifier: Apache-2.0
"""The sections on the levels where a student is sampled, and on the method that they speak for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashwam.report.levels import mix_text, percent
from flashwam.report.page import Figure, Section, Table
from flashwam.report.schedule_alts import start_alt
from flashwam.report.start_figure import draw_start

__all__ = ["method_section", "standing_section"]

_INTRODUCTION = (
    "A student with few steps is used at few levels: at sigma = 1, and at one more for each further step. Three things "
    "can be told of each level before any training."
)
_START = (
    "**The start.** Distillation begins at the teacher's weights. There f = (a (1 - sigma) - b) x0 + (a sigma + b) "
    "eps, where x0 and eps are the data and the noise that the network takes x to be made of. It should be x0: "
    "`linear` is, at every level. `lcm` is not, so its student first has to learn a velocity of its own. In a toy with "
    "two ways (that of `notebooks/naive_against_modality_aware.ipynb`: 100 steps, 2 anchors, the best of four learning "
    "rates, five seeds) the start alone made up 61 % of the distance between `lcm` and `linear` on the actions, the "
    "smaller gradient alone 8 %, both together the rest; after 600 steps the distance was gone. "
    "`docs/naive_against_modality_aware.md` asks the same of the miniature."
)
_TRAINING = (
    "**The training there.** The share of the training samples within {near:g} of the level. A jump of the anchors' "
    "grid spans the same share of the draws under every schedule, so that share does not tell streams apart; how far "
    "the jump reaches does."
)
_WAY = (
    "**The way to the data.** Hops: targets in a row, each the student's own answer but the last. Teacher steps: its "
    "Euler steps on all of that way. Arrives: the share of what is learned at the data that comes up all hops before "
    "the training ends, at the most, since targets are an average of the student and lag behind it."
)


def standing_section(analysis: Mapping[str, Any], folder: Path) -> Section:
    """The levels of every stream's sampler: the start, the training there, the way to the data.

    Args:
        analysis: Result of `flashwam.report.schedule.schedule_analysis`.
        folder: For the PNG.
    """
    near, method = analysis["rule"]["near"], analysis["method"]
    levels = [
        (name, numbers["own"], level) for name, numbers in analysis["streams"].items() for level in numbers["levels"]
    ]
    told = any("near" in level for _, _, level in levels)
    figure = Figure(
        path=draw_start(analysis, folder / "start.png"),
        caption="Dots: this recipe's functions, at the levels where its student is sampled."
        + (f" Bars: the samples of its method, {method}." if told else ""),
        alt=start_alt(analysis),
    )
    start, training = ("lcm starts as", "this recipe"), (f"samples within {near:g}", "first jump", "samples in it")
    table = Table(
        columns=("stream, level", *start, *training, "hops", "teacher steps", "arrives"),
        rows=[_row(*level) for level in levels],
        caption=f"As {method} trains them, this recipe's method."
        if told
        else f"This recipe's method, {method}, does not say where it trains.",
    )
    paragraphs = (_INTRODUCTION, _START, _TRAINING.format(near=near), _WAY)
    return Section(heading="Where the sampler stands", paragraphs=paragraphs, figures=(figure,), tables=(table,))


def _row(name: str, own: str, level: Mapping[str, Any]) -> tuple[str, ...]:
    start = (mix_text(level["start"]["lcm"]), mix_text(level["start"][own]))
    taught = ("-",) * 6
    if "near" in level:
        jump = f"{level['sigma']:.2f} to {level['jump_end']:.2f}"
        arrives = f"{level['arrives']:.0%}" if "arrives" in level else "-"
        counts = (str(level["hops"]), str(level["teacher_steps"]), arrives)
        taught = (percent(level["near"]), jump, percent(level["within_jump"]), *counts)
    return (f"{name}, sigma {level['sigma']:.2g}", *start, *taught)


def method_section(analysis: Mapping[str, Any]) -> Section:
    """The recommended method beside the others, and what has been measured of it."""
    recommended = analysis["recommended"]
    rows = [
        (name, percent(numbers["near"]), str(numbers["hops"]), str(numbers["teacher_steps"]))
        for name, numbers in recommended["compared"].items()
    ]
    names = list(recommended["compared"])
    return Section(
        heading="Which method the numbers recommend",
        paragraphs=(recommended["reason"], recommended["measured"]),
        tables=(
            Table(
                columns=("method", "least share near a level", "hops", "teacher steps"),
                rows=rows,
                emphasised=frozenset({names.index(recommended["method"])}),
                caption=f"With linear on every stream, at the worst of its levels. This recipe: {analysis['method']}.",
            ),
        ),
    )
