# SPDX-License-Identifier: Apache-2.0
"""Looks at the rows of all episodes before any picture is encoded, which takes hours: faults of the actions and
of the rate, and which rows have which instruction.

Letters: T rows, U controls.
"""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from flashwam.data.bad_files import BadFiles
from flashwam.data.clips import Clip
from flashwam.data.episodes import read_info
from flashwam.data.poses import relative_poses
from flashwam.data.rates import TIMES, check_rate
from flashwam.data.raw import RawEpisode
from flashwam.data.records import read_tasks
from flashwam.data.segments import name_below
from flashwam.data.tables import action_rows, read_columns, read_schema
from flashwam.system.errors import InputError

__all__ = ["ActionRules", "inspect"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionRules:
    """The demands on the rows of actions.

    Attributes:
        key: Their column.
        width: U; None: as many as most episodes have.
        most: Largest U, the model's action channels; None for any.
        relative: They are absolute poses, see `flashwam.data.poses.relative_poses`.
    """

    key: str = "action"
    width: int | None = None
    most: int | None = None
    relative: bool = False


def inspect(
    repos: dict[Path, list[RawEpisode]], rules: ActionRules, bad: BadFiles, *, root: Path
) -> dict[Path, list[RawEpisode]]:
    """The episodes whose rows and pictures are there and whose actions are as they must be.

    Args:
        repos: Data set -> its episodes.
        rules: What their actions must be.
        bad: Receives episodes that are left out, by their data set's path below `root`.
        root: The folder above the data sets.

    Returns:
        The same, each episode with one segment per run of rows with the same instruction.
    """
    widths: dict[tuple[Path, int], int] = {}
    names = {repo: name_below(repo, root) for repo in repos}
    out: dict[Path, list[RawEpisode]] = {}
    seen: set[Path] = set()
    for repo, episodes in repos.items():
        tables = _Tables(rules.key)
        kept = []
        for episode in episodes:
            try:
                rows = tables.rows(episode)
                widths[repo, episode.index] = _check_actions(episode, rows, tables.schema, rules)
                _check_rate(episode, rows)
                divided = _divided(repo, episode, rows)
                for clip in episode.clips.values():
                    if clip.path not in seen:
                        clip.check()
                        # A table's pictures are looked at in every episode, a shared video once.
                        seen.update({clip.path} if isinstance(clip, Clip) else ())
                kept.append(divided)
            except (ValueError, FileNotFoundError) as error:
                bad.add(_name(names[repo], episode), error)
        out[repo] = kept
    return _of_one_width(out, widths, rules, bad, names)


def _name(repo: str, episode: RawEpisode) -> str:
    return f"{repo}/episode_{episode.index:06d}"


class _Tables:
    """The rows of one episode after another; a file of many is read once.

    Args:
        key: Column of the actions.
    """

    def __init__(self, key: str) -> None:
        self._names = [key, "episode_index", "task_index", TIMES]
        self._path: Path | None = None
        self._table: Any = None
        self._owner = np.zeros(0)
        self.schema: Any = None

    def rows(self, episode: RawEpisode) -> Any:
        """Actions and numbers of an episode, as a pyarrow table.

        Raises:
            FileNotFoundError: The file is missing.
            ValueError: It is damaged, or has another number of rows than `meta/` says.
        """
        path = episode.table
        if path != self._path:
            self._path = None
            self.schema, self._table = read_schema(path), read_columns(path, self._names)
            if "episode_index" not in self._table.column_names:
                raise InputError(f"{path}: has no column 'episode_index'")
            self._owner = self._table.column("episode_index").to_numpy()
            self._path = path
        mine = np.flatnonzero(self._owner == episode.index)
        if len(mine) != episode.length:
            raise InputError(f"{path}: episode {episode.index} has {len(mine)} rows, meta/ says {episode.length}")
        if len(mine) == mine[-1] - mine[0] + 1:
            return self._table.slice(mine[0], len(mine))
        return self._table.take(mine)


def _check_actions(episode: RawEpisode, rows: Any, schema: Any, rules: ActionRules) -> int:
    """U."""
    try:
        values = action_rows(rows, rules.key, schema=schema)
        if rules.relative:
            relative_poses(values)
    except ValueError as error:
        raise InputError(f"{episode.table}: episode {episode.index}: {error}") from error
    return values.shape[1]


def _check_rate(episode: RawEpisode, rows: Any) -> None:
    if TIMES not in rows.column_names:
        return
    try:
        check_rate(rows.column(TIMES), episode.fps)
    except ValueError as error:
        raise InputError(f"{episode.table}: episode {episode.index}: {error}") from error


def _divided(repo: Path, episode: RawEpisode, rows: Any) -> RawEpisode:
    """The episode with a segment per run of rows of the same task, where `meta/` does not say it itself."""
    if episode.divided:
        return episode
    at = f"{episode.table}: episode {episode.index}"
    if "task_index" not in rows.column_names:
        if len(set(episode.tasks)) == 1:
            return episode
        raise InputError(
            f"{at} has {len(episode.tasks)} tasks and no column 'task_index' that says which row has which"
        )
    column = rows.column("task_index")
    if column.null_count:
        raise InputError(f"{at}: task_index is null in row {int(np.argmax(column.is_null()))}")
    try:
        values = np.asarray(column.to_numpy()).astype(np.float64)
    except (ValueError, TypeError) as error:
        raise InputError(f"{at}: task_index is of {column.type}, expected whole numbers") from error
    whole = np.isfinite(values) & (values == np.round(values))
    if not whole.all():
        row = int(np.argmin(whole))
        raise InputError(f"{at}: task_index is {values[row]} in row {row}, expected a whole number")
    numbers = values.astype(np.int64)
    if len(set(episode.tasks)) == 1 and len(set(numbers.tolist())) == 1:
        return episode
    try:
        known = read_tasks(repo)
    except (ValueError, FileNotFoundError) as error:
        raise InputError(f"{at} has several tasks, but {error}") from error
    texts = [_text(at, known, episode, numbers, row) for row in range(len(numbers))]
    starts = [row for row in range(len(texts)) if row == 0 or texts[row] != texts[row - 1]]
    ends = [*starts[1:], len(texts)]
    segments = tuple((start, end, texts[start]) for start, end in zip(starts, ends, strict=True))
    return replace(episode, segments=segments)


def _text(at: str, known: dict[int, str], episode: RawEpisode, numbers: np.ndarray, row: int) -> str:
    number = int(numbers[row])
    if number not in known:
        raise InputError(f"{at}: row {row} has task_index {number}, which meta/ gives no text; it has {sorted(known)}")
    if known[number] not in episode.tasks:
        raise InputError(
            f"{at}: row {row} has task {number}, {known[number]!r}, which is none of the episode's tasks in meta/: "
            f"{list(episode.tasks)}"
        )
    return known[number]


def _said_width(repo: Path, key: str) -> int | None:
    feature = read_info(repo)["features"].get(key)
    shape = feature.get("shape") if isinstance(feature, dict) else None
    return shape[0] if isinstance(shape, list) and len(shape) == 1 else None


def _of_one_width(
    repos: dict[Path, list[RawEpisode]],
    widths: dict[tuple[Path, int], int],
    rules: ActionRules,
    bad: BadFiles,
    names: dict[Path, str],
) -> dict[Path, list[RawEpisode]]:
    """Without the episodes that have another number of controls than all must have."""
    kept = [(repo, episode) for repo, episodes in repos.items() for episode in episodes]
    counts = Counter(widths[repo, episode.index] for repo, episode in kept)
    # Of equally many, what meta/ says, or else the first met.
    most = [width for width, count in counts.items() if count == max(counts.values())]
    said = [width for width in most if any(width == _said_width(repo, rules.key) for repo in repos)]
    usual = rules.width or next(iter([*said, *most]), 0)
    told = f"data.used_channels names {usual}" if rules.width else f"the others have {usual}"
    out: dict[Path, list[RawEpisode]] = {repo: [] for repo in repos}
    for repo, episode in kept:
        width = widths[repo, episode.index]
        at = f"{episode.table}: episode {episode.index} has {width} controls"
        if width != usual:
            bad.add(_name(names[repo], episode), InputError(f"{at}, {told}"))
        elif rules.most is not None and width > rules.most:
            bad.add(_name(names[repo], episode), InputError(f"{at}, the model has {rules.most} (data.action_channels)"))
        else:
            out[repo].append(episode)
    return out
