# SPDX-License-Identifier: Apache-2.0
"""The training that a stream gets at the levels where its student will be sampled, told before anything is trained."""

from collections.abc import Callable
from dataclasses import dataclass

from flashwam.core.schedule import Schedule

__all__ = ["NEAR", "Lesson", "drawn_share"]

NEAR = 0.1
"""Levels so far apart in sigma, or less, count as near each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """The training of one stream at one level of its sampler.

    Args:
        near: Share of the training samples within `NEAR` of the level.
        jump_end: Level at which the target for this level is read off, 0 where that is the teacher's own end.
        within_jump: Share of the training samples between the two.
        hops: Targets in a row that lead from the level to the data; all but the last are the student's own answers.
        teacher_steps: Euler steps of the teacher on all of that way.
    """

    near: float
    jump_end: float
    within_jump: float
    hops: int
    teacher_steps: int

    @classmethod
    def at(
        cls, level: float, *, share: Callable[[float, float], float], jump_end: float, hops: int, teacher_steps: int
    ) -> "Lesson":
        """From `share`, which gives the share of the training samples between two levels, both included."""
        return cls(
            near=share(max(0.0, level - NEAR), min(1.0, level + NEAR)),
            jump_end=jump_end,
            within_jump=share(jump_end, level),
            hops=hops,
            teacher_steps=teacher_steps,
        )


def drawn_share(schedule: Schedule, low: float, high: float) -> float:
    """Share of a schedule's draws between two levels."""
    return float(schedule.cdf(high)) - float(schedule.cdf(low))
