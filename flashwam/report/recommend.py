# SPDX-License-Identifier: Apache-2.0
"""The distillation method that a recipe's numbers recommend, and what has been measured of it."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from flashwam.core.consistency import Linear
from flashwam.core.streams import StreamSpec
from flashwam.distillation.methods import find_method
from flashwam.report.levels import stream_levels
from flashwam.report.order import Standing, better_at, standing
from flashwam.report.together import listed

__all__ = ["MEASURED", "recommendation"]

MEASURED = {
    "one schedule": (
        "Measured where all streams draw from one schedule (miniature CogVideoX, five tasks, five trainings, 1,250 "
        "episodes paired by scene with the teacher's; 95 % intervals over trainings and scenes): in a single pass "
        "pairs kept .96 (.90 to 1.02) of its teacher's success on the tasks with two ways and 1.01 (.98 to 1.04) on "
        "those with one; with a second stage on fresh pairs .97 (.92 to 1.03) and 1.02 (.99 to 1.05); in two passes "
        ".99 (.94 to 1.05) and 1.00 (.96 to 1.03). on_policy is here pairs drawn online and used once; at equal cost "
        "a prototype of one training could not tell the two apart."
    ),
    "several schedules": (
        "Measured where the streams draw from two schedules (miniature LingBot-VA, five tasks, episodes paired by "
        "scene with the teacher's; 95 % intervals over trainings and scenes): in one step a stream pairs kept .98 (.96 "
        "to 1.01) of its teacher's success on the tasks with two ways and .98 (.96 to 1.00) on those with one (five "
        "trainings). on_policy at equal cost kept .97 (.91 to 1.01) and 1.04 (.99 to 1.08) (three trainings): to "
        "pairs of the same seeds -2.0 percentage points (-5.7 to 1.7) and +4.7 (1.8 to 7.6). So the tasks say which "
        "of the two. "
        "On draws that the teacher makes without noise of the actions' own (pairs_cooled_actions, five trainings) one "
        "step has 1.02 (1.00 to 1.04) and 1.06 (1.03 to 1.09) of what its ten have from all of the noise. "
        "Consistency with one teacher sub-step is far behind both on the tasks with two ways: .48 (.34 to .64) with "
        "lcm and .42 (.33 to .51) as published, at 400 steps and a searched learning rate (three trainings each)."
    ),
}
"""Measurements of the methods to choose from, in `analysis/results`: schedules -> sentences."""


def recommendation(specs: Mapping[str, StreamSpec], method: str, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Names the method that no other is put ahead of, by `flashwam.report.order`, with `linear` on every stream.

    Args:
        specs: The recipe's streams.
        method: The recipe's own.
        options: Its options; the other methods have their defaults.

    Returns:
        Plain values: `method`; `consistency`; `compared`, method -> the least share of samples `near` a level, the most
        `hops` and the fewest `teacher_steps`; `reason` and `measured`, in sentences. None for a method that does not
        say where it trains, to which none of these need be an alternative, and where a stream is left undistilled.
    """
    streams = {name: replace(spec, consistency=Linear()) for name, spec in specs.items()}
    # In the order in which they are named where the numbers do not tell them apart.
    known: dict[str, Mapping[str, Any]] = {
        "pairs": {"steps": max(spec.steps for spec in streams.values())},
        "on_policy": {},
        "consistency": {},
    }
    known[method] = options
    levels = {
        name: {
            stream: stream_levels(spec, partial(find_method(name).lesson, options=dict(its)))
            for stream, spec in streams.items()
        }
        for name, its in known.items()
    }
    places: dict[str, Standing] = {
        name: place for name, numbers in levels.items() if (place := standing(numbers)) is not None
    }
    if method not in places:
        return None
    choice = next(
        name for name, place in places.items() if not any(better_at(other, place) for other in places.values())
    )
    ahead = {name: better_at(places[choice], place) for name, place in places.items() if name != choice}
    parts = [f"of {name} by {listed(by)}" for name, by in ahead.items() if by]
    reason = f"{choice}, with linear on every stream."
    if parts:
        reason += f" The numbers put it ahead {', and '.join(parts)}."
    if level := [name for name, by in ahead.items() if not by]:
        reason += f" They do not tell it from {listed(level)}."
    schedules = "one schedule" if len({repr(spec.schedule) for spec in specs.values()}) == 1 else "several schedules"
    return {
        "method": choice,
        "consistency": "linear",
        "compared": {name: _worst(levels[name]) for name in places},
        "reason": reason,
        "measured": MEASURED[schedules],
    }


def _worst(streams: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    levels = [level for numbers in streams.values() for level in numbers["levels"]]
    return {
        "near": min(level["near"] for level in levels),
        "hops": max(level["hops"] for level in levels),
        "teacher_steps": min(level["teacher_steps"] for level in levels),
    }
