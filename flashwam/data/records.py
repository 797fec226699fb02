# SPDX-License-Identifier: Apache-2.0
"""The records of a data set's `meta/`, each with where it stands; a record that is no good costs itself alone."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashwam.data.bad_files import BadFiles
from flashwam.data.tables import read_columns, read_schema
from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.lfs import refuse_pointer
from flashwam.system.walking import folders_below

__all__ = ["Place", "json_lines", "number", "parquet_rows", "read_tasks", "text", "texts", "whole_field"]

Place = tuple[str, dict[str, Any]]
"""The place where a record stands, and its values."""


def json_lines(path: Path, bad: BadFiles) -> list[Place]:
    """The records of a `.jsonl` file; empty lines are passed over.

    Args:
        path: The file.
        bad: Receives lines that are no records.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: It is a Git LFS pointer.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        raise MissingFileError(f"{path} is missing") from None
    refuse_pointer(path)
    out = []
    for count, line in enumerate(lines, start=1):
        where = f"{path}, line {count}"
        if not line.strip(b" \t\r\n\0\x0b\x0c"):
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            bad.add(where, InputError(f"{where}: not JSON ({error})"))
            continue
        if isinstance(values, dict):
            out.append((where, values))
        else:
            bad.add(where, InputError(f"{where}: expected an object with named values, got {type(values).__name__}"))
    return out


def parquet_rows(folder: Path, bad: BadFiles) -> list[Place]:
    """The rows of all parquet files below a folder, without LeRobot's statistics.

    Args:
        folder: The folder.
        bad: Receives files that cannot be read.

    Raises:
        FileNotFoundError: There is no such file.
    """
    found = (path for part in folders_below(folder) for path in part.glob("*.parquet"))
    paths = sorted(path for path in found if not path.name.startswith("."))
    if not paths:
        raise MissingFileError(f"{folder} holds no parquet file")
    out: list[Place] = []
    for path in paths:
        try:
            # Named before anything is read: the statistics are most of the file.
            names = [name for name in read_schema(path).names if not name.startswith("stats/")]
            rows = read_columns(path, names).to_pylist()
        except (ValueError, FileNotFoundError) as error:
            bad.add(str(path), error)
            continue
        out += [(f"{path}, row {count}", row) for count, row in enumerate(rows)]
    return out


def whole_field(record: Mapping[str, Any], key: str, said: str | None = None) -> int:
    """A field that counts or numbers something.

    Args:
        record: Has it.
        key: The field.
        said: How a complaint names it, the key if None.

    Raises:
        ValueError: It is not there, null, or no whole number of at least 0.
    """
    value = number(record, key, said)
    if value < 0 or not value.is_integer():
        raise InputError(f"{said or key} is {record[key]!r}, expected a whole number of at least 0")
    return int(value)


def number(record: Mapping[str, Any], key: str, said: str | None = None) -> float:
    """As `whole_field`, for any finite number."""
    value = record.get(key)
    if value is None:
        raise InputError(f"no {said or key}")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{said or key} is {value!r}, expected a number")
    return float(value)


def text(record: Mapping[str, Any], key: str) -> str:
    """A field that is a text; raises like `whole_field`."""
    value = record.get(key)
    if value is None:
        raise InputError(f"no {key}")
    if not isinstance(value, str):
        raise InputError(f"{key} is {value!r}, expected a text")
    return value


def texts(record: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """A field that is a list of texts; one text counts as a list of it, unless it is such a list written as JSON.

    Raises:
        ValueError: It is not there, null or empty, or one of it is no text.
    """
    value = record.get(key)
    if value is None:
        raise InputError(f"no {key}")
    if isinstance(value, str):
        if not (value.strip().startswith("[") and value.strip().endswith("]")):
            return (value,)
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{key} is {value!r}, expected texts, not how a list of them is printed") from error
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise InputError(f"{key} is {value!r}, expected a list of at least one text")
    return tuple(value)


def read_tasks(repo: Path) -> dict[int, str]:
    """The text of every task number, from `meta/tasks.jsonl` or `meta/tasks.parquet`.

    Raises:
        FileNotFoundError: There is neither.
        ValueError: The file is damaged, or a number has two texts.
    """
    lines, table = repo / "meta" / "tasks.jsonl", repo / "meta" / "tasks.parquet"
    strict = BadFiles()
    if lines.is_file():
        places = json_lines(lines, strict)
    elif table.is_file():
        places = _task_rows(table)
    else:
        raise MissingFileError(f"neither {lines} nor {table.name} is there, which say what task numbers mean")
    out: dict[int, str] = {}
    for where, record in places:
        try:
            index, task = whole_field(record, "task_index"), text(record, "task")
        except ValueError as error:
            raise InputError(f"{where}: {error}") from error
        if out.setdefault(index, task) != task:
            raise InputError(f"{where}: task {index} is {task!r} here and {out[index]!r} before")
    return out


def _task_rows(path: Path) -> list[Place]:
    """LeRobot keeps the texts in the index of a pandas frame, whose column has whatever name that index has."""
    import pyarrow as pa

    table = read_columns(path)
    kinds = {f.name: f.type.value_type if pa.types.is_dictionary(f.type) else f.type for f in table.schema}
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    named = [name for name, kind in kinds.items() if any(check(kind) for check in checks)]
    column = "task" if "task" in named else named[0] if len(named) == 1 else None
    if column is None or "task_index" not in table.column_names:
        raise InputError(f"{path}: expected task_index and one column of texts, got {', '.join(table.column_names)}")
    rows = zip(table["task_index"].to_pylist(), table[column].to_pylist(), strict=True)
    return [(f"{path}, row {count}", {"task_index": index, "task": task}) for count, (index, task) in enumerate(rows)]
