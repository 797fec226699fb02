# SPDX-License-Identifier: Apache-2.0
"""The fit of a normalisation to a data set's controls: what it clips, and how much of its range they use.

Letters: T rows, U controls.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from flashwam.data.actions import ActionNorm, quantiles, rare
from flashwam.system.errors import InputError

__all__ = ["ControlFit", "coverage", "coverage_lines", "worst"]

MOST_OUTSIDE = 0.05
LEAST_SPAN = 0.1
_LIMIT = 1.5
_CONSTANT = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlFit:
    """One control.

    Attributes:
        control: Its place in a row.
        channel: Of the model.
        low, high: What becomes -1 and 1.
        q01, q99: Quantiles of the data.
        least, most: Minimum and maximum of the data.
        clipped: Share of rows that clipping changes.
        outside: Share of rows beyond the clip, or beyond 1.5 where nothing is clipped.
        basis: What `low` and `high` are of this data: "quantiles", "minimum and maximum" (their quantiles nearly
            coincide), "constant" or "given".
    """

    control: int
    channel: int
    low: float
    high: float
    q01: float
    q99: float
    least: float
    most: float
    clipped: float
    outside: float
    basis: str

    @property
    def span(self) -> float:
        """Distance of the data's quantiles by that of the normalisation's."""
        return (self.q99 - self.q01) / (self.high - self.low)

    @property
    def is_foreign(self) -> bool:
        """True if the normalisation is not of such data: it cuts off more than 5 % of the rows, or leaves the control
        less than a tenth of its range."""
        moves = self.most - self.least > _CONSTANT
        whole = (self.most - self.least) / (self.high - self.low)
        return self.outside > MOST_OUTSIDE or (moves and max(self.span, whole) < LEAST_SPAN)

    def to_dict(self) -> dict[str, Any]:
        """Gives JSON-ready values."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"control {self.control}: {self.outside:.1%} of rows clipped, data from {self.q01:.4g} to {self.q99:.4g} "
            f"(1 % and 99 %), normalised from {self.low:.4g} to {self.high:.4g}"
        )


def coverage(rows: np.ndarray, norm: ActionNorm) -> list[ControlFit]:
    """Measures how a normalisation fits controls.

    Args:
        rows: [T, U].
        norm: Of U controls.

    Raises:
        ValueError: It is of another number of controls.
    """
    if rows.shape[1] != len(norm.used):
        raise InputError(f"the data have {rows.shape[1]} controls a row, the normalisation {len(norm.used)}")
    values = np.asarray(rows, np.float64)
    q01, q99 = quantiles(values)
    least, most = values.min(axis=0), values.max(axis=0)
    places = list(norm.used)
    low, high = np.array(norm.q01)[places], np.array(norm.q99)[places]
    limit = _LIMIT if norm.clip is None else norm.clip
    # A little beyond: a value on the limit is not changed by it.
    outside = (np.abs((values - low) / (high - low) * 2 - 1) > limit * (1 + 1e-6)).mean(axis=0)
    seldom = rare(q01, q99, least, most)
    out = []
    for control, channel in enumerate(places):
        near = np.allclose((low[control], high[control]), (q01[control], q99[control]), rtol=1e-5, atol=1e-6)
        if most[control] - least[control] <= 1e-9:
            basis = "constant"
        elif seldom[control] and low[control] <= least[control] and high[control] >= most[control]:
            basis = "minimum and maximum"
        else:
            basis = "quantiles" if near else "given"
        out.append(
            ControlFit(
                control=control,
                channel=channel,
                low=float(low[control]),
                high=float(high[control]),
                q01=float(q01[control]),
                q99=float(q99[control]),
                least=float(least[control]),
                most=float(most[control]),
                clipped=0.0 if norm.clip is None else float(outside[control]),
                outside=float(outside[control]),
                basis=basis,
            )
        )
    return out


def worst(fits: list[ControlFit]) -> list[ControlFit]:
    """The controls that a normalisation fits worst, first."""
    return sorted(fits, key=lambda fit: (-fit.outside, fit.span))


def coverage_lines(fits: list[ControlFit]) -> list[str]:
    """A table, one line per control."""
    head = ("control", "channel", "-1 is", "1 is", "least", "most", "clipped", "taken from")
    rows = [
        (
            str(fit.control),
            str(fit.channel),
            *(f"{value:.4g}" for value in (fit.low, fit.high, fit.least, fit.most)),
            f"{fit.clipped:.2%}",
            fit.basis,
        )
        for fit in fits
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return [
        "  ".join(text.rjust(width) if column < len(head) - 1 else text for column, (text, width) in enumerate(cells))
        for cells in (tuple(zip(row, widths, strict=True)) for row in (head, *rows))
    ]
