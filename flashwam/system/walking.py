# SPDX-License-Identifier: Apache-2.0
"""Folders below a folder, those that are linked among them."""

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["folders_below"]


def folders_below(root: Path) -> Iterator[Path]:
    """Yields a folder and all below it, but hidden ones: macOS, editors and download tools leave such beside the real.

    Links are followed, and a folder with two names is met under both; one that a link names above itself is not entered
    again.
    """
    yield from _below(root, frozenset())


def _below(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    own = (status.st_dev, status.st_ino)
    if own in above:
        return
    yield folder
    for entry in entries:
        # A link is asked apart: one that leads to itself is none.
        inside = entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path))
        if inside and not entry.name.startswith("."):
            yield from _below(folder / entry.name, above | {own})
