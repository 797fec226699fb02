# SPDX-License-Identifier: Apache-2.0
"""Pickles that tell whether anybody ran them, put in the place of every file of a folder in turn."""

import os
import pickle
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

_TEXTS = (".json", ".jsonl", ".yaml", ".md")


class Bomb:
    """Touches a file where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def bombs(folder: Path, marker: Path) -> list[bytes]:
    """A raw pickle, and torch's, a zip."""
    path = folder / "bomb.pt"
    torch.save({"weight": Bomb(marker)}, path)
    zipped = path.read_bytes()
    path.unlink()
    return [pickle.dumps(Bomb(marker)), zipped]


def run_by(folder: Path, read: Callable[[Path], Any], *, scratch: Path) -> list[str]:
    """Files of a folder whose place a pickle can take and be run when the folder is read; `read` may refuse it."""
    marker = scratch / "ran"
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files
    ran = []
    raw, zipped = bombs(scratch, marker)
    for file in files:
        # Whoever unpickles text at all takes the raw one; weights may be looked at before.
        for bomb in (raw,) if file.suffix in _TEXTS else (raw, zipped):
            copy = scratch / "copy"
            shutil.copytree(folder, copy)
            (copy / file).write_bytes(bomb)
            with suppress(Exception):
                read(copy)
            shutil.rmtree(copy)
            if marker.exists():
                marker.rmdir()
                ran.append(str(file))
    return ran
