# SPDX-License-Identifier: Apache-2.0
"""The samples of a released data set: one per segment of an episode that has latents of every camera."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from flashwam.data.bad_files import BadFiles
from flashwam.data.episodes import CHUNK, find_repos, read_episode_list, read_info
from flashwam.data.records import whole_field
from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.paths import user_path

__all__ = [
    "NoEpisodesError",
    "Segment",
    "are_there",
    "find_segments",
    "is_held_out",
    "name_below",
    "repos_by_name",
    "select_repos",
]

logger = logging.getLogger(__name__)


class NoEpisodesError(InputError):
    """There are recordings, but none of the episodes that are asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Rows of an episode with one instruction.

    Attributes:
        repo: Folder of the repo.
        episode: Episode number.
        start: First row.
        end: Row after the last.
        chunk: Number of the folder that the episode lies in.
        name: The repo's in messages, see `name_below`; its folder's own where there is none.
    """

    repo: Path
    episode: int
    start: int
    end: int
    chunk: int
    name: str = ""

    @property
    def table(self) -> Path:
        """Path of the episode's table."""
        return self.repo / "data" / f"chunk-{self.chunk:03d}" / f"episode_{self.episode:06d}.parquet"

    def latents(self, camera: str) -> Path:
        """Path of a camera's latents."""
        folder = self.repo / "latents" / f"chunk-{self.chunk:03d}" / camera
        return folder / f"episode_{self.episode:06d}_{self.start}_{self.end}.pth"

    def __str__(self) -> str:
        return f"{self.name or self.repo.name}/episode_{self.episode:06d} rows {self.start} to {self.end}"


def is_held_out(episode: int, every: int | None) -> bool:
    """Tells whether no training sees an episode: the last of every so many, so that episodes which are added later
    change nothing for those that are there; None holds none out."""
    return every is not None and episode % every == every - 1


def select_repos(root: Path | str, tasks: Sequence[str] | None = None) -> list[Path]:
    """Repos below `root`, sorted by path.

    Args:
        root: Any folder above them.
        tasks: Folder names on the way from `root` to a repo, `*`, `?` and `[...]` allowed where no folder bears that
            very name; each must fit something. None for all repos.

    Raises:
        FileNotFoundError: There is no repo, or a name fits none.
    """
    root = user_path(root)
    try:
        repos = find_repos(root)
    except FileNotFoundError:
        raise MissingFileError(f"no data set below {root}: expected folders with meta/info.json") from None
    if tasks is None:
        _tell_double(repos)
        return repos
    kept: dict[Path, None] = {}
    for task in tasks:
        found = _named([(repo, _names(repo, root)) for repo in repos], task)
        if not found:
            shown = sorted({part for repo in repos for part in _names(repo, root)})
            raise MissingFileError(
                f"no data set {task!r} below {root}; there are {', '.join(shown[:20])}; data.tasks of a recipe "
                "and --tasks of flashwam evaluate choose"
            )
        kept.update(dict.fromkeys(found))
    _tell_double(sorted(kept))
    return sorted(kept)


def _tell_double(repos: Sequence[Path]) -> None:
    """Says of data sets that are met under two names, as links make, that they count twice."""
    first: dict[Path, Path] = {}
    for repo in repos:
        if (known := first.setdefault(repo.resolve(), repo)) != repo:
            logger.warning("%s and %s are the same data set, which counts twice", known, repo)


def repos_by_name(root: Path | str, tasks: Sequence[str] | None = None) -> list[Path]:
    """Repos below `root` for readers that tell them by their own folders' names alone.

    Args:
        root: Any folder above them.
        tasks: Their names, in this order; None for all repos.

    Raises:
        FileNotFoundError: There is no repo, or none of a name.
        ValueError: Two that are meant have one name.
    """
    repos: dict[str, list[Path]] = {}
    for repo in find_repos(user_path(root)):
        repos.setdefault(repo.name, []).append(repo)
    chosen = list(repos) if tasks is None else list(tasks)
    if missing := [task for task in chosen if task not in repos]:
        raise MissingFileError(
            f"no episodes of {missing} below {root}; there are {sorted(repos)}; data.tasks of a recipe and --tasks of "
            "flashwam evaluate choose"
        )
    for task in chosen:
        if len(repos[task]) > 1:
            one, other = repos[task][:2]
            raise InputError(
                f"{one} and {other} are both called {task!r}, and their episodes are told apart by that name: rename "
                "one of the two folders, or move it out of the other's"
            )
    return [repos[task][0] for task in chosen]


