# SPDX-License-Identifier: Apache-2.0
"""An episode's pictures, in a video or in its table.

Letters: T pictures, H, W rows and columns of one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from flashwam.data.depth import is_deep_h264, refuse_depth
from flashwam.system.errors import InputError, MissingFileError, MissingPackageError
from flashwam.system.lfs import refuse_pointer

__all__ = ["Clip", "TableClip", "inside", "read_clip"]

_FORMATS = {b"\x89PNG": "png", b"\xff\xd8\xff": "mjpeg", b"BM": "bmp", b"II*\0": "tiff", b"MM\0*": "tiff"}
"""First bytes of a picture -> PyAV's decoder."""
_BACK = (0, 8, 64, 512)
"""Rows before the first that is wanted from which it is decoded, until it is found; last from the video's begin."""
_ROUNDED = 0.05
"""Rows by which a container's clock may show a picture late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """An episode's pictures: `first` is the number of its first picture in the video at `path`.

    Attributes:
        path: A video, maybe of several episodes.
        first: See above.
        depth: Depth maps are meant, and taken as grey pictures.
    """

    path: Path
    first: int
    depth: bool = False

    def read(self, rows: Sequence[int], *, fps: float) -> np.ndarray:
        """Decodes the pictures of ascending rows, uint8 [T, H, W, 3]; raises like `read_clip`."""
        return read_clip(self.path, [self.first + row for row in rows], fps=fps, depth=self.depth)

    def check(self) -> None:
        """Raises what `read` would, as far as the file's head shows it."""
        with _video(self.path, depth=self.depth):
            pass


@dataclass(frozen=True, slots=True, kw_only=True)
class TableClip:
    """An episode's pictures in a column of its table: encoded, or the names of files below the data set.

    Attributes:
        path: The table, maybe of several episodes.
        column: The camera's.
        episode: Number of the episode.
        repo: Folder that named files are relative to.
        depth: See `Clip`.
    """

    path: Path
    column: str
    episode: int
    repo: Path
    depth: bool = False

    def read(self, rows: Sequence[int], *, fps: float) -> np.ndarray:
        """Decodes the pictures of ascending rows, uint8 [T, H, W, 3].

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: There is no such column or picture, or it is damaged.
        """
        status = self.path.stat() if self.path.is_file() else None
        column = _column(self.path, self.column, self.episode, status and (status.st_mtime_ns, status.st_size))
        pictures = []
        for row in rows:
            where = f"{self.path}: camera {self.column}, episode {self.episode}, row {row}"
            if row >= len(column):
                raise InputError(f"{where}: the table has {len(column)} rows")
            picture = _decode(self._encoded(column[row].as_py(), where), where, depth=self.depth)
            if pictures and picture.shape != pictures[0].shape:
                raise InputError(f"{where}: the picture is {picture.shape[:2]}, others are {pictures[0].shape[:2]}")
            pictures.append(picture)
        return np.stack(pictures)

    def check(self) -> None:
        """Raises what `read` would, as far as the first picture shows it."""
        self.read([0], fps=1)

    def _encoded(self, value: Any, where: str) -> bytes:
        data, name = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if isinstance(data, str):
            data, name = None, data
        if data:
            if not isinstance(data, bytes):
                raise InputError(f"{where}: expected a picture's bytes or its file's name, got {type(data).__name__}")
            return data
        if not name:
            raise InputError(f"{where}: there is no picture")
        path = inside(self.repo, name)
        try:
            refuse_pointer(path)
            return path.read_bytes()
        except FileNotFoundError:
            raise MissingFileError(f"{where}: {path} is missing") from None
        except OSError as error:
            raise InputError(f"{where}: {path} cannot be read ({error.strerror})") from error


