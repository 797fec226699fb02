# SPDX-License-Identifier: Apache-2.0
"""Raw LeRobot data sets, versions 2 and 3: where each episode's rows and pictures lie, and reading them.

Version 2 has a table and a video per episode; version 3 packs many episodes into a file and says in
`meta/episodes/` where each begins.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flashwam.data.episodes import CHUNK, read_info

__all__ = ["Clip", "RawEpisode", "list_episodes", "read_clip", "read_rows"]

_V2_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
_V2_VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
_V3_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_V3_VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """An episode's pictures: `first` is the number of its first picture in the video at `path`."""

    path: Path
    first: int


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
    """

    index: int
    length: int
    fps: float
    table: Path
    clips: Mapping[str, Clip]
    segments: tuple[tuple[int, int, str], ...]
    tasks: tuple[str, ...]


def list_episodes(repo: Path | str, *, cameras: Sequence[str]) -> list[RawEpisode]:
    """Reads a repo's `meta/`.

    Args:
        repo: Folder of a LeRobot data set.
        cameras: Keys of the cameras wanted.

    Returns:
        Its episodes, by number. Without `action_config` an episode is one segment with its first task's text.

    Raises:
        FileNotFoundError: A file of `meta/` is missing.
        ValueError: `meta/` is damaged, of an unknown version, or has no such camera; the message names the file.
    """
    repo = Path(repo)
    info, path = read_info(repo), repo / "meta" / "info.json"
    version = str(info.get("codebase_version"))
    features = info.get("features")
    if not isinstance(features, dict):
        raise ValueError(f"{path}: has no features, so it says nothing of its columns and cameras")
    videos = sorted(k for k, f in features.items() if isinstance(f, dict) and f.get("dtype") == "video")
    missing = [camera for camera in cameras if camera not in videos]
    if missing:
        raise ValueError(f"{path}: has no video {', '.join(missing)}; it has {', '.join(videos) or 'none'}")
    if version.startswith("v2."):
        records, build = _records_v2(repo), _episode_v2
    elif version.startswith("v3."):
        records, build = _records_v3(repo), _episode_v3
    else:
        raise ValueError(f"{path}: codebase_version {version} is not known; expected v2.x or v3.x")
    episodes = []
    for where, record in records:
        try:
            episodes.append(build(repo, info, record, cameras))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise ValueError(f"{where}: not an episode's record ({error!r})") from error
    return sorted(episodes, key=lambda episode: episode.index)


def _records_v2(repo: Path) -> list[tuple[str, dict[str, Any]]]:
    path = repo / "meta" / "episodes.jsonl"
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing") from None
    out = []
    for number, line in enumerate(lines, start=1):
        try:
            out.append((f"{path}, line {number}", json.loads(line)))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
    return out


def _records_v3(repo: Path) -> list[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = sorted((repo / "meta" / "episodes").rglob("*.parquet"))
    if not paths:
        raise FileNotFoundError(f"{repo / 'meta' / 'episodes'} holds no parquet file")
    out = []
    for path in paths:
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                wanted = [n for n in file.schema_arrow.names if not n.startswith("stats/")]
                table = file.read(columns=wanted)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path}: not a readable parquet file ({error})") from error
        out += [(f"{path}, row {number}", record) for number, record in enumerate(table.to_pylist())]
    return out


def _segments(record: Mapping[str, Any]) -> dict[str, Any]:
    """What both versions say in the same words."""
    length, tasks = int(record["length"]), tuple(map(str, record["tasks"]))
    parts = record.get("action_config") or [{"start_frame": 0, "end_frame": length, "action_text": tasks[0]}]
    segments = tuple((int(p["start_frame"]), int(p["end_frame"]), str(p["action_text"])) for p in parts)
    for start, end, _ in segments:
        if not 0 <= start < end <= length:
            raise ValueError(f"a segment from row {start} to {end} of {length}")
    return {"index": int(record["episode_index"]), "length": length, "segments": segments, "tasks": tasks}


def _episode_v2(repo: Path, info: dict[str, Any], record: dict[str, Any], cameras: Sequence[str]) -> RawEpisode:
    common = _segments(record)
    names = {
        "episode_index": common["index"],
        "episode_chunk": common["index"] // int(info.get("chunks_size", CHUNK)),
    }
    video = info.get("video_path") or _V2_VIDEO
    return RawEpisode(
        fps=info["fps"],
        table=repo / (info.get("data_path") or _V2_DATA).format(**names),
        clips={key: Clip(path=repo / video.format(video_key=key, **names), first=0) for key in cameras},
        **common,
    )


def _episode_v3(repo: Path, info: dict[str, Any], record: dict[str, Any], cameras: Sequence[str]) -> RawEpisode:
    def place(at: str) -> dict[str, int]:
        return {key: int(record[f"{at}/{key}"]) for key in ("chunk_index", "file_index")}

    video = info.get("video_path") or _V3_VIDEO
    clips = {}
    for key in cameras:
        at = f"videos/{key}"
        first = round(float(record[f"{at}/from_timestamp"]) * info["fps"])
        clips[key] = Clip(path=repo / video.format(video_key=key, **place(at)), first=first)
    data = repo / (info.get("data_path") or _V3_DATA).format(**place("data"))
    return RawEpisode(fps=info["fps"], table=data, clips=clips, **_segments(record))


def read_rows(episode: RawEpisode) -> Any:
    """An episode's rows, every column, as a pyarrow table in the order of the rows.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: It is damaged, or has another number of rows than `meta/` says.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = episode.table
    try:
        table = pq.read_table(path, filters=[("episode_index", "=", episode.index)], page_checksum_verification=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable table of episodes ({error})") from error
    if table.num_rows != episode.length:
        raise ValueError(f"{path}: episode {episode.index} has {table.num_rows} rows, meta/ says {episode.length}")
    if "action" not in table.column_names:
        raise ValueError(f"{path}: has no column 'action'")
    return table


def read_clip(path: Path, numbers: Sequence[int], *, fps: float) -> np.ndarray:
    """Decodes pictures from anywhere in a video, beginning at the key frame before the first.

    Args:
        path: A video.
        numbers: Ascending picture numbers; picture n is shown at n / fps seconds.
        fps: Pictures per second.

    Returns:
        uint8 [T, H, W, 3].

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: It is damaged, or a picture is not there.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError("reading videos needs PyAV: pip install 'flashwam[data]'") from error
    found: dict[int, np.ndarray] = {}
    wanted = set(numbers)
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_count = 1
            begin, base = stream.start_time or 0, stream.time_base
            container.seek(begin + int(numbers[0] / fps / base), stream=stream)
            for frame in container.decode(stream):
                number = round((frame.pts - begin) * base * fps)
                if number in wanted:
                    found[number] = frame.to_ndarray(format="rgb24")
                if number >= numbers[-1]:
                    break
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing") from None
    except (av.FFmpegError, IndexError, TypeError) as error:
        raise ValueError(f"{path}: not a readable video ({error})") from error
    absent = sorted(wanted - set(found))
    if absent:
        raise ValueError(f"{path}: has no picture at {absent[0] / fps:.3f} s ({len(absent)} of {len(wanted)} missing)")
    return np.stack([found[number] for number in numbers])
