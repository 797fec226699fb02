# SPDX-License-Identifier: Apache-2.0
"""The actions' quantiles over a whole data set, in the channels of a model.

Letters: T rows, U controls, A action channels.
"""

from collections.abc import Mapping, Sequence
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
_MOST_COPIES = 64


def control_rows(
    root: Path | str,
    *,
    cameras: Sequence[str],
    relative: bool = False,
    tasks: Sequence[str] | None = None,
    most: int | None = None,
    bad: BadFiles | None = None,
) -> np.ndarray:
    """The controls of all segments, one after another, float32 [T, U]; every row of a table counts alike, however many
    segments have it, as clips that overlap do.

    Args:
        root: Folder above the repos.
        cameras: Keys whose latents a segment must have.
        relative: Rows are absolute poses, measured relative to their segment's first: in every segment that has
            them, each as often as makes all rows equally many.
        tasks: See `flashwam.data.segments.select_repos`.
        most: Read at most so many segments, drawn evenly, always the same; None for all.
        bad: Receives what cannot be read; None raises.

    Raises:
        FileNotFoundError, ValueError: A table is missing or damaged, or segments have different numbers of controls.
    """
    bad = bad or BadFiles()
    every = segments = find_segments(root, cameras=cameras, tasks=tasks, bad=bad)
    if most is not None and len(segments) > most:
        # An even step over clips would meet the same places of every episode again and again.
        chosen = np.random.Generator(np.random.Philox(key=0)).permutation(len(segments))[:most]
        segments = [segments[number] for number in sorted(chosen.tolist())]
    parts: dict[Segment, np.ndarray] = {}
    first: np.ndarray | None = None
    unread: set[Segment] = set()
    table: tuple[Path, np.ndarray] | None = None
    for segment in segments:
        try:
            # Clips of one episode follow each other.
            if table is None or table[0] != segment.table:
                table = segment.table, read_actions(segment.table)
            rows = _segment_rows(table[1], segment, relative=relative)
            if first is not None and rows.shape[1] != first.shape[1]:
                raise InputError(f"{segment.table}: has {rows.shape[1]} controls, the others have {first.shape[1]}")
        except (ValueError, FileNotFoundError) as error:
            bad.add(str(segment), error)
            unread.add(segment)
            continue
        first = parts[segment] = rows
    if not parts:
        raise InputError(f"no actions below {root} can be read: {next(iter(bad.reasons.values()), 'no segments')}")
    copies = _copies([segment for segment in every if segment not in unread], several=relative)
    return np.concatenate([np.repeat(rows, copies[segment][: len(rows)], axis=0) for segment, rows in parts.items()])


def _copies(segments: Sequence[Segment], *, several: bool) -> Mapping[Segment, np.ndarray]:
    """Segment -> so many times each of its rows is taken from it, [T]: over all segments as often for every row.

    Args:
        segments: Those.
        several: Take a row from every segment that has it, so many times as the row of most segments has them;
            otherwise once, from the first.
    """
    have: dict[Path, np.ndarray] = {}
    before: dict[Segment, np.ndarray] = {}
    for segment in dict.fromkeys(segments):
        had = have.get(segment.table, np.zeros(0, np.int64))
        have[segment.table] = had = np.pad(had, (0, max(0, segment.end - len(had))))
        before[segment] = had[segment.start : segment.end].copy()
        had[segment.start : segment.end] += 1
    if not several:
        return {segment: (earlier == 0).astype(np.int64) for segment, earlier in before.items()}
    times = min(_MOST_COPIES, max(int(count.max()) for count in have.values()))
    copies = {}
    for segment, earlier in before.items():
        among = have[segment.table][segment.start : segment.end]
        copies[segment] = (earlier + 1) * times // among - earlier * times // among
    return copies


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
