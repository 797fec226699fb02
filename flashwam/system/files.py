# SPDX-License-Identifier: Apache-2.0
"""Files and folders that appear whole or not at all."""

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident

from flashwam.system.errors import FailedError

__all__ = [
    "beside",
    "clear_half_files",
    "clear_leftovers",
    "final_path",
    "hold",
    "in_use",
    "one_at_a_time",
    "only_writer",
    "remove_folder",
    "whole_file",
    "whole_folder",
    "write_whole",
]

_BESIDE = ".beside-"
_LEAVING = ".leaving-"
# Of writing itself, which names no file.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _named(path: Path, building: Path) -> Iterator[None]:
    """Lets an error of writing name the path that was asked for, not the one beside it."""
    try:
        yield
    except OSError as error:
        about = Path(error.filename) if isinstance(error.filename, str) else None
        if about is None and error.errno not in _DISK:
            raise
        if about is not None and not about.is_relative_to(building) and about not in (path, *path.parents):
            # Something else could not be read or written meanwhile.
            raise
        blocking = next((above for above in path.parents if above.exists() and not above.is_dir()), None)
        reason = error.strerror if blocking is None else f"{blocking} is no folder"
        raise type(error)(f"{final_path(path)} could not be written: {reason}") from error


def _is_open_end(path: Path) -> bool:
    """A pipe, a device or the name of an open file, such as /dev/stdout: nothing there can be replaced."""
    if path.is_symlink():
        return Path(os.path.realpath(path.parent / path.readlink().parent)).is_relative_to("/proc")
    return path.exists() and not path.is_file() and not path.is_dir()


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to; on success that file is synced to disk and takes the place of `path`.

    A reader sees the old file or the new one, never half of it, and so does who looks after a power cut. On an error
    nothing is left. Processes and threads may write the same file at once; a pipe or a device is written to itself.

    Raises:
        OSError: The disk refuses it; the message names `path` and says why.
    """
    if _is_open_end(path):
        yield path
        return
    building = path.with_name(f".{path.name}.{get_ident()}.{os.getpid()}.tmp")
    with _named(path, building):
        path.parent.mkdir(parents=True, exist_ok=True)
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
    """Path at which `whole_folder` builds what will be `path`."""
    return path.with_name(_BESIDE + path.name)


def final_path(path: Path) -> Path:
    """A path as it reads once every folder is whole that `whole_folder` still builds; any other is its own."""
    return Path(*(part.rpartition(_BESIDE)[2] if part.startswith(_BESIDE) else part for part in path.parts))


@contextmanager
def whole_folder(path: Path, *, keep: bool = False) -> Iterator[Path]:
    """Gives a folder beside `path` to write to; on success it is synced to disk and renamed to `path`.

    A reader never sees a part of the new content under the name. On an error what stood there stands there still, and
    nothing is left beside it.

    Args:
        path: The folder; one that exists is replaced.
        keep: What an existing folder holds under names that are not written now stays in it; files and folders of the
            same names are replaced, one after the other.

    Raises:
        OSError: The disk refuses it; the message names `path` and says why.
    """
    building = beside(path)
    with _named(path, building):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(building, ignore_errors=True)
        try:
            building.mkdir()
            yield building
            for folder, _, files in os.walk(building):
                for name in files:
                    _sync(Path(folder) / name)
                _sync(Path(folder))
            if keep and path.is_dir():
                for made in sorted(building.iterdir()):
                    _put(made, path / made.name)
            else:
                _put(building, path)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        shutil.rmtree(building, ignore_errors=True)
        _sync(path.parent)


def _put(made: Path, path: Path) -> None:
    """Renames what is whole to its name; a folder that stood there goes once it does."""
    if not made.is_dir():
        made.replace(path)
        return
    leaving = _move_away(path)
    try:
        made.rename(path)
    except BaseException:
        if leaving is not None:
            leaving.rename(path)
        raise
    if leaving is not None:
        shutil.rmtree(leaving)


def remove_folder(path: Path) -> None:
    """Removes a folder so that its name is gone at once; of a link, the link alone; a file is moved to `<name>.bak`.

    Raises:
        FileExistsError: That is taken.
    """
    leaving = _move_away(path)
    if leaving is not None:
        shutil.rmtree(leaving)


def _move_away(path: Path) -> Path | None:
    """Frees a name; the folder that had it has the name that is returned, to be put back or removed."""
    if path.is_symlink():
        path.unlink()
    if not path.exists():
        return None
    if not path.is_dir():
        # Nobody but a user puts a file there.
        if (aside := path.with_name(f"{path.name}.bak")).exists():
            raise FileExistsError(f"{path} is a file where a folder belongs, and {aside} is there too: move them away")
        path.rename(aside)
        return None
    leaving = path.with_name(_LEAVING + path.name)
    shutil.rmtree(leaving, ignore_errors=True)
    path.rename(leaving)
    return leaving


def clear_leftovers(folder: Path) -> None:
    """Removes folders that a killed process left half written or half removed in `folder`.

    Those of a living one look the same: hold the folder (`only_writer`) first.
    """
    for prefix in (_BESIDE, _LEAVING):
        for path in folder.glob(prefix + "*"):
            shutil.rmtree(path, ignore_errors=True)


def clear_half_files(folder: Path) -> None:
    """Removes files anywhere below `folder` that killed processes left half written; not those of living ones."""
    for path in folder.rglob(".*.tmp"):
        process = re.fullmatch(r"\..*\.(\d+)\.tmp", path.name)
        if process is not None and not _is_alive(int(process[1])):
            path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def hold(handle: int, refusal: str) -> None:
    """Holds an open file or folder for this process, until it is closed or the process ends, however it ends.

    Args:
        handle: Its file descriptor.
        refusal: The message where another process holds it.

    Raises:
        RuntimeError: another process holds it.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FailedError(refusal) from None


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Holds `folder` for this process; the hold ends with the process, however it ends.

    Raises:
        RuntimeError: another process holds it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        hold(handle, f"another process is training in {folder}; wait for it or stop it, or give another run folder")
        yield
    finally:
        os.close(handle)


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Lets one process at a time fill `folder`, which is made where it is missing; those that wait find it full.

    The hold ends with the process, however it ends. The empty `.lock` in the folder stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Open for writing, without which network file systems give no hold that excludes others.
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def in_use(path: Path) -> Iterator[bool]:
    """Shares the use of the empty file `path` among processes; tells whether nobody else has it when this one begins.

    The use ends with the process, however it ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            alone = False
        else:
            alone = True
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield alone
    finally:
        os.close(handle)
