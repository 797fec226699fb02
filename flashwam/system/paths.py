# SPDX-License-Identifier: Apache-2.0
"""Paths as users write them, and the folder of what this package can make again."""

import os
import re
import sys
from contextlib import suppress
from pathlib import Path

from flashwam.system.errors import InputError

__all__ = ["ASSETS", "cache_folder", "keep_compiled", "names_a_folder", "user_path"]

ASSETS = Path(__file__).resolve().parents[1] / "assets"
"""The folder of what the package brings along that is no code."""


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path with a leading ``~`` or ``~user`` replaced by that home folder; every other one as it is.

    Shells do so in few places (not in ``data.root=~/demo`` or ``--out=~/demo``), other libraries in some of the paths
    that they are handed: so it is done once, where a path comes in.

    Raises:
        ValueError: there is no such user.
    """
    text = os.fspath(path)
    if not text.startswith("~"):
        return Path(path)
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        name = text.split(os.sep)[0]
        raise InputError(
            f"{text}: no home folder of {name.removeprefix('~') or 'the user'} is known here; write it out, or "
            f"./{text} for a folder whose name begins with ~"
        )
    return Path(expanded)


def names_a_folder(name: object) -> bool:
    """Tells whether a name, such as a run's, is that of a single folder: letters, digits, '_', '-' and '.'."""
    return isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) is not None


def cache_folder() -> Path | None:
    """Folder of what can be made again: ``$FLASHWAM_CACHE``, else ``flashwam`` in the user's cache directory.

    That directory is ``$XDG_CACHE_HOME``, or the platform's: ``~/.cache``, ``~/Library/Caches``, ``%LOCALAPPDATA%``.
    Nothing is made here. None where the user has no home folder.

    Raises:
        ValueError: ``$FLASHWAM_CACHE`` begins with the name of an unknown user.
    """
    if own := os.environ.get("FLASHWAM_CACHE"):
        return user_path(own).absolute()
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if given.is_absolute():
        return given / "flashwam"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "flashwam" / "cache"
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "flashwam"


def keep_compiled() -> None:
    """Keeps what torch's compiler makes in this package's own folder (see `cache_folder`), for later processes.

    Where the environment names a folder, or that one cannot be written to, torch keeps it as it always does, below the
    folder for what is temporary.
    """
    root = cache_folder()
    if root is None or "TORCHINDUCTOR_CACHE_DIR" in os.environ:
        return
    folder = root / "compiled"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