def inside(repo: Path, name: str) -> Path:
    """The file that a data set names, which must lie below its folder.

    Raises:
        ValueError: It does not.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise InputError(f"{repo}: names the file {name!r}, which is not below it")
    return repo / name


@lru_cache(maxsize=4)
def _column(path: Path, column: str, episode: int, version: Any) -> Any:
    """A picture column of one episode, still encoded; kept for the next segment."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if version is None:
        raise MissingFileError(f"{path} is missing")
    chosen = [("episode_index", "=", episode)]
    try:
        names = pq.read_schema(path).names
        if column not in names:
            there = f"columns: {', '.join(names)}"
            raise InputError(f"{path}: has no column {column!r} with the camera's pictures; {there}")
        table = pq.read_table(path, columns=[column], filters=chosen, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable table of episodes ({error})") from error
    return table.column(column)


def _decode(data: bytes, where: str, *, depth: bool) -> np.ndarray:
    """A picture's bytes by a decoder alone: what they hold names no further file."""
    import av

    name = next((codec for begin, codec in _FORMATS.items() if data.startswith(begin)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        name = "webp"
    if name is None:
        raise InputError(f"{where}: expected a PNG, JPEG, WebP, BMP or TIFF picture, got bytes {data[:8]!r}")
    try:
        decoder = av.CodecContext.create(name, "r")
        decoder.thread_count = 1
        frame = [*decoder.decode(av.Packet(data)), *decoder.decode(None)][0]
        refuse_depth(frame.format.name, where, depth=depth)
        return frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, IndexError) as error:
        raise InputError(f"{where}: not a readable picture ({error})") from error


@contextmanager
def _video(path: Path, *, depth: bool) -> Iterator[tuple[Any, Any]]:
    """An open video's container and first stream; what goes wrong meanwhile is told in one sentence."""
    try:
        import av
    except ImportError as error:
        raise MissingPackageError("reading videos needs PyAV: pip install 'flashwam[data]'") from error
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_count = 1
            codec = stream.codec_context
            is_deep = codec.name == "h264" and is_deep_h264(codec.extradata)
            refuse_depth("gray10le" if is_deep else codec.pix_fmt, path, depth=depth)
            yield container, stream
    except FileNotFoundError:
        raise MissingFileError(f"{path} is missing") from None
    except (av.FFmpegError, IndexError, TypeError) as error:
        refuse_pointer(path)
        raise InputError(f"{path}: not a readable video ({error})") from error


def read_clip(path: Path, numbers: Sequence[int], *, fps: float, depth: bool = False) -> np.ndarray:
    """Decodes pictures from anywhere in a video, beginning at a key frame before the first.

    Args:
        path: A video; of one with more pictures than rows, the nearest to each row is taken.
        numbers: Ascending picture numbers; picture n is shown at n / fps seconds.
        fps: Pictures per second.
        depth: See `Clip`.

    Returns:
        uint8 [T, H, W, 3].

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: It is damaged, holds depth maps, or a picture is not there.
    """
    found: dict[int, np.ndarray] = {}
    apart: dict[int, float] = {}
    wanted = set(numbers)
    with _video(path, depth=depth) as (container, stream):
        for place, frame in _frames(container, stream, numbers[0], fps=fps):
            number = round(place)
            if number in wanted and abs(place - number) < apart.get(number, 1):
                found[number], apart[number] = frame.to_ndarray(format="rgb24"), abs(place - number)
            if place >= numbers[-1]:
                break
    absent = sorted(wanted - set(found))
    if absent:
        raise InputError(f"{path}: has no picture at {absent[0] / fps:.3f} s ({len(absent)} of {len(wanted)} missing)")
    return np.stack([found[number] for number in numbers])


def _frames(container: Any, stream: Any, first: int, *, fps: float) -> Iterator[tuple[float, Any]]:
    """The pictures from row `first` or earlier, each after its place in rows.

    A seek goes by the order of decoding: it may land on the key frame after a row, or on one that the pictures shown
    before it are dropped with, as open groups of pictures have. Then it is made from further back.
    """
    begin, base = stream.start_time or 0, stream.time_base
    for back in (*_BACK, first):
        row = max(0, first - back)
        container.seek(begin + int(row / fps / base), stream=stream)
        frames = (((frame.pts - begin) * base * fps, frame) for frame in container.decode(stream))
        head = next(frames, None)
        if row == 0 or (head is not None and head[0] <= first + _ROUNDED):
            break
    if head is not None:
        yield head
        yield from frames
