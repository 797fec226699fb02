# SPDX-License-Identifier: Apache-2.0
"""Files and folders that appear whole or not at all."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "beside",
    "clear_leftovers",
    "final_path",
    "only_writer",
    "remove_folder",
    "whole_file",
    "whole_folder",
    "write_whole",
]
from flashwam.system.errors import FailedError

_BESIDE = ".beside-"
_LEAVING = ".leaving-"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to; on success that file is synced to disk and takes the place of `path`.

    A reader sees the old file or the new one, never half of it, and so does who looks after a power cut. On an error
    nothing is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    building = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield building
        _sync(building)
        building.replace(path)
    except BaseException:
        building.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def write_whole(path: Path, content: bytes | str) -> Path:
    """Writes a file as `whole_file` does; text as UTF-8. Returns its path."""
    with whole_file(path) as building:
        building.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def beside(path: Path) -> Path:
    """Where `whole_folder` builds what will be `path`."""
    return path.with_name(_BESIDE + path.name)


def final_path(path: Path) -> Path:
    """Path that a folder which `whole_folder` builds will have; any other path is its own."""
    return path.with_name(path.name.removeprefix(_BESIDE))


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Gives a folder beside `path` to write to; on success it is synced to disk and renamed to `path`.

    An existing `path` is replaced. A reader never sees a part of the new content under the name. On an error nothing is
    left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    building = beside(path)
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    try:
        yield building
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    for folder, _, files in os.walk(building):
        for name in files:
            _sync(Path(folder) / name)
        _sync(Path(folder))
    remove_folder(path)
    building.rename(path)
    _sync(path.parent)


def remove_folder(path: Path) -> None:
    """Removes a folder so that its name is gone at once; of a link, the link alone; a file is moved to `<name>.bak`.

    Raises:
        FileExistsError: That is taken.
    """
    if path.is_symlink():
        path.unlink()
    if not path.exists():
        return
    if not path.is_dir():
        # Nobody but a user puts a file there.
        if (aside := path.with_name(f"{path.name}.bak")).exists():
            raise FileExistsError(f"{path} is a file where a folder belongs, and {aside} is there too: move them away")
        path.rename(aside)
        return
    leaving = path.with_name(_LEAVING + path.name)
    shutil.rmtree(leaving, ignore_errors=True)
    path.rename(leaving)
    shutil.rmtree(leaving)


def clear_leftovers(folder: Path) -> None:
    """Removes what a killed process left half written or half removed."""
    for prefix in (_BESIDE, _LEAVING):
        for path in folder.glob(prefix + "*"):
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Holds `folder` for this process; the hold ends with the process, however it ends.

    Raises:
        RuntimeError: another process holds it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FailedError(
                f"another process is training in {folder}; wait for it or stop it, or give another run folder"
            ) from None
        yield
    finally:
        os.close(handle)
