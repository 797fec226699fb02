# SPDX-License-Identifier: Apache-2.0
"""Episodes on disk in the LeRobot v2.1 layout that LingBot-VA trains from.

One folder (a "repo") per task:
    meta/{info.json, episodes.jsonl, episodes_stats.jsonl, tasks.jsonl}
    data/chunk-000/episode_000000.parquet            one row per control step
    videos/chunk-000/<camera>/episode_000000.mp4     one picture per row
    latents/chunk-000/<camera>/episode_000000_{start}_{end}.pth
The parquet file is written last and carries the episode's own record in its schema, so an episode whose parquet file
exists is complete, and `meta/` can be rebuilt from the episodes alone.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from flashwam.data.bad_files import BadFiles
from flashwam.data.records import json_lines, whole_field
from flashwam.data.tables import is_list, list_rows, read_columns
from flashwam.system.errors import InputError, MissingFileError, MissingPackageError
from flashwam.system.files import whole_file, write_whole
from flashwam.system.lfs import refuse_pointer
from flashwam.system.paths import user_path
from flashwam.system.walking import folders_below

__all__ = [
    "CAMERA",
    "LOSSY",
    "current_meta",
    "episode_path",
    "find_repos",
    "read_episode_list",
    "read_frames",
    "read_info",
    "read_record",
    "read_table",
    "video_path",
    "write_episode",
    "write_meta",
]

CAMERA = "observation.images.front"
LOSSY = 14
"""Quality of a video that loses what recordings of robots lose."""
CHUNK = 1000
_RECORD = b"flashwam"


def episode_path(repo: Path, index: int) -> Path:
    """Path of an episode's table."""
    return Path(repo) / "data" / f"chunk-{index // CHUNK:03d}" / f"episode_{index:06d}.parquet"


def video_path(repo: Path, index: int, camera: str = CAMERA) -> Path:
    """Path of an episode's video."""
    return Path(repo) / "videos" / f"chunk-{index // CHUNK:03d}" / camera / f"episode_{index:06d}.mp4"


def find_repos(root: Path) -> list[Path]:
    """Finds every repo below `root`, by its `meta/info.json`, sorted by path; hidden folders hold none.

    A data set that is linked there is one too; one with two names is found under both.

    Raises:
        FileNotFoundError: There is none.
    """
    root = user_path(root)
    repos = sorted(folder for folder in folders_below(root) if (folder / "meta" / "info.json").exists())
    if not repos:
        raise MissingFileError(
            f"no episodes below {root} (expected <task>/meta/info.json): run `flashwam collect` first"
        )
    return repos


