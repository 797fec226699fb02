# SPDX-License-Identifier: Apache-2.0
"""Records of what a simulator knew of recorded episodes, beside them on disk; `flashwam.sim.privileged` makes them.

Beside `latents/` of a repo: `privileged/chunk-000/episode_000000.npz`, arrays alone, no pickle.
Letters: P pictures, H, W pixels, T control steps or points.
"""

import io
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from flashwam.data.episodes import CHUNK
from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.files import write_whole
from flashwam.system.paths import user_path

__all__ = ["Camera", "Privileged", "privileged_path", "read_privileged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """A pinhole camera; x goes right, y down, z away from it.

    Attributes:
        intrinsics: Camera coordinates to homogeneous pixels, [3, 3]; pixel (0, 0) is the upper left corner.
        pose: Camera coordinates to the world's, metres, [4, 4].
    """

    intrinsics: np.ndarray
    pose: np.ndarray

    def project(self, points: np.ndarray) -> np.ndarray:
        """Points of the world [T, 3] -> pixels (column, row) [T, 2]; not a number behind the camera."""
        inside = (points - self.pose[:3, 3]) @ self.pose[:3, :3]
        pixels = inside @ self.intrinsics.T
        depth = np.where(inside[:, 2:] > 0, inside[:, 2:], np.nan)
        return pixels[:, :2] / depth


@dataclass(frozen=True, slots=True, kw_only=True)
class Privileged:
    """One episode's privileged record.

    Attributes:
        rows: Control step of each picture, int64 [P].
        depth: Distance from the camera's plane in metres, float16 [P, H, W].
        segmentation: Numbers into `flashwam.sim.views.CLASSES`, uint8 [P, H, W].
        hand: Position of the hand at every control step, metres, float32 [T, 3].
        hand_pixels: The same as (column, row) of the picture over its size, float32 [T, 2]; beyond [0, 1] outside it.
        intrinsics: See `Camera`, float32 [3, 3].
        pose: See `Camera`, float32 [4, 4].
    """

    rows: np.ndarray
    depth: np.ndarray
    segmentation: np.ndarray
    hand: np.ndarray
    hand_pixels: np.ndarray
    intrinsics: np.ndarray
    pose: np.ndarray

    @property
    def camera(self) -> Camera:
        """The camera of every picture."""
        return Camera(intrinsics=self.intrinsics.astype(np.float64), pose=self.pose.astype(np.float64))

    def save(self, path: Path) -> None:
        """Writes a file that appears whole or not at all."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{each.name: getattr(self, each.name) for each in fields(self)})
        write_whole(path, buffer.getvalue())


def privileged_path(repo: Path, index: int) -> Path:
    """Path of an episode's privileged record."""
    return Path(repo) / "privileged" / f"chunk-{index // CHUNK:03d}" / f"episode_{index:06d}.npz"


def read_privileged(path: Path | str) -> Privileged:
    """Reads what `Privileged.save` wrote.

    Raises:
        FileNotFoundError: There is no record; the message says how to make it.
        ValueError: The file is damaged or holds something else.
    """
    path = user_path(path)
    if not path.is_file():
        raise MissingFileError(f"{path} is missing: play the episodes again with flashwam.sim.privileged first")
    try:
        with np.load(path, allow_pickle=False) as file:
            return Privileged(**{each.name: file[each.name] for each in fields(Privileged)})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a privileged record ({error}); delete it and play the episode again") from error
