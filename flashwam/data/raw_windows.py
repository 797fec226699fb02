# SPDX-License-Identifier: Apache-2.0
"""Windows of raw recordings: pictures and rows of actions, as a robot would have seen and done them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from flashwam.data.bad_files import BadFiles
from flashwam.data.poses import relative_poses
from flashwam.data.preflight import ActionRules, inspect
from flashwam.data.raw import RawEpisode, list_episodes, read_rows
from flashwam.data.segments import NoEpisodesError, select_repos
from flashwam.data.tables import action_rows, list_rows
from flashwam.system.errors import InputError
from flashwam.system.paths import user_path

__all__ = ["RawWindow", "RawWindows"]

_BEGINNINGS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class RawWindow:
    """Rows of one episode.

    Attributes:
        episode: The episode.
        first: Row at which the window begins.
        rows: Controls from there to the end of the segment, float32 [T, U].
        prompt: The instruction.
        told: Column "observation.<sense>" -> its numbers in every row of the episode, float32.
    """

    episode: RawEpisode
    first: int
    rows: np.ndarray
    prompt: str
    told: Mapping[str, np.ndarray] = field(default_factory=dict)

    def pictures(self, rows: Sequence[int]) -> list[dict[str, np.ndarray]]:
        """The observations after so many controls of the window, ascending: camera -> uint8 [height, width, 3], and
        what is told beside them."""
        at = [self.first + row for row in rows]
        read = {key: clip.read(at, fps=self.episode.fps) for key, clip in self.episode.clips.items()}
        read |= {name: values[at] for name, values in self.told.items()}
        return [{key: values[number] for key, values in read.items()} for number in range(len(at))]


class RawWindows:
    """Windows of all LeRobot v2.x and v3.x data sets below a folder; window i is a function of the files and i alone.

    One in four begins where its segment does. Of relative poses all do, because they are told from there on.

    Args:
        root: The folder.
        cameras: Keys of the cameras.
        least: Rows that a window has at least.
        key: Column of the actions.
        relative: Actions are absolute poses, which a model is told relative to the window's first.
        tasks: See `select_repos`.
        seed: Of the windows.
        senses: Names of columns "observation.<sense>" that a model is told.
        depth: Cameras of depth maps are meant, and taken as grey pictures.

    Raises:
        FileNotFoundError, ValueError: Something is missing or damaged, or no segment is so long.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        cameras: Sequence[str],
        least: int,
        key: str = "action",
        relative: bool = False,
        tasks: Sequence[str] | None = None,
        seed: int = 1,
        senses: Sequence[str] = (),
        depth: bool = False,
    ) -> None:
        repos = {repo: list_episodes(repo, cameras=cameras, depth=depth) for repo in select_repos(root, tasks)}
        kept = inspect(repos, ActionRules(key=key, relative=relative), BadFiles(), root=user_path(root))
        self._parts = [
            (episode, start, end, prompt)
            for episodes in kept.values()
            for episode in episodes
            for start, end, prompt in episode.segments
            if end - start >= least
        ]
        if not self._parts:
            raise NoEpisodesError(f"no episode below {root} has a segment of {least} rows, which a chunk takes")
        self._least, self._key, self._relative, self._seed = least, key, relative, seed
        self._columns = tuple(f"observation.{name}" for name in senses)
        self._rows = lru_cache(maxsize=8)(self._rows_of)

    @property
    def episodes(self) -> int:
        """Episodes that windows are of."""
        return len({(episode.table, episode.index) for episode, *_ in self._parts})

    def window(self, number: int) -> RawWindow:
        """Reads a window's rows; its pictures are read when they are asked for."""
        epoch, place = divmod(number, len(self._parts))
        order = np.random.Generator(np.random.Philox(key=[self._seed, epoch])).permutation(len(self._parts))
        part = int(order[place])
        episode, start, end, prompt = self._parts[part]
        begins = self._relative or number % _BEGINNINGS == 0
        chance = np.random.Generator(np.random.Philox(key=[self._seed, number], counter=[0, 0, 0, 1]))
        first = start if begins else start + int(chance.integers(end - self._least - start + 1))
        rows, told = self._rows(part)
        rows = rows[first:end]
        rows = relative_poses(rows) if self._relative else rows
        return RawWindow(episode=episode, first=first, rows=rows.astype(np.float32), prompt=prompt, told=told)

    def _rows_of(self, part: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The actions of a whole episode, and what is told beside them."""
        episode = self._parts[part][0]
        table = read_rows(episode)
        missing = [name for name in self._columns if name not in table.column_names]
        if missing:
            raise InputError(
                f"{episode.table}: has no column {missing[0]!r}, which the model is told; columns: "
                f"{', '.join(table.column_names)}"
            )
        try:
            told = {name: list_rows(table.column(name)).astype(np.float32) for name in self._columns}
        except ValueError as error:
            raise InputError(f"{episode.table}: what the model is told {error}") from error
        return action_rows(table, self._key), told
