# SPDX-License-Identifier: Apache-2.0
"""Measurements of whole models that lie beside a comparison, of those that are compared alone.

They lie in the folder that it is written into, where an earlier comparison may have left its own, or else in the
`comparison` of a study. A file notes its models, see `flashwam.run.model_note`; an older one names them, and a name
that several of the compared runs have tells nobody.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flashwam.report.row import Row
from flashwam.report.study import find_study
from flashwam.run.model_note import MODELS, fits_note
from flashwam.system.json_file import read_mapping

__all__ = ["cross_beside", "is_among", "measured_beside", "run_name"]


def run_name(row: Row) -> str:
    """Name of a row's run, without the folder that tells it from others of its name."""
    return row.run.rpartition("/")[2]


def is_among(rows: Sequence[Row], name: str, note: Mapping[str, Any] | None, *, place: Path) -> bool:
    """Tells whether a model is one of some rows'.

    Args:
        rows: Those that it may be.
        name: Of its run.
        note: Of its weights; None where there is none.
        place: Folder of the file that tells of it.
    """
    if isinstance(note, Mapping):
        return any(fits_note(note, row.folders, row.step, beside=place) for row in rows)
    return len({row.run for row in rows if run_name(row) == name}) == 1


def measured_beside(
    file: str, out: Path, rows: Sequence[Row], label: Callable[[Row], str]
) -> list[Mapping[str, Any] | None]:
    """Looks up a table of whole models' measurements: what it says of each row, None where nothing.

    Of rows of one study, and of those of none, all are told by one table: the first that tells of any.

    Args:
        file: Name of the table, label -> measurements.
        out: Folder of the comparison.
        rows: Those that are compared.
        label: Gives that of a row.
    """
    studies = [find_study(row.folders[0]) for row in rows]
    told: list[Mapping[str, Any] | None] = [None] * len(rows)
    for study in dict.fromkeys(studies):
        own = [number for number, each in enumerate(studies) if each == study]
        for place, rivals in _places(out, study, rows, [rows[number] for number in own]):
            table = _read(place / file)
            found = {}
            for number in own:
                row, name = rows[number], label(rows[number])
                note = _notes(table).get(name)
                if name in table and is_among(rivals if note is None else [row], run_name(row), note, place=place):
                    found[number] = table[name]
            if found:
                for number, one in found.items():
                    told[number] = one
                break
    return told


def cross_beside(out: Path, rows: Sequence[Row]) -> dict[str, Any] | None:
    """The part of a cross table that is of compared models; None where it is not of two, or not of the last, which the
    others' errors are against."""
    studies = {find_study(folder) for row in rows for folder in row.folders}
    for place, _ in _places(out, studies.pop() if len(studies) == 1 else None, rows, rows):
        if (cross := _read(place / "cross.json")) and (cut := _cut(cross, rows, place)) is not None:
            return cut
    return None


def _cut(cross: Mapping[str, Any], rows: Sequence[Row], place: Path) -> dict[str, Any] | None:
    notes = _notes(cross)
    kept = {}
    for axis in ("rows", "columns"):
        names = [(label.rpartition(" ")[0], notes.get(label)) for label in cross[axis]]
        kept[axis] = [k for k, (name, note) in enumerate(names) if is_among(rows, name, note, place=place)]
        if len(kept[axis]) < 2 or kept[axis][-1] != len(names) - 1:
            return None
    cut = {key: value for key, value in cross.items() if key != MODELS}
    for axis, numbers in kept.items():
        cut[axis] = [cross[axis][k] for k in numbers]
    for name in ("commitment", "action_error", "taken"):
        if cross.get(name):
            cut[name] = [[cross[name][i][j] for j in kept["columns"]] for i in kept["rows"]]
    return cut


def _places(out: Path, study: Path | None, rows: Sequence[Row], own: Sequence[Row]) -> list[tuple[Path, Sequence[Row]]]:
    """Folders that may hold a file, each with the rows that a name in it may mean."""
    return [(out, rows), *([] if study is None else [(study / "comparison", own)])]


def _read(path: Path) -> dict[str, Any]:
    return read_mapping(path, finite=False) if path.is_file() else {}


def _notes(table: Mapping[str, Any]) -> Mapping[str, Any]:
    notes = table.get(MODELS)
    return notes if isinstance(notes, Mapping) else {}
