# SPDX-License-Identifier: Apache-2.0
"""Labels of every pixel of recorded pictures: by the simulator, or by the pictures themselves.

Letters: n pictures, H and W pixels.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from flashwam.data.episodes import find_repos, read_episode_list, read_frames, read_info, video_path
from flashwam.data.privileged import privileged_path, read_privileged
from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.paths import user_path

__all__ = ["LABELS", "RECORDED", "read_labels"]


def read_labels(root: Path | str, labels: str, *, per_repo: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Pictures with a label per pixel.

    Args:
        root: Folder of the repos.
        labels: A name in `LABELS`.
        per_repo: Episodes taken from each repo, spread evenly.

    Returns:
        Pictures uint8 [n, H, W, 3]; labels [n, H, W], whole numbers for classes and float32 for quantities.

    Raises:
        ValueError: an unknown name.
        FileNotFoundError: there are no episodes, or the simulator was not asked about one.
    """
    if labels not in LABELS:
        raise InputError(f"labels must be one of {sorted(LABELS)}; got {labels!r}")
    parts = [LABELS[labels](repo, episode) for repo, episode in _episodes(user_path(root), per_repo)]
    if not parts:
        raise MissingFileError(f"there are no episodes below {root}: collect some first")
    pictures, known = (np.concatenate(part) for part in zip(*parts, strict=True))
    return pictures, known


def _episodes(root: Path, per_repo: int) -> Iterator[tuple[Path, dict[str, Any]]]:
    for repo in find_repos(root):
        episodes = read_episode_list(repo)
        count = min(per_repo, len(episodes))
        for i in np.linspace(0, len(episodes) - 1, count).astype(int):
            yield repo, episodes[i]


def _pictures(repo: Path, episode: dict[str, Any]) -> np.ndarray:
    """The pictures that were rendered, not the rows that repeat them."""
    every = int(read_info(repo).get("render_every", 1))
    return read_frames(video_path(repo, episode["episode_index"]), range(0, episode["length"], every))


def _colours(repo: Path, episode: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Eight classes: whether red, green and blue are in their upper half."""
    pictures = _pictures(repo, episode)
    return pictures, ((pictures >= 128) * np.array([4, 2, 1])).sum(-1).astype(np.int64)


def _motion(repo: Path, episode: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Largest change of a colour to the next picture, in [0, 1]."""
    pictures = _pictures(repo, episode)
    change = np.abs(np.diff(pictures.astype(np.float32), axis=0)).max(-1) / 255
    return pictures[:-1], change


def _recorded(key: str) -> Callable[[Path, dict[str, Any]], tuple[np.ndarray, np.ndarray]]:
    """Reads the simulator's labels from when an episode was played again."""

    def read(repo: Path, episode: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        index = episode["episode_index"]
        path = privileged_path(repo, index)
        if not path.is_file():
            raise MissingFileError(
                f"{path} is missing: play the episodes again for {key}, or use labels that pictures have themselves, "
                "colours and motion"
            )
        record = read_privileged(path)
        known = getattr(record, key)
        kind = np.int64 if known.dtype.kind in "ui" else np.float32
        return read_frames(video_path(repo, index), record.rows.tolist()), known.astype(kind)

    return read


RECORDED = ("depth", "segmentation")
"""Names of what the simulator tells, not the pictures."""

LABELS: dict[str, Callable[[Path, dict[str, Any]], tuple[np.ndarray, np.ndarray]]] = {
    "colours": _colours,
    "motion": _motion,
    **{key: _recorded(key) for key in RECORDED},
}
"""Name -> (repo, episode) -> pictures and labels."""
