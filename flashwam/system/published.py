# SPDX-License-Identifier: Apache-2.0
"""A model's folder as others may see it: its own files, without the paths of the machine that it was made on."""

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flashwam.system.files import write_whole
from flashwam.system.json_file import read_json
from flashwam.system.released import hub_repo

__all__ = ["published"]

_ABSOLUTE = re.compile(r"(/[^/\n]+){2,}/?|[A-Za-z]:[\\/][^\n]+")
_KEPT_PARTS = 2
_MODEL = "models--"


@contextmanager
def published(folder: Path) -> Iterator[Path]:
    """The folder itself where none of its JSON files names an absolute path, or else one of links to its files in which
    they are rewritten.

    A path in the hub's cache becomes the name of what lies there, "hf:owner/name"; of any other the last two parts are
    left.

    Args:
        folder: Of a model.
    """
    changed = {path.name: text for path in sorted(folder.glob("*.json")) if (text := _rewritten(path)) is not None}
    if not changed:
        yield folder
        return
    with tempfile.TemporaryDirectory() as scratch:
        shown = Path(scratch) / folder.resolve().name
        for path in folder.rglob("*"):
            if path.is_file():
                there = shown / path.relative_to(folder)
                if path.parent == folder and path.name in changed:
                    write_whole(there, changed[path.name])
                else:
                    there.parent.mkdir(parents=True, exist_ok=True)
                    there.symlink_to(path.resolve())
        yield shown


def _rewritten(path: Path) -> str | None:
    """A file's text without absolute paths; None where it has none."""
    told = read_json(path, finite=False)
    shown = _without_paths(told)
    return None if shown == told else json.dumps(shown, indent=2) + "\n"


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_paths(one) for one in value]
    if not isinstance(value, str) or not _ABSOLUTE.fullmatch(value):
        return value
    repo = hub_repo(Path(value))
    if repo is not None:
        return f"hf:{repo}" if _MODEL in value else repo
    return "/".join(re.split(r"[\\/]", value.rstrip("/\\"))[-_KEPT_PARTS:])
