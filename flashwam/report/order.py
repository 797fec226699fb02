# SPDX-License-Identifier: Apache-2.0
"""The order of two recipes, by what their streams start from and learn where they are sampled."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from flashwam.report.levels import FEW_SAMPLES

__all__ = ["CRITERIA", "Standing", "better_at", "standing"]

CRITERIA = ("start", "samples", "hops", "teacher steps")
"""The things compared: f nearer the data over the teacher's weights; at least `FEW_SAMPLES` of the samples near the
sampler; fewer hops to the data; more steps of the teacher behind a target."""
Standing: TypeAlias = dict[tuple[str, int], tuple[float, ...]]
"""(stream, number of the level) -> a value per criterion, smaller being better."""
_SAME = 1e-9


def standing(streams: Mapping[str, Mapping[str, Any]]) -> Standing | None:
    """A recipe's place by every criterion, smaller being better.

    Args:
        streams: Stream name -> its numbers, as `flashwam.report.levels.stream_levels` gives them.

    Returns:
        None where a stream is not distilled, or its method does not say where it trains.
    """
    found: Standing = {}
    for name, numbers in streams.items():
        for number, level in enumerate(numbers["levels"]):
            if numbers["weight"] == 0 or "near" not in level:
                return None
            bias = level["bias"][numbers["own"]]
            found[name, number] = (bias, level["near"] < FEW_SAMPLES, level["hops"], -level["teacher_steps"])
    return found


def better_at(first: Standing | None, second: Standing | None) -> tuple[str, ...]:
    """The criteria by which the first of two recipes is put ahead of the second; empty where it is not.

    It is put ahead where it is behind by no criterion, at no level of no stream, and ahead by one at least.
    """
    if first is None or second is None or first.keys() != second.keys():
        return ()
    gains = [[theirs - ours for ours, theirs in zip(first[k], second[k], strict=True)] for k in first]
    if any(gain < -_SAME for level in gains for gain in level):
        return ()
    return tuple(name for at, name in enumerate(CRITERIA) if any(level[at] > _SAME for level in gains))
