# SPDX-License-Identifier: Apache-2.0
"""The film at the top of a page, from the files that its maker left beside the comparison."""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flashwam.report.beside import is_among
from flashwam.report.page import Figure
from flashwam.report.row import Row
from flashwam.run.model_note import MODELS
from flashwam.system.files import write_whole
from flashwam.system.json_file import read_mapping

__all__ = ["FILM", "STILL", "find_film", "tell_film"]

logger = logging.getLogger(__name__)

FILM, STILL = "film.gif", "film.png"
"""The film, and the picture that stands for it on paper and where nothing shall move."""
_TOLD = "film.json"
_LABELS = re.compile("left (.+?), right ([^:]+)")
"""Of those who are in it, in a caption."""


def tell_film(folder: Path, *, caption: str, alt: str, models: Mapping[str, Mapping[str, Any]]) -> Path:
    """Writes the words of a film beside it; what has none is not shown.

    Args:
        folder: With `FILM` and `STILL`.
        caption: Stands under it.
        alt: What is seen in it.
        models: Label of each who is in it -> note of its weights, see `flashwam.run.model_note`.
    """
    told = {"caption": caption, "alt": alt, MODELS: models}
    return write_whole(folder / _TOLD, json.dumps(told, indent=1) + "\n")


def find_film(*places: Path, rows: Sequence[Row]) -> Figure | None:
    """The film of the first place that has one of these rows, for the top of a page; None where none has.

    Args:
        places: Folders of comparisons; a film there may be an earlier one's.
        rows: Those that are compared.

    Raises:
        ValueError: The file of its words is no JSON.
    """
    for place in places:
        if all((place / name).is_file() for name in (FILM, STILL, _TOLD)):
            told = read_mapping(place / _TOLD)
            caption, alt = str(told.get("caption", "")), str(told.get("alt", ""))
            if _is_of(rows, told.get(MODELS), caption, place):
                return Figure(path=place / FILM, still=place / STILL, caption=caption, alt=alt)
            logger.info("%s shows others than are compared here, so it is left out", place / FILM)
    return None


def _is_of(rows: Sequence[Row], models: Any, caption: str, place: Path) -> bool:
    """Tells whether all who are in a film are among the rows; an older one names them in its caption alone."""
    if isinstance(models, Mapping):
        return all(is_among(rows, label, note, place=place) for label, note in models.items())
    named = _LABELS.search(caption)
    return named is None or set(named.groups()) <= {row.label for row in rows}
