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
        "Measured where all streams draw from one schedule (prototypes on the miniature CogVideoX, one training each, "
        "300 episodes of two tasks with two ways, paired 95 % intervals): pairs kept .94 (.90 to .98) of its teacher's "
        "success for 188 s of CPU, on_policy .92 (.87 to .96) for 187 s, consistency with four teacher sub-steps .85 "
        "(.81 to .90) for 167 s. At equal cost pairs and on_policy are not told apart (+1.8 points, -1.2 to +4.9): "
        "where streams are drawn together, on_policy is pairs drawn online and used once. With its second level "
        "trained too, two passes of a longer pairs training kept .98 (.95 to 1.02)."
    ),
    "several schedules": (
        "Measured where the streams draw from two schedules (prototypes on the miniature LingBot-VA): after 2,400 "
        "samples .92 of the first chunks took one of the ways with pairs, .90 with on_policy, .79 with consistency "
        "with four teacher sub-steps (240 draws, standard error .02, one training each; the teacher .98). In closed "
        "loop pairs kept .98 (.96 to 1.01) of its teacher's success on the tasks with two ways after 2,200 steps (two "
        "trainings; the interval is over scenes alone). At equal samples pairs and on_policy are within chance of each "
        "other there (88 against 84 of 100); a step of pairs took a third of the time, since the teacher is not asked "
        "again."
    ),
}
"""Measurements that speak for the recommended method, and how many they are: schedules -> sentences."""


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
