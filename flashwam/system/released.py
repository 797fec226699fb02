# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that others have published: their names on the Hugging Face Hub, and under which licence they are."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from flashwam.system.errors import InputError

__all__ = ["License", "Released", "hub_repo", "released_at"]

_HEADER = re.compile(r"---\n(.*?\n)---(?:\n|\Z)", re.DOTALL)
_CACHED = re.compile(r"(?:models|datasets)--([\w.-]+?)--([\w.-]+)")
_SHAPES = {
    "license": r"[a-z0-9][a-z0-9.+-]*",
    "license_name": r"[\w.+-]+",
    "license_link": r"https?://[^\s\"'\\]+|LICENSE",
}
_CARD = "README.md"
_LONGEST_CARD = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class License:
    """A licence, as the header of a model card states it.

    Args:
        identifier: The hub's, such as "apache-2.0"; "other" for one that it has no word for.
        name: Of one that it has no word for; None where it is not told.
        link: Of its text; None where it is not told.

    Raises:
        ValueError: One of them is none.
    """

    identifier: str
    name: str | None = None
    link: str | None = None

    def __post_init__(self) -> None:
        for key, value in self.to_json().items():
            if not isinstance(value, str) or re.fullmatch(_SHAPES[key], value) is None:
                raise InputError(
                    f"{key} must read as in a model card's header, such as apache-2.0, mit or cc-by-4.0; got {value!r}"
                )

    @classmethod
    def read(cls, told: Any) -> Self | None:
        """A licence from plain values; None where they are none."""
        if not isinstance(told, Mapping) or "license" not in told:
            return None
        try:
            return cls(identifier=told["license"], name=told.get("license_name"), link=told.get("license_link"))
        except InputError:
            return None

    @classmethod
    def of_card(cls, path: Path) -> Self | None:
        """The licence that a model card states in its header; None where there is no card, or none is stated."""
        try:
            with path.open(errors="replace") as file:
                header = _HEADER.match(file.read(_LONGEST_CARD))
        except OSError:
            return None
        lines = dict(re.findall(r"^(\w+): *(\S.*?) *$", header[1], re.MULTILINE)) if header else {}
        return cls.read({key: lines[key].strip("\"'") for key in _SHAPES if key in lines})

    def to_json(self) -> dict[str, str]:
        """Plain values, by the keys of a card's header."""
        told = {"license": self.identifier, "license_name": self.name, "license_link": self.link}
        return {key: value for key, value in told.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """A checkpoint that somebody has published.

    Args:
        repo: "owner/name" on the hub; None where nobody knows.
        license: Its licence; None where its card states none.
    """

    repo: str | None = None
    license: License | None = None


def released_at(folder: Path, known: Mapping[str, Released]) -> Released:
    """Tells what a folder holds a download of; the licence is that of the card in it, where there is one.

    Args:
        folder: It may be missing.
        known: End of a path, such as "lingbot-va-base" or "checkpoints/videovla" -> what lies there.
    """
    parts = folder.parts
    ends = (one for end, one in known.items() if parts[-len(Path(end).parts) :] == Path(end).parts)
    named = next(ends, Released())
    repo = hub_repo(folder) or named.repo
    stated = License.of_card(folder / _CARD)
    if stated is not None and stated.link == "LICENSE":
        # Beside that card, not beside this one.
        link = f"https://huggingface.co/{repo}/blob/main/LICENSE" if repo else None
        stated = License(identifier=stated.identifier, name=stated.name, link=link)
    return Released(repo=repo, license=stated or named.license)


def hub_repo(folder: Path) -> str | None:
    """The "owner/name" of a model or data set that lies in the cache of huggingface_hub; None for any other folder."""
    found = (_CACHED.fullmatch(part) for part in Path(os.path.realpath(folder)).parts)
    return next((f"{match[1]}/{match[2]}" for match in found if match), None)
