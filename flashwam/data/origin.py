# SPDX-License-Identifier: Apache-2.0
"""From encoded segments back to the pictures that they were made of, episode by episode."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flashwam.data.bad_files import BadFiles
from flashwam.data.clips import Clip, TableClip
from flashwam.data.fingerprint import file_fingerprint
from flashwam.data.latents import read_frame_rows
from flashwam.data.raw import RawEpisode, list_episodes
from flashwam.data.segments import Segment
from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.paths import user_path

__all__ = ["EpisodePictures", "find_pictures"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodePictures:
    """An episode's pictures, and those of its rows that a latent frame is of.

    Attributes:
        repo: Folder of the encoded data set.
        episode: Episode number.
        clips: The pictures of each camera, in the order that was asked for.
        fps: Rows per second.
        rows: (Rows between pictures, row of the first picture) -> ascending rows of latent frames. There is one entry
            unless segments of the episode were encoded at others' rows.
        segments: The latent files that it stands for, as `SegmentDataset.bad` names them.
    """

    repo: Path
    episode: int
    clips: tuple[Clip | TableClip, ...]
    fps: float
    rows: Mapping[tuple[int, int], tuple[int, ...]]
    segments: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Tells these pictures from others; see `flashwam.data.fingerprint` for what it can miss.

        Raises:
            FileNotFoundError: A file of them is missing.
        """
        clips = [clip for clip in self.clips if isinstance(clip, Clip)]
        tables = [clip for clip in self.clips if isinstance(clip, TableClip)]
        firsts = [clip.first for clip in clips] + [(clip.column, clip.episode) for clip in tables]
        return f"{firsts} {self.fps} {[file_fingerprint(clip.path) for clip in self.clips]}"


def find_pictures(
    root: Path,
    segments: Sequence[Segment],
    *,
    encoded: str,
    cameras: Sequence[str],
    raw: Path | str | None,
    bad: BadFiles,
    remedy: str,
    depth: bool = False,
) -> list[EpisodePictures]:
    """Finds the pictures of every episode that has one of these segments.

    Args:
        root: Folder of the encoded data sets.
        segments: Of them.
        encoded: Key of a camera whose latents say of which rows they are.
        cameras: Keys of those whose pictures are wanted, encoded or not.
        raw: Folder of the raw data sets that were encoded, as `flashwam convert` was told; None for data sets that have
            their pictures beside the latents.
        bad: Receives latent files that cannot be read; its `skip` False raises.
        remedy: The words with which an error ends: what to set.
        depth: Cameras of depth maps are meant, and taken as grey pictures.

    Raises:
        FileNotFoundError, ValueError: The pictures are not there, or not those.
    """
    chosen: dict[tuple[Path, int], dict[tuple[int, int], set[int]]] = {}
    files: dict[tuple[Path, int], list[str]] = {}
    for segment in segments:
        path = segment.latents(encoded)
        try:
            rows, stride = read_frame_rows(path)
        except (ValueError, FileNotFoundError) as error:
            bad.add(str(path), error)
            continue
        streams = chosen.setdefault((segment.repo, segment.episode), {})
        streams.setdefault((stride, rows.start % stride), set()).update(rows)
        files.setdefault((segment.repo, segment.episode), []).append(str(path))
    origins = {
        repo: _episodes(
            repo if raw is None else _place(user_path(raw), repo.relative_to(root)), cameras, remedy, depth=depth
        )
        for repo in {repo for repo, _ in chosen}
    }
    out = []
    for (repo, episode), streams in chosen.items():
        found, last = origins[repo].get(episode), max(max(rows) for rows in streams.values())
        if found is None or found.length <= last:
            held = "no such episode" if found is None else f"{found.length} rows"
            raise InputError(
                f"{repo}: episode {episode} has latents up to row {last}, and its recording has {held}; {remedy}"
            )
        ordered = {key: tuple(sorted(rows)) for key, rows in sorted(streams.items())}
        clips = tuple(found.clips[camera] for camera in cameras)
        named = tuple(files[repo, episode])
        out.append(
            EpisodePictures(repo=repo, episode=episode, clips=clips, fps=found.fps, rows=ordered, segments=named)
        )
    return out


def _episodes(place: Path, cameras: Sequence[str], remedy: str, *, depth: bool) -> dict[int, RawEpisode]:
    """The recordings of a data set, by number."""
    try:
        return {episode.index: episode for episode in list_episodes(place, cameras=cameras, depth=depth)}
    except FileNotFoundError as error:
        raise MissingFileError(f"{error}; {remedy}") from error
    except ValueError as error:
        raise InputError(f"{error}; {remedy}") from error


def _place(raw: Path, below: Path) -> Path:
    """The raw data set that became the one at `below` of the result; `raw` may be a single one itself."""
    return raw if (raw / "meta" / "info.json").is_file() else raw / below