def are_there(root: Path | str, tasks: Sequence[str]) -> list[str]:
    """Tells which of some names fit a repo below `root`, see `select_repos`.

    Raises:
        FileNotFoundError: There is no repo.
    """
    named = [(repo, _names(repo, user_path(root))) for repo in select_repos(root)]
    return [task for task in tasks if _named(named, task)]


def _named(repos: Sequence[tuple[Path, tuple[str, ...]]], task: str) -> list[Path]:
    """The repos with a name that is `task`, or fits it as a pattern where none is."""
    exactly = [repo for repo, parts in repos if task in parts]
    return exactly or [repo for repo, parts in repos if any(fnmatchcase(part, task) for part in parts)]


def _names(repo: Path, root: Path) -> tuple[str, ...]:
    """Names of the folders on the way to a repo; its own where it is the root."""
    return repo.relative_to(root).parts or (repo.name,)


def name_below(repo: Path, root: Path) -> str:
    """Tells a repo from others of one folder's name: its path below `root`, or its own name where it is the root."""
    return "/".join(_names(repo, root))


def find_segments(
    root: Path | str, *, cameras: Sequence[str], tasks: Sequence[str] | None = None, bad: BadFiles | None = None
) -> list[Segment]:
    """Lists the samples below `root` without opening a latent file.

    Args:
        root: Any folder above the repos.
        cameras: Keys whose latents a sample needs.
        tasks: See `select_repos`.
        bad: Receives repos whose `meta/` cannot be read, and records that are no good; None raises.

    Raises:
        FileNotFoundError: There are no repos, or no segment has latents of every camera.
        ValueError: A repo's `meta/` is damaged or of another version.
    """
    bad = bad or BadFiles()
    out: list[Segment] = []
    known = 0
    for repo in select_repos(root, tasks):
        try:
            segments = _segments(repo, name_below(repo, user_path(root)), bad)
        except (ValueError, FileNotFoundError) as error:
            bad.add(str(repo), error)
            continue
        present = {
            camera: {path.name for path in repo.glob(f"latents/chunk-*/{camera}/episode_*.pth")} for camera in cameras
        }
        known += len(segments)
        out += [s for s in segments if all(s.latents(camera).name in present[camera] for camera in cameras)]
    if not out and bad.reasons:
        raise InputError(f"no data set below {root} can be read: {next(iter(bad.reasons.values()))}")
    if not out:
        raise MissingFileError(
            f"none of {known} segments below {root} has latents of every camera ({', '.join(cameras)}); expected "
            "<repo>/latents/chunk-000/<camera>/episode_000000_{start}_{end}.pth; `flashwam convert` makes them"
        )
    logger.info("%d of %d segments below %s have latents of all %d cameras", len(out), known, root, len(cameras))
    return out


def _segments(repo: Path, name: str, bad: BadFiles) -> list[Segment]:
    info = read_info(repo)
    version = str(info.get("codebase_version", "v2.1"))
    if not version.startswith("v2."):
        raise InputError(f"{repo / 'meta' / 'info.json'}: version {version} is not v2.x; run `flashwam convert` first")
    try:
        size = whole_field(info, "chunks_size") if info.get("chunks_size") else CHUNK
    except ValueError as error:
        raise InputError(f"{repo / 'meta' / 'info.json'}: {error}") from error
    out = []
    for episode in read_episode_list(repo, bad):
        index = int(episode["episode_index"])
        for part in episode["action_config"]:
            start, end = int(part["start_frame"]), int(part["end_frame"])
            out.append(Segment(repo=repo, episode=index, start=start, end=end, chunk=index // size, name=name))
    return out