def _write_video(path: Path, frames: np.ndarray, fps: int, crf: int | None) -> None:
    try:
        import av
    except ImportError as error:
        raise MissingPackageError("writing videos needs PyAV: pip install 'flashwam[data]'") from error
    with whole_file(path) as building, av.open(str(building), "w", format="mp4") as container:
        # Single-threaded, full chroma: the same bytes every time, and small coloured things keep their colour. Nothing
        # at all is lost without a conversion of colours, at quality 0.
        options = {"crf": str(crf or 0), "preset": "veryfast", "threads": "1"}
        stream = container.add_stream("libx264rgb" if crf is None else "libx264", rate=fps, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24" if crf is None else "yuv444p"
        stream.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def read_frames(path: Path, indices: Iterable[int] | None = None) -> np.ndarray:
    """Decodes pictures of a video.

    Args:
        path: An mp4 file.
        indices: Ascending picture numbers; None for all.

    Returns:
        uint8 [T, H, W, 3].

    Raises:
        ValueError: The file is damaged or too short.
    """
    try:
        import av
    except ImportError as error:
        raise MissingPackageError("reading videos needs PyAV: pip install 'flashwam[data]'") from error
    wanted = None if indices is None else list(indices)
    keep = None if wanted is None else set(wanted)
    frames = []
    try:
        with av.open(str(path)) as container:
            container.streams.video[0].thread_count = 1
            for number, frame in enumerate(container.decode(video=0)):
                if keep is None or number in keep:
                    frames.append(frame.to_ndarray(format="rgb24"))
    except (av.FFmpegError, IndexError) as error:
        raise InputError(f"{path}: not a readable video ({error})") from error
    if not frames or (wanted is not None and len(frames) != len(wanted)):
        asked = "at least one picture" if wanted is None else f"{len(wanted)} pictures up to number {max(wanted)}"
        raise InputError(f"{path}: expected {asked}, found {len(frames)} of them")
    return np.stack(frames)


def _table_bytes(columns: dict[str, np.ndarray], record: dict[str, Any]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {}
    for name, values in columns.items():
        if values.ndim == 2:
            flat = pa.array(np.ascontiguousarray(values, dtype=np.float32).reshape(-1))
            arrays[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        else:
            arrays[name] = pa.array(values)
    table = pa.table(arrays).replace_schema_metadata({_RECORD: json.dumps(record, sort_keys=True).encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue().to_pybytes()


def write_episode(
    repo: Path,
    index: int,
    *,
    columns: dict[str, np.ndarray],
    frames: np.ndarray,
    record: dict[str, Any],
    fps: int,
    crf: int | None = LOSSY,
) -> None:
    """Writes one episode: the video first, then the table, whose presence says that the episode is complete.

    Args:
        repo: Folder of the task.
        index: Episode number.
        columns: Column name -> [T] or [T, D] values; `frame_index`, `timestamp` and so on are added here.
        frames: One picture per row, uint8 [T, H, W, 3].
        record: What `episodes.jsonl` shall say of it, kept in the table's schema.
        fps: Rows per second.
        crf: Quality of the video, lower is better; None keeps every pixel as it is.
    """
    length = len(frames)
    if any(len(values) != length for values in columns.values()):
        raise ValueError(f"episode {index}: every column needs {length} rows, one per picture")
    _write_video(video_path(repo, index), frames, fps, crf)
    rows = np.arange(length, dtype=np.int64)
    columns = dict(
        columns,
        timestamp=(rows / fps).astype(np.float32),
        frame_index=rows,
        episode_index=np.full(length, index, dtype=np.int64),
        index=rows,
        task_index=np.zeros(length, dtype=np.int64),
    )
    write_whole(episode_path(repo, index), _table_bytes(columns, dict(record, episode_index=index, length=length)))


def read_record(path: Path) -> dict[str, Any]:
    """Reads an episode's record from its table.

    Raises:
        ValueError: The file is damaged, or was not written by `write_episode`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a readable parquet file ({error})") from error
    if _RECORD not in metadata:
        raise InputError(f"{path}: carries no episode record; was it written by another program?")
    return json.loads(metadata[_RECORD])


def read_table(path: Path, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Reads columns of an episode's table as arrays, [T] or [T, D]; columns that are not there are left out.

    Raises:
        ValueError: The file is damaged.
    """
    table, out = read_columns(path, names if names is None else list(names)), {}
    for name in table.column_names:
        column = table.column(name)
        try:
            out[name] = list_rows(column).astype(np.float32) if is_list(column.type) else column.to_numpy()
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}: column {name!r} is not a table of numbers ({error})") from error
    return out


def read_episode_list(repo: Path, bad: BadFiles | None = None) -> list[dict[str, Any]]:
    """Reads `meta/episodes.jsonl`; empty lines are passed over.

    Args:
        repo: The data set.
        bad: Receives lines that are no good, each of which costs its own episode; None raises.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: A line is not JSON, lacks a field that is needed, or has an episode that another has.
    """
    path = Path(repo) / "meta" / "episodes.jsonl"
    if not path.exists():
        raise MissingFileError(f"{path} is missing: the collection did not finish; run it again to complete it")
    bad = bad or BadFiles()
    episodes: dict[int, tuple[str, dict[str, Any]]] = {}
    for where, episode in json_lines(path, bad):
        try:
            index = _checked_episode(episode, where)
            if index in episodes:
                raise InputError(f"{where}: episode {index} was at {episodes[index][0]} already; remove one of the two")
        except ValueError as error:
            bad.add(where, error)
            continue
        episodes[index] = where, episode
    return [episode for _, episode in episodes.values()]


def _checked_episode(episode: dict[str, Any], where: str) -> int:
    """The number of an episode whose record is sound."""
    try:
        index, length = whole_field(episode, "episode_index"), whole_field(episode, "length")
        config = episode.get("action_config")
        if not isinstance(config, list) or not all(isinstance(part, dict) for part in config):
            raise InputError(f"action_config is {config!r}")
        parts = [(whole_field(part, "start_frame"), whole_field(part, "end_frame")) for part in config]
    except ValueError as error:
        raise InputError(
            f"{where}: expected episode_index, length and action_config, a list of start_frame and end_frame ({error})"
        ) from error
    for start, end in parts:
        if not 0 <= start < end <= length:
            raise InputError(f"{where}: episode {index} of {length} rows has a segment from {start} to {end}")
    return index


def read_info(repo: Path) -> dict[str, Any]:
    """Reads `meta/info.json`.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: It is not JSON, or not a data set's.
    """
    path = Path(repo) / "meta" / "info.json"
    try:
        info = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise MissingFileError(f"{path} is missing: {repo} is no LeRobot data set") from None
    except (ValueError, RecursionError) as error:
        refuse_pointer(path)
        raise InputError(f"{path}: not JSON ({error})") from error
    fps = info.get("fps") if isinstance(info, dict) else None
    if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps < math.inf:
        raise InputError(f"{path}: expected a mapping with a positive fps, got {str(info)[:80]}")
    return info


def _statistics(columns: dict[str, np.ndarray]) -> dict[str, dict[str, list]]:
    out = {}
    for name, values in columns.items():
        table = values.astype(np.float64).reshape(len(values), -1)
        out[name] = {
            "min": table.min(0).tolist(),
            "max": table.max(0).tolist(),
            "mean": table.mean(0).tolist(),
            "std": table.std(0).tolist(),
            "count": [len(table)],
        }
    return out


def current_meta(repo: Path, *, extra: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Reads the episodes' records where `meta/` was written after the last change of any episode.

    Args:
        repo: Folder of the task.
        extra: What `write_meta` is to put into `info.json`.

    Returns:
        The records; None where a file is newer than `info.json`, which is written last, or the two tell of different
        episodes: then only `write_meta` knows.
    """
    meta, paths = Path(repo) / "meta", sorted(Path(repo).glob("data/chunk-*/episode_*.parquet"))
    try:
        written = (meta / "info.json").stat().st_mtime_ns
        others = [meta / name for name in ("episodes.jsonl", "episodes_stats.jsonl", "tasks.jsonl")]
        if any(path.stat().st_mtime_ns > written for path in (*paths, *others)):
            return None
        records, info = read_episode_list(repo), read_info(repo)
    except (OSError, ValueError):
        return None
    told = [episode_path(Path(repo), record["episode_index"]) for record in records]
    return records if told == paths and all(info.get(key) == value for key, value in extra.items()) else None


def write_meta(repo: Path, *, fps: int, extra: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Rebuilds `meta/` from the complete episodes, and numbers their rows through.

    Args:
        repo: Folder of the task.
        fps: Rows per second.
        extra: Further entries of `info.json`.

    Returns:
        The episodes' records.
    """
    repo = Path(repo)
    paths = sorted(repo.glob("data/chunk-*/episode_*.parquet"))
    if not paths:
        raise MissingFileError(f"{repo} holds no episodes")
    records, stats, offset, columns = [], [], 0, {}
    for path in paths:
        record, columns = read_record(path), read_table(path)
        if columns["index"][0] != offset:
            columns["index"] = offset + np.arange(record["length"], dtype=np.int64)
            write_whole(path, _table_bytes(columns, record))
        offset += record["length"]
        records.append(record)
        stats.append({"episode_index": record["episode_index"], "stats": _statistics(columns)})
    shape = read_frames(video_path(repo, records[0]["episode_index"]), [0]).shape[1:]
    features: dict[str, Any] = {
        name: {"dtype": str(values.dtype), "shape": list(values.shape[1:]) or [1], "names": None}
        for name, values in columns.items()
    }
    video = {"video.fps": fps, "video.codec": "h264", "video.pix_fmt": "yuv444p", "has_audio": False}
    names = ["height", "width", "channel"]
    features[CAMERA] = {"dtype": "video", "shape": list(shape), "names": names, "info": video}
    info = {
        "codebase_version": "v2.1",
        "robot_type": "sawyer",
        "total_episodes": len(records),
        "total_frames": offset,
        "total_tasks": 1,
        "total_videos": len(records),
        "total_chunks": -(-len(records) // CHUNK),
        "chunks_size": CHUNK,
        "fps": fps,
        "splits": {"train": f"0:{len(records)}"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": features,
        **(extra or {}),
    }

    def lines(items: list[dict[str, Any]]) -> bytes:
        return "".join(json.dumps(item, sort_keys=True) + "\n" for item in items).encode()

    write_whole(repo / "meta" / "episodes.jsonl", lines(records))
    write_whole(repo / "meta" / "episodes_stats.jsonl", lines(stats))
    write_whole(repo / "meta" / "tasks.jsonl", lines([{"task_index": 0, "task": records[0]["tasks"][0]}]))
    write_whole(repo / "meta" / "info.json", json.dumps(info, indent=2, sort_keys=True).encode())
    return records
