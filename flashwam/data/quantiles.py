# SPDX-License-Identifier: Apache-2.0
"""The actions' quantiles over a whole data set, in the channels of a model.

Letters: T rows, U controls, A action channels.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flashwam.data.actions import ActionNorm
from flashwam.data.bad_files import BadFiles
from flashwam.data.poses import relative_poses
from flashwam.data.segments import Segment, find_segments
from flashwam.data.tables import finite_actions, read_actions
from flashwam.system.errors import InputError

__all__ = ["control_rows", "norm_of"]

_LEAST_RANGE = 1e-3


def control_rows(
    root: Path | str,
    *,
    cameras: Sequence[str],
    relative: bool = False,
    tasks: Sequence[str] | None = None,
    most: int | None = None,
    bad: BadFiles | None = None,
) -> np.ndarray:
    """The controls of all segments, one after another, float32 [T, U].

    Args:
        root: Folder above the repos.
        cameras: Keys whose latents a segment must have.
        relative: Rows are absolute poses, measured relative to their segment's first.
        tasks: See `flashwam.data.segments.select_repos`.
        most: Read at most so many segments, evenly spread; None for all.
        bad: Receives what cannot be read; None raises.

    Raises:
        FileNotFoundError, ValueError: A table is missing or damaged, or segments have different numbers of controls.
    """
    bad = bad or BadFiles()
    segments = find_segments(root, cameras=cameras, tasks=tasks, bad=bad)
    if most is not None and len(segments) > most:
        segments = [segments[number * len(segments) // most] for number in range(most)]
    parts: list[np.ndarray] = []
    table: tuple[Path, np.ndarray] | None = None
    for segment in segments:
        try:
            # Clips of one episode follow each other.
            if table is None or table[0] != segment.table:
                table = segment.table, read_actions(segment.table)
            rows = _segment_rows(table[1], segment, relative=relative)
            if parts and rows.shape[1] != parts[0].shape[1]:
                raise InputError(f"{segment.table}: has {rows.shape[1]} controls, the others have {parts[0].shape[1]}")
        except (ValueError, FileNotFoundError) as error:
            bad.add(str(segment), error)
            continue
        parts.append(rows)
    if not parts:
        raise InputError(f"no actions below {root} can be read: {next(iter(bad.reasons.values()), 'no segments')}")
    return np.concatenate(parts)


def _segment_rows(rows: np.ndarray, segment: Segment, *, relative: bool) -> np.ndarray:
    try:
        rows = finite_actions(rows[segment.start : segment.end], first_row=segment.start)
        if not len(rows):
            raise InputError(f"has no row {segment.start}")
        return relative_poses(rows).astype(np.float32) if relative else rows
    except ValueError as error:
        raise InputError(f"{segment.table}: {error}") from error


def norm_of(
    rows: np.ndarray,
    *,
    channels: int,
    used: Sequence[int] | None = None,
    clip: float | None = 1.5,
    unscaled: Sequence[int] = (),
) -> ActionNorm:
    """Takes the 1 % and 99 % quantiles of controls.

    Args:
        rows: [T, U].
        channels: A.
        used: Model channel of each control; None takes the first U.
        clip: See `ActionNorm`.
        unscaled: Controls that are left as they are, such as a gripper of 0 and 1.

    Raises:
        ValueError: The controls do not fit the channels.
    """
    width = rows.shape[1] if used is None else len(used)
    if rows.shape[1] != width or width > channels:
        raise InputError(
            f"expected {min(width, channels)} controls a row for the model's channels, got {rows.shape[1]}"
        )
    fitted = ActionNorm.fit(rows, clip=clip, least_range=_LEAST_RANGE)
    places = tuple(used) if used is not None else fitted.used
    low, high = np.zeros(channels), np.zeros(channels)
    low[list(places)], high[list(places)] = fitted.q01, fitted.q99
    if max(unscaled, default=-1) >= len(places):
        raise InputError(f"unscaled controls {tuple(unscaled)} must be below {len(places)}, as many as a row has")
    kept = [places[control] for control in unscaled]
    low[kept], high[kept] = -1.0, 1.0
    return ActionNorm(q01=tuple(low.tolist()), q99=tuple(high.tolist()), used=places, clip=clip)
