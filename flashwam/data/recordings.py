# SPDX-License-Identifier: Apache-2.0
"""Notes of the raw recording that an episode was converted from, to tell it from another of the same number.

Data sets are edited: an episode is deleted and the rest numbered anew, or recorded again. A note holds two fingerprints
of everything, of the file that it lies in and of itself: a file that is the same is not looked into, and one that was
written anew with the same recordings, as by appending episodes, is no change.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from flashwam.data.clips import Clip, TableClip
from flashwam.data.episodes import CHUNK
from flashwam.data.fingerprint import file_fingerprint
from flashwam.data.raw import RawEpisode, read_rows
from flashwam.data.tables import read_columns

__all__ = ["Recording", "note_path"]

T = TypeVar("T")

_NUMBERS = ("episode_index", "index", "task_index")
"""Columns that say where in a data set an episode is, not what it is."""


def note_path(repo: Path, index: int) -> Path:
    """Path of an episode's note in the data set that was made."""
    return repo / "recordings" / f"chunk-{index // CHUNK:03d}" / f"episode_{index:06d}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """An episode as it is now.

    Attributes:
        episode: Where its rows and pictures lie.
        without: Columns of its table that hold pictures.
    """

    episode: RawEpisode
    without: Collection[str] = ()

    def note(self, shown: Sequence[int]) -> dict[str, Any]:
        """Describes it; what cannot be read is null.

        Args:
            shown: Ascending rows whose pictures are looked at.
        """
        return {
            "rows": {"file": self._rows_file(), "content": self._rows()},
            "pictures": {
                key: {"file": self._file(clip), "shown": list(shown), "content": self._shown(clip, shown)}
                for key, clip in self.episode.clips.items()
            },
            "instructions": _by_text(self.episode.segments),
        }

    def with_new_segments(self, note: Mapping[str, Any]) -> dict[str, Any]:
        """A note, as `note` makes it, with the instructions of segments that it does not tell."""
        told = [(start, end, text) for text, parts in note["instructions"].items() for start, end in parts]
        known = {(start, end) for start, end, _ in told}
        more = [segment for segment in self.episode.segments if segment[:2] not in known]
        return {**note, "instructions": _by_text([*told, *more])}

    def differences(self, note: Mapping[str, Any]) -> list[str]:
        """Lists what is proven to differ from a note; empty where nothing is."""
        rows, found = note["rows"], []
        if _differ(rows, self._rows_file(), self._rows):
            found.append("other rows")
        for key, clip in self.episode.clips.items():
            seen = note["pictures"].get(key)
            if seen is not None and _differ(seen, self._file(clip), lambda c=clip, s=seen: self._shown(c, s["shown"])):
                found.append(f"other pictures of {key}")
        told = {(start, end): text for text, parts in note["instructions"].items() for start, end in parts}
        changed = [
            f"rows {start} to {end} {told[start, end]!r} there, {text!r} now"
            for start, end, text in self.episode.segments
            if told.get((start, end), text) != text
        ]
        return found + [f"other instructions: {text}" for text in changed[:1]]

    def differences_of_table(self, table: Path, action_key: str) -> list[str]:
        """As `differences`, of a table that was converted without a note.

        Args:
            table: Of the conversion, with the actions in the column `action`.
            action_key: The actions' column in the recording.
        """

        def there() -> list[Any]:
            return read_columns(table, ["action"]).column("action").to_pylist()

        def now() -> list[Any]:
            return read_rows(self.episode, without=self.without).column(action_key).to_pylist()

        a, b = _readable(there), _readable(now)
        if a is None or b is None or repr(a) == repr(b):
            return []
        return ["other actions" if len(a) == len(b) else f"{len(b)} rows, not {len(a)}"]

    def _rows_file(self) -> str | None:
        return _readable(lambda: f"{file_fingerprint(self.episode.table)} {self.episode.length}")

    def _rows(self) -> str | None:
        return _readable(self._hashed_rows)

    def _hashed_rows(self) -> str:
        table, digest = read_rows(self.episode, without=self.without), hashlib.sha256()
        for name in sorted(set(table.column_names) - set(_NUMBERS)):
            # Numbers as they read, which no version of a library changes.
            digest.update(f"{name} {table.column(name).to_pylist()!r}\n".encode())
        return digest.hexdigest()

    def _file(self, clip: Clip | TableClip) -> str | None:
        place = clip.first if isinstance(clip, Clip) else f"{clip.column} {clip.episode}"
        # The rate decides which pictures of a file are whose row's.
        return _readable(lambda: f"{file_fingerprint(clip.path)} {place} at {self.episode.fps:g}")

    def _shown(self, clip: Clip | TableClip, rows: Sequence[int]) -> str | None:
        def hashed() -> str:
            pictures = clip.read(rows, fps=self.episode.fps)
            return hashlib.sha256(f"{pictures.shape}\n".encode() + pictures.tobytes()).hexdigest()

        return _readable(hashed)


def _readable(read: Callable[[], T]) -> T | None:
    """None where it cannot be read: that proves nothing, and is told where it is needed."""
    try:
        return read()
    except (ValueError, KeyError, OSError):
        return None


def _differ(noted: Mapping[str, Any], file: str | None, content: Callable[[], str | None]) -> bool:
    if file is None or file == noted["file"] or noted["content"] is None:
        return False
    return (now := content()) is not None and now != noted["content"]


def _by_text(segments: Iterable[tuple[int, int, str]]) -> dict[str, list[list[int]]]:
    found: dict[str, list[list[int]]] = {}
    for start, end, text in segments:
        found.setdefault(text, []).append([start, end])
    return found
