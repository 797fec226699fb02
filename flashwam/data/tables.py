# SPDX-License-Identifier: Apache-2.0
"""Columns of parquet files as arrays, whichever kind of list a writer chose; what is wrong with a column of actions.

Letters: T rows, D numbers a row, U controls.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.lfs import refuse_pointer

__all__ = ["action_rows", "finite_actions", "is_list", "list_rows", "read_actions", "read_columns", "read_schema"]


def read_columns(path: Path, names: list[str] | None = None) -> Any:
    """Columns of a parquet file as a pyarrow table; those that are not there are left out.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: It is damaged.
    """
    with _opened(path) as file:
        there = file.schema_arrow.names
        wanted = there if names is None else [name for name in names if name in there]
        table = file.read(columns=wanted)
        # Some damage to a page's header ends the column early instead of failing.
        if wanted and table.num_rows != file.metadata.num_rows:
            raise InputError(f"{path}: has {table.num_rows} rows, its own record says {file.metadata.num_rows}")
        return table


def read_schema(path: Path) -> Any:
    """Names and types of a parquet file's columns as a pyarrow schema; raises like `read_columns`."""
    with _opened(path) as file:
        return file.schema_arrow


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except FileNotFoundError:
        raise MissingFileError(f"{path} is missing") from None
    except (pa.ArrowException, OSError) as error:
        refuse_pointer(path)
        raise InputError(f"{path}: not a readable parquet file ({error})") from error


def _inner_type(kind: Any) -> Any:
    return getattr(kind, "storage_type", kind)


def _storage(column: Any) -> Any:
    """A column without the extension type that a library may have put around it."""
    import pyarrow as pa

    if hasattr(column.type, "storage_type"):
        return pa.chunked_array([chunk.storage for chunk in column.chunks], type=column.type.storage_type)
    return column


def is_list(kind: Any) -> bool:
    """Tells whether a pyarrow type is a list: of fixed size or not, of 32-bit or 64-bit offsets, or a view."""
    from pyarrow import types

    return any(
        check(kind)
        for check in (
            types.is_list,
            types.is_large_list,
            types.is_fixed_size_list,
            types.is_list_view,
            types.is_large_list_view,
        )
    )


def list_rows(column: Any) -> np.ndarray:
    """A column of lists of numbers, float64 [T, D]; a null among the numbers is NaN.

    Raises:
        ValueError: It is another column, a row is null, or the rows are of different lengths.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    column = _storage(column)
    inner = column.type.value_type if is_list(column.type) else None
    if inner is None or not (pa.types.is_integer(inner) or pa.types.is_floating(inner)):
        raise InputError(f"is of {column.type}, expected lists of numbers")
    if column.null_count:
        raise InputError(f"row {_first_null(column)} is null, expected a list of numbers")
    lengths = np.concatenate([np.zeros(0, np.int64), *map(pc.list_value_length, column.chunks)])
    if not len(lengths):
        raise InputError("has no rows")
    sizes, counts = np.unique(lengths, return_counts=True)
    width = int(sizes[counts.argmax()])
    if len(sizes) > 1:
        row = np.flatnonzero(lengths != width)[0]
        raise InputError(f"row {row} has {lengths[row]} numbers, the others have {width}")
    return _flat(column).cast(pa.float64(), safe=False).to_numpy().reshape(len(lengths), width)


def _first_null(column: Any) -> int:
    return int(np.argmax(column.is_null()))


def finite_actions(values: np.ndarray, *, first_row: int = 0) -> np.ndarray:
    """Actions as float32 [T, U].

    Args:
        values: [T, U].
        first_row: Number of the first of them, for the message.

    Raises:
        ValueError: One is not finite; the message names its row and control.
    """
    with np.errstate(over="ignore"):
        out = values.astype(np.float32)
    row, control = np.unravel_index(np.argmin(np.isfinite(out)), out.shape) if out.size else (0, 0)
    if out.size and not np.isfinite(out[row, control]):
        raise InputError(f"not finite in row {first_row + row}, control {control}: {values[row, control]}")
    return out


def action_rows(table: Any, key: str = "action", *, schema: Any = None) -> np.ndarray:
    """The actions of a pyarrow table, float32 [T, U]; a column of plain numbers is one control.

    Args:
        table: Holds the column.
        key: The column.
        schema: Of the file, where `table` is only a part of it, to say what there is instead.

    Raises:
        ValueError: There is no such column, or it has a fault; the message says which row and control.
    """
    column, values = _actions(table, key, schema)
    flat = _flat(column)
    if flat.null_count:
        row, control = divmod(_first_null(flat), values.shape[1])
        raise InputError(f"null in row {row}, control {control}")
    return finite_actions(values)


def read_actions(path: Path) -> np.ndarray:
    """The column `action` of an episode's table, float64 [T, U], NaN where a number is missing.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: It is damaged, or has no such column of numbers.
    """
    try:
        return _actions(read_columns(path, ["action"]), "action", None)[1]
    except ValueError as error:
        raise InputError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error


def _actions(table: Any, key: str, schema: Any) -> tuple[Any, np.ndarray]:
    """The column, and its numbers [T, U]."""
    import pyarrow as pa

    found = table.column_names.count(key)
    if found != 1:
        count = f"{found} columns" if found else "no column"
        raise InputError(f"has {count} {key!r}{_other_column(table.schema if schema is None else schema)}")
    column = _storage(table.column(key))
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return column, column.cast(pa.float64(), safe=False).to_numpy()[:, None]
    try:
        values = list_rows(column)
    except ValueError as error:
        raise InputError(f"column {key!r}: {error}") from error
    if len(values) and not values.shape[1]:
        raise InputError(f"column {key!r}: its rows hold no numbers")
    return column, values


def _flat(column: Any) -> Any:
    """The numbers of all rows, one after another."""
    import pyarrow as pa

    if not is_list(column.type):
        return column
    # Not by a cast of the column: pyarrow's from views loses rows.
    return pa.chunked_array([chunk.flatten() for chunk in column.chunks], type=column.type.value_type)


def _other_column(schema: Any) -> str:
    """Words which columns there are instead of the one named, and how to name another."""
    names = [field.name for field in schema if is_list(_inner_type(field.type))]
    near = [name for name in names if "action" in name.lower()] or get_close_matches("action", names, n=1)
    remedy = f"data.action_key={near[0]}" if len(near) == 1 else "data.action_key to the one that holds the actions"
    return f"; columns: {', '.join(schema.names)}; set {remedy}"
