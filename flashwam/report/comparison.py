# SPDX-License-Identifier: Apache-2.0
"""A quantity of two rows of a comparison, with all that its interval rests on."""

from dataclasses import asdict, dataclass
from typing import Any, Self

from flashwam.core.pairing import Paired

__all__ = ["SURE", "Comparison", "signed_points"]

SURE = ("surely", "in these trainings", "not surely")
"""Words for how far a difference is told: of the method, of these trainings alone, or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A ratio of successes, or a difference of shares, of two rows.

    Args:
        value: Its estimate.
        low, high: Ends of its 95 % interval; None where there is none.
        paired: Whether episodes were paired by scene, and the interval holds trainings and scenes.
        trainings: How many it is over.
        episodes: How many of the first row's it is over.
        by_training: The same of each training; empty where it is not told.
    """

    value: float
    low: float | None
    high: float | None
    paired: bool
    trainings: int
    episodes: int
    by_training: tuple[float, ...] = ()

    @classmethod
    def of_pairs(cls, found: Paired) -> Self:
        """A comparison of paired episodes."""
        return cls(paired=True, **asdict(found))

    def leaves_out(self, value: float) -> bool:
        """Tells whether the interval leaves out a value; never where there is no interval."""
        return self.low is not None and self.high is not None and not self.low <= value <= self.high

    def tells_from(self, value: float) -> bool:
        """Tells whether the interval leaves out a value and holds the spread of trainings, as only several that are
        paired tell it."""
        return self.paired and self.trainings > 1 and self.leaves_out(value)

    def how_surely(self, value: float) -> str:
        """Says how far it is told from a value, one of `SURE`."""
        return SURE[0 if self.tells_from(value) else 1 if self.leaves_out(value) else 2]

    @property
    def ratio_text(self) -> str:
        """ "0.80 [0.76, 0.85]", or "0.80" where there is no interval."""
        return f"{self.value:.2f}" + ("" if self.low is None else f" [{self.low:.2f}, {self.high:.2f}]")

    @property
    def points_text(self) -> str:
        """ "-19 percentage points, 95 % interval -23 to -15", "unpaired" where it is that."""
        kind = "95 % interval" if self.paired else "unpaired 95 % interval"
        return f"{signed_points(self.value)} percentage points, {kind} {self.span_text}"

    @property
    def span_text(self) -> str:
        """ "-23 to -15", in percentage points."""
        return "unknown" if self.low is None else f"{signed_points(self.low)} to {signed_points(self.high or 0.0)}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "by_training": list(self.by_training)}


def signed_points(share: float) -> str:
    """Writes a difference of shares in percentage points, with as many digits as its sign needs."""
    points = 100 * share
    if abs(points) >= 1.5:
        return f"{points:+.0f}"
    return f"{points:+.1f}" if abs(points) >= 0.05 else f"{points:+.1g}" if points else "0"
