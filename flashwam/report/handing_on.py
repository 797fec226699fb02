# SPDX-License-Identifier: Apache-2.0
"""The way of the right answer up from the data, by targets that follow the student late."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scipy.special import gammainc, gammaincinv

from flashwam.report.levels import mix_text, percent

__all__ = ["Following", "arrival_text", "arrived", "late_targets"]

_ENOUGH = 0.99
_HARDLY = 0.5
"""With a smaller share arriving, a training ends before the levels of the sampler have been reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """A training whose targets are an exponential average of its student.

    Args:
        steps: Of the training.
        decay: Of the average, a step.
    """

    steps: int
    decay: float

    @property
    def horizons(self) -> float:
        """Times that the average's horizon goes into the training."""
        return self.steps * (1 - self.decay)


def arrived(hops: int, horizons: float) -> float:
    """Share of a change at the data that has come up `hops` targets by the end of a training, at the most.

    The first target is the data's own. Every further one is read off an exponential average, which lags behind the
    student by its horizon. Of a step at the foot of a chain of n such lags P(N >= n) has passed after as many horizons
    as the mean of the Poisson variable N, even if the student itself learns at once.

    Args:
        hops: Targets in a row, at least 1.
        horizons: See `Following.horizons`.
    """
    return float(gammainc(hops - 1, horizons)) if hops > 1 else 1.0


def arrival_text(share: float) -> str:
    """In words: "0%", "54%"."""
    return "0%" if share < 0.005 else percent(share)


def late_targets(level: Mapping[str, Any], own: str, following: Following) -> str | None:
    """Warns of a level of the sampler that the right answer hardly reaches; None where it does.

    Args:
        level: See `stream_levels`, with `arrives`.
        own: Label of the stream's function.
        following: The training.
    """
    arrives = level.get("arrives", 1.0)
    if arrives >= _HARDLY:
        return None
    hops = level["hops"]
    needed = float(gammaincinv(hops - 1, _ENOUGH))
    decay = math.floor(1000 * (1 - needed / following.steps)) / 1000
    remedy = f"distill.steps={math.ceil(needed / (1 - following.decay)):,} or more"
    if decay >= 0:
        remedy = f"distill.ema_decay={decay:g} or less, {remedy}"
    start = mix_text(level["start"][own])
    begun = "the teacher's single step" if start == "x0" else start
    return (
        f"{hops} targets in a row lead from the data up to sigma = {level['sigma']:.2g}, where the sampler stands, all "
        f"but the first read off an average of the student whose horizon goes {following.horizons:.3g} times into the "
        f"{following.steps:,} steps: {arrival_text(arrives)} of what is learned at the data has come up there by their "
        f"end, at any learning rate, and the student is still on its way from its start, {begun}. Take {remedy}, or "
        "fewer anchors."
    )
