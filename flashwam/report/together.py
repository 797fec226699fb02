# SPDX-License-Identifier: Apache-2.0
"""The need of one model's streams for different consistency functions, told from their noise schedules alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from flashwam.core.streams import StreamSpec

__all__ = ["listed", "streams_together", "times"]

_SAME = 1e-9
_DISTANCE_POINTS = 2001


def times(ratio: float) -> str:
    """2.05 -> "2.0 times", 21.9 -> "22 times"."""
    return f"{ratio:.0f} times" if ratio >= 10 else f"{ratio:.1f} times"


def streams_together(specs: Mapping[str, StreamSpec], numbers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Tells whether a choice per stream can matter, and why.

    Args:
        specs: Stream name -> spec, at least two.
        numbers: Stream name -> numbers with their verdicts, as `schedule_analysis` makes them.

    Returns:
        Plain values: `distance` (largest difference between two streams' cumulative distributions of sigma: 0 where
        they draw alike), `spread` (function -> largest ratio of E b^2 between streams), `accepted` (functions that fit
        every stream), `matters` and `reason`.
    """
    sigma = torch.linspace(0, 1, _DISTANCE_POINTS, dtype=torch.float64)
    shares = torch.stack([spec.schedule.cdf(sigma) for spec in specs.values()])
    distance = float((shares.amax(0) - shares.amin(0)).max())
    spread = {}
    for function in ("lcm", "linear"):
        squares = [values["functions"][function]["mean_squared_gradient_scale"] for values in numbers.values()]
        spread[function] = max(squares) / min(squares)
    fits = [name for name, values in numbers.items() if "lcm" in values["verdict"]["accepted"]]
    starves = [name for name in numbers if name not in fits]
    if distance < _SAME:
        reason = _same_schedule(next(iter(numbers.values())), list(numbers))
    elif not starves:
        reason = (
            f"No. {listed(fits)} draw differently (their cumulative distributions are up to {distance:.2f} apart), "
            "but both functions fit every one of them."
        )
    elif not fits:
        reason = f"No. lcm fits none of {listed(starves)}: linear on all."
    else:
        reason = (
            f"Only if a stream is to keep lcm, which fits {listed(fits)} and starves {listed(starves)}; linear fits "
            f"all. The balance between the streams is no reason: E b^2 differs between them {times(spread['lcm'])} "
            f"with lcm on all and {times(spread['linear'])} with linear on all. What differs is the low end."
        )
    return {
        "distance": distance,
        "spread": spread,
        "accepted": ["linear"] if starves else ["lcm", "linear"],
        "matters": bool(fits and starves),
        "reason": reason,
    }


def _same_schedule(numbers: Mapping[str, Any], names: Sequence[str]) -> str:
    lcm, linear = numbers["functions"]["lcm"], numbers["functions"]["linear"]
    on_average = linear["mean_squared_gradient_scale"] / lcm["mean_squared_gradient_scale"]
    at_low = linear["gradient_scale_at_low_noise"] / lcm["gradient_scale_at_low_noise"]
    return (
        f"No. {listed(names)} draw from one schedule ({numbers['label']}; median sigma {numbers['median']:.2f}, "
        f"{numbers['mass_below_low_noise']:.1%} of the draws below 0.1), so any function passes each of them the same "
        "gradient at every level and none can favour one. One choice serves all: lcm passes "
        f"{times(on_average)} less than linear on average (E b^2), and {times(at_low)} less at sigma 0.1, where "
        f"{'few' if lcm['starved_share'] < 0.05 else 'many'} draws lie; linear loses nothing and needs no sampler of "
        "its own. What sets these streams apart is not their noise but their data: sizes, loss weights, guidance."
    )


def listed(names: Sequence[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
