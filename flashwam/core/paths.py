# SPDX-License-Identifier: Apache-2.0
"""Paths as users write them."""

import os
from pathlib import Path

__all__ = ["user_path"]


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
        raise ValueError(
            f"{text}: no home folder of {name.removeprefix('~') or 'the user'} is known here; write it out, or "
            f"./{text} for a folder whose name begins with ~"
        )
    return Path(expanded)
