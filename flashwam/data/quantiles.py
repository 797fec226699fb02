# SPDX-License-Identifier: Apache-2.0
"""The actions' quantiles over a whole data set, in the channels of a model.

Letters: T rows, U controls, A action channels.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flashwam.data.actions import ActionNorm
from flashwam.data.episodes import read_table
from flashwam.data.poses import relative_poses
from flashwam.data.segments import find_segments

__all__ = ["fit_norm"]

_LEAST_RANGE = 1e-3


def fit_norm(
    root: Path | str,
    *,
    cameras: Sequence[str],
    channels: int,
    relative: bool = False,
    used: Sequence[int] | None = None,
    clip: float | None = 1.5,
    unscaled: Sequence[int] = (),
) -> ActionNorm:
    """Takes the 1 % and 99 % quantiles over all rows of all segments.

    Args:
        root: Folder above the repos.
        cameras: Keys whose latents a segment must have.
        channels: A.
        relative: Rows are absolute poses, measured relative to their segment's first.
        used: Model channel of each control; None takes the first U.
        clip: See `ActionNorm`.
        unscaled: Controls that are left as they are, such as a gripper of 0 and 1.

    Raises:
        FileNotFoundError, ValueError: A table is missing or damaged, or the controls do not fit the channels.
    """
    parts = []
    for segment in find_segments(root, cameras=cameras):
        table = read_table(segment.table, ["action"])
        if "action" not in table or table["action"].ndim != 2:
            raise ValueError(f"{segment.table}: has no column 'action' of lists of numbers")
        rows = table["action"][segment.start : segment.end]
        width = rows.shape[1] if used is None else len(used)
        if rows.shape[1] != width or width > channels or not np.isfinite(rows).all():
            raise ValueError(
                f"{segment.table}: expected {min(width, channels)} finite controls a row for the model's channels, got "
                f"{rows.shape[1]}"
            )
        try:
            parts.append(relative_poses(rows).astype(np.float32) if relative else rows)
        except ValueError as error:
            raise ValueError(f"{segment.table}: {error}") from error
    fitted = ActionNorm.fit(np.concatenate(parts), clip=clip, least_range=_LEAST_RANGE)
    places = tuple(used) if used is not None else fitted.used
    low, high = np.zeros(channels), np.zeros(channels)
    low[list(places)], high[list(places)] = fitted.q01, fitted.q99
    if max(unscaled, default=-1) >= len(places):
        raise ValueError(f"unscaled controls {tuple(unscaled)} must be below {len(places)}, as many as a row has")
    kept = [places[control] for control in unscaled]
    low[kept], high[kept] = -1.0, 1.0
    return ActionNorm(q01=tuple(low.tolist()), q99=tuple(high.tolist()), used=places, clip=clip)
