# SPDX-License-Identifier: Apache-2.0
"""The link between foresight and success: episodes whose motion the model foresaw, and the others."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from flashwam.core.stats import within_correlation
from flashwam.report.row import Row

__all__ = ["MotionLink", "correlation_text", "motion_link"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MotionLink:
    """One row's similarity of imagined and real motion, and its tie with success.

    Args:
        episodes: With a similarity.
        similarity: Their mean, in [-1, 1].
        succeeded, failed: Means over the successes and over the failures; None without any.
        correlation: r with its interval over episodes, within tasks; None where it cannot be told.
        foretold: The same for the similarity of an episode's first chunk alone, which the outcome cannot have changed.
    """

    episodes: int
    similarity: float
    succeeded: float | None
    failed: float | None
    correlation: tuple[float, float, float] | None
    foretold: tuple[float, float, float] | None = None


def correlation_text(correlation: tuple[float, float, float] | None) -> str:
    """ "+0.21 (+0.14 to +0.28)"."""
    return "-" if correlation is None else "{:+.2f} ({:+.2f} to {:+.2f})".format(*correlation)


def motion_link(row: Row) -> MotionLink | None:
    """Of a row; None where no motion was measured."""
    if not row.motion:
        return None
    _, alike, success = zip(*row.motion, strict=True)
    by_outcome = {kind: [a for a, s in zip(alike, success, strict=True) if s == kind] for kind in (True, False)}
    return MotionLink(
        episodes=len(alike),
        similarity=statistics.fmean(alike),
        succeeded=statistics.fmean(by_outcome[True]) if by_outcome[True] else None,
        failed=statistics.fmean(by_outcome[False]) if by_outcome[False] else None,
        correlation=_correlation(row.motion),
        foretold=_correlation(row.first_motion),
    )


def _correlation(episodes: Sequence[tuple[str, float, bool]]) -> tuple[float, float, float] | None:
    tasks, alike, success = zip(*episodes, strict=True) if episodes else ((), (), ())
    return within_correlation(alike, success, tasks)
