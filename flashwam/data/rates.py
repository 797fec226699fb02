# SPDX-License-Identifier: Apache-2.0
"""The rate of a data set, held to the times that its rows tell themselves."""

from typing import Any

import numpy as np

from flashwam.system.errors import InputError

__all__ = ["TIMES", "check_rate"]

TIMES = "timestamp"
"""Column of the seconds at which a row was recorded."""
_NEAR = 0.05
_FEWEST = 5
_PARTS = (1.0, 1e3, 1e6, 1e9)


def check_rate(times: Any, fps: float) -> None:
    """Refuses a rate by which a video's pictures would go to the actions of other rows.

    Both the usual step and the mean one must gainsay it: times that were rounded have no usual step, and rows that were
    dropped shift the mean. Times that stand still, are of few rows or in parts of a second prove nothing.

    Args:
        times: Of an episode's rows in their order, a pyarrow column.
        fps: Rows per second, as `meta/info.json` says.

    Raises:
        ValueError: The rows are further apart, or nearer.
    """
    import pyarrow as pa

    if not (pa.types.is_floating(times.type) or pa.types.is_integer(times.type)):
        return
    steps = np.diff(times.drop_null().to_numpy().astype(np.float64))
    if len(steps) < _FEWEST or not np.isfinite(steps).all():
        return
    usual, mean = float(np.median(steps)), float(np.mean(steps))
    near = any(abs(step * fps / parts - 1) <= _NEAR for step in (usual, mean) for parts in _PARTS)
    if usual <= 0 or mean <= 0 or near:
        return
    raise InputError(
        f"rows are {usual:.3g} s apart by their column {TIMES!r}, meta/info.json says {fps:g} rows a second, which are "
        f"{1 / fps:.3g} s apart: pictures would go to the actions of other rows; put the rate at which they were "
        "recorded into meta/info.json, or right the times"
    )
