# SPDX-License-Identifier: Apache-2.0
"""Git LFS: small texts that stand where large files should be."""

import re
from pathlib import Path

from flashwam.system.errors import InputError

__all__ = ["refuse_pointer"]

_POINTER = re.compile(rb"version https?://(?:git-lfs\.github\.com|hawser\.github\.com)/spec/", re.IGNORECASE)
_SIZE = re.compile(rb"^size ([0-9]{1,20})\s*$", re.MULTILINE)
_LONGEST = 1024


def refuse_pointer(path: Path) -> None:
    """Refuses the pointer that a clone without Git LFS leaves in the place of a file; any other file passes.

    Raises:
        ValueError: It is one.
    """
    if not path.is_file() or path.stat().st_size > _LONGEST:
        return
    content = path.read_bytes()
    if _POINTER.match(content):
        size = _SIZE.search(content)
        told = f" of {int(size[1]):,} bytes" if size else ""
        raise InputError(f"{path} is a Git LFS pointer{told}: run git lfs pull, or hf download")
