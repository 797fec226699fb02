# SPDX-License-Identifier: Apache-2.0
"""Raw LeRobot data sets, versions 2 and 3: where each episode's rows and pictures lie, and reading them.

Version 2 has a table and a video per episode; version 3 packs many episodes into a file and says in
`meta/episodes/` where each begins.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashwam.data.bad_files import BadFiles
from flashwam.data.clips import Clip, TableClip, inside
from flashwam.data.depth import check_camera
from flashwam.data.episodes import CHUNK, read_info
from flashwam.data.records import json_lines, number, parquet_rows, text, texts, whole_field
from flashwam.data.tables import read_schema
from flashwam.system.errors import InputError
from flashwam.system.paths import user_path

__all__ = ["RawEpisode", "list_episodes", "read_rows"]

_V2_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
_V2_VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
_V3_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_V3_VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawEpisode:
    """One episode.

    Attributes:
        index: Its number.
        length: Rows, and pictures of each camera.
        fps: Rows per second.
        table: File that holds its rows, maybe among others'.
        clips: Camera key -> its pictures.
        segments: (first row, row after the last, instruction).
        tasks: Instructions of the whole episode.
        divided: `meta/` itself says which rows have which instruction.
    """

    index: int
    length: int
    fps: float
    table: Path
    clips: Mapping[str, Clip | TableClip]
    segments: tuple[tuple[int, int, str], ...]
    tasks: tuple[str, ...]
    divided: bool = True


def list_episodes(
    repo: Path | str, *, cameras: Sequence[str], depth: bool = False, bad: BadFiles | None = None
) -> list[RawEpisode]:
    """Reads a repo's `meta/`.

    Args:
        repo: Folder of a LeRobot data set.
        cameras: Keys of the cameras wanted.
        depth: Cameras of depth maps are meant, and taken as grey pictures.
        bad: Receives records that are no good; None raises.

    Returns:
        Its episodes, by number. Without `action_config` an episode is one segment with its first task's text: where it
        has several, `flashwam.data.preflight` divides it.

    Raises:
        FileNotFoundError: A file of `meta/` is missing.
        ValueError: `meta/` is damaged, of an unknown version, or has no such camera; the message names the file.
    """
    repo, bad = user_path(repo), bad or BadFiles()
    info, path = read_info(repo), repo / "meta" / "info.json"
    version = str(info.get("codebase_version"))
    features = info.get("features")
    if not isinstance(features, dict):
        raise InputError(f"{path}: has no features, so it says nothing of its columns and cameras")
    kinds = {key: check_camera(path, key, features, depth=depth) for key in cameras}
    if version.startswith("v2."):
        records, place = json_lines(repo / "meta" / "episodes.jsonl", bad), _place_v2
    elif version.startswith("v3."):
        records, place = parquet_rows(repo / "meta" / "episodes", bad), _place_v3
    else:
        raise InputError(f"{path}: codebase_version {version} is not known; expected v2.x or v3.x")
    episodes: dict[int, tuple[str, RawEpisode]] = {}
    for where, record in records:
        try:
            episode = _episode(place(repo, info, record), record, kinds, depth)
            if episode.index in episodes:
                raise InputError(f"episode {episode.index} was at {episodes[episode.index][0]} already")
        except ValueError as error:
            bad.add(where, InputError(f"{where}: not an episode's record ({error})"))
            continue
        episodes[episode.index] = where, episode
    return [episodes[index][1] for index in sorted(episodes)]


@dataclass(frozen=True, slots=True)
class _Places:
    """The places of an episode's files, by its version's rules.

    Attributes:
        repo: Folder of the data set.
        fps: Rows per second.
        table: File of its rows.
        video: Camera -> file, and number of the episode's first picture in it.
    """

    repo: Path
    fps: float
    table: Path
    video: Callable[[str], tuple[Path, int]]


def _episode(places: _Places, record: Mapping[str, Any], kinds: Mapping[str, str], depth: bool) -> RawEpisode:
    index, length, tasks = whole_field(record, "episode_index"), whole_field(record, "length"), texts(record, "tasks")
    if length == 0:
        raise InputError(f"episode {index} has no rows")
    clips: dict[str, Clip | TableClip] = {}
    for key, kind in kinds.items():
        if kind == "video":
            path, first = places.video(key)
            clips[key] = Clip(path=path, first=first, depth=depth)
        else:
            clips[key] = TableClip(path=places.table, column=key, episode=index, repo=places.repo, depth=depth)
    segments = _segments(record, length)
    return RawEpisode(
        index=index,
        length=length,
        fps=places.fps,
        table=places.table,
        clips=clips,
        segments=segments or ((0, length, tasks[0]),),
        tasks=tasks,
        divided=bool(segments),
    )


def _segments(record: Mapping[str, Any], length: int) -> tuple[tuple[int, int, str], ...]:
    """Reads `action_config`; empty where it is not there."""
    parts = record.get("action_config") or []
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise InputError(f"action_config is {parts!r}, expected a list of start_frame, end_frame and action_text")
    out: dict[tuple[int, int], str] = {}
    for part in parts:
        start, end = whole_field(part, "start_frame"), whole_field(part, "end_frame")
        if not start < end <= length:
            raise InputError(f"a segment from row {start} to {end} of {length}")
        said = text(part, "action_text")
        # Rows name the file of a segment, so they are given once.
        if out.setdefault((start, end), said) != said:
            raise InputError(f"two segments from row {start} to {end}, {out[start, end]!r} and {said!r}")
    return tuple((start, end, said) for (start, end), said in out.items())


def _place_v2(repo: Path, info: dict[str, Any], record: dict[str, Any]) -> _Places:
    index = whole_field(record, "episode_index")
    chunk = index // (whole_field(info, "chunks_size") if info.get("chunks_size") else CHUNK)
    names = {"episode_index": index, "episode_chunk": chunk}

    def video(key: str) -> tuple[Path, int]:
        return _file(repo, info, "video_path", _V2_VIDEO, video_key=key, **names), 0

    return _Places(repo, info["fps"], _file(repo, info, "data_path", _V2_DATA, **names), video)


def _place_v3(repo: Path, info: dict[str, Any], record: dict[str, Any]) -> _Places:
    def names(at: str, of: str) -> dict[str, int]:
        return {key: whole_field(record, f"{at}/{key}", f"{key}{of}") for key in ("chunk_index", "file_index")}

    def video(key: str) -> tuple[Path, int]:
        at, of = f"videos/{key}", f" for camera {key}"
        begin = number(record, f"{at}/from_timestamp", f"from_timestamp{of}")
        if begin < 0:
            raise InputError(f"from_timestamp{of} is {begin}, expected at least 0")
        return _file(repo, info, "video_path", _V3_VIDEO, video_key=key, **names(at, of)), round(begin * info["fps"])

    return _Places(repo, info["fps"], _file(repo, info, "data_path", _V3_DATA, **names("data", " for the rows")), video)


def _file(repo: Path, info: dict[str, Any], key: str, default: str, **names: Any) -> Path:
    """The path that `meta/info.json` gives as a pattern."""
    pattern = info.get(key) or default
    try:
        return inside(repo, pattern.format(**names))
    except (KeyError, IndexError, AttributeError, ValueError) as error:
        raise InputError(f"{key} {pattern!r} of meta/info.json names no file of the data set ({error!r})") from error


def read_rows(episode: RawEpisode, *, without: Collection[str] = ()) -> Any:
    """An episode's rows as a pyarrow table in their order, every column but those `without`.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: It is damaged, or has another number of rows than `meta/` says.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, chosen = episode.table, [("episode_index", "=", episode.index)]
    wanted = [name for name in read_schema(path).names if name not in without]
    try:
        table = pq.read_table(path, columns=wanted, filters=chosen, page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable table of episodes ({error})") from error
    if table.num_rows != episode.length:
        raise InputError(f"{path}: episode {episode.index} has {table.num_rows} rows, meta/ says {episode.length}")
    return table
