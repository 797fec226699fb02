# SPDX-License-Identifier: Apache-2.0
"""The film at the top of a page, from the files that its maker left beside the comparison."""

import json
from pathlib import Path

from flashwam.report.page import Figure
from flashwam.system.files import write_whole
from flashwam.system.json_file import read_mapping

__all__ = ["FILM", "STILL", "find_film", "tell_film"]

FILM, STILL = "film.gif", "film.png"
"""The film, and the picture that stands for it on paper and where nothing shall move."""
_TOLD = "film.json"


def tell_film(folder: Path, *, caption: str, alt: str) -> Path:
    """Writes the words of a film beside it; what has none is not shown.

    Args:
        folder: With `FILM` and `STILL`.
        caption: Stands under it.
        alt: What is seen in it.
    """
    return write_whole(folder / _TOLD, json.dumps({"caption": caption, "alt": alt}, indent=1) + "\n")


def find_film(*places: Path) -> Figure | None:
    """The film of the first place that has one, for the top of a page; None where none has.

    Args:
        places: Folders of comparisons.

    Raises:
        ValueError: The file of its words is no JSON.
    """
    for place in places:
        if all((place / name).is_file() for name in (FILM, STILL, _TOLD)):
            told = read_mapping(place / _TOLD)
            caption, alt = str(told.get("caption", "")), str(told.get("alt", ""))
            return Figure(path=place / FILM, still=place / STILL, caption=caption, alt=alt)
    return None
