# SPDX-License-Identifier: Apache-2.0
"""Safetensors files of a folder: which they are, what their headers say, what is wrong with their keys."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.json_file import read_json, read_mapping
from flashwam.system.lfs import refuse_pointer
from flashwam.system.tensor_file import read_header

__all__ = [
    "digest",
    "key_problems",
    "misfits",
    "read_config",
    "read_header",
    "refuse_misfits",
    "samples",
    "some_of",
    "summary",
    "weight_files",
]

_LISTED = 20
_EDGE = 2**20
_PIECES, _PIECE = 256, 4096


def weight_files(folder: Path, name: str) -> list[Path]:
    """The safetensors files of a folder, by its index where it is sharded.

    Args:
        folder: Where they are.
        name: Of the single file; its index is ``<name>.index.json``.

    Raises:
        FileNotFoundError: One is missing.
        ValueError: The index is no index, or points outside the folder.
    """
    single, index = folder / name, folder / f"{name}.index.json"
    files = [single]
    if index.is_file():
        content = read_json(index)
        held = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(held, dict) or not all(isinstance(one, str) for one in held.values()):
            raise InputError(f"{index} is no index of safetensors files: weight_map must name one for every key")
        names = sorted(set(held.values()))
        outside = [one for one in names if Path(one).name != one]
        if outside:
            raise InputError(f"{index} names files outside its folder: {outside}")
        files = [folder / one for one in names]
    absent = [str(path) for path in files if not path.is_file()]
    if absent:
        raise MissingFileError(f"weights are missing: {', '.join(absent)}")
    for file in files:
        refuse_pointer(file)
    return files


def read_config(path: Path, *, weights: str) -> dict[str, Any]:
    """A checkpoint's JSON file of settings.

    Args:
        path: The file.
        weights: Name of the file that belongs beside it, for the message.

    Raises:
        FileNotFoundError: It is missing.
        ValueError: It is no JSON mapping.
    """
    return read_mapping(path, missing=f"expected a folder with config.json and {weights}")


def summary(files: Sequence[Path], *, prefix: str = "") -> dict[str, Any]:
    """Parameters, dtypes and sizes of safetensors files, from their headers.

    Args:
        files: The files.
        prefix: Only keys that begin with it.
    """
    parameters, dtypes = 0, set()
    for path in files:
        for key, entry in read_header(path)[0].items():
            if key.startswith(prefix):
                parameters += math.prod(entry["shape"])
                dtypes.add(entry["dtype"])
    return {
        "parameters": parameters,
        "dtype": ", ".join(sorted(dtypes)),
        "weights": f"{sum(path.stat().st_size for path in files) / 2**20:.1f} MiB in {len(files)} file(s)",
    }


def digest(folder: Path, name: str) -> str:
    """Tells the weights of a folder from others: of every file its header and both ends, since reading all of a large
    model takes longer than using it once.

    Args:
        folder: Where they are.
        name: See `weight_files`.
    """
    made = hashlib.sha256()
    for path in weight_files(folder, name):
        header, _ = read_header(path)
        made.update(json.dumps(header, sort_keys=True).encode())
        with path.open("rb") as file:
            made.update(file.read(_EDGE))
            file.seek(max(0, path.stat().st_size - _EDGE))
            made.update(file.read())
    return made.hexdigest()


def samples(folder: Path, name: str) -> str:
    """Fingerprints like `digest`, from short pieces all over the files, so that a training of middle layers shows.

    Args:
        folder: Where they are.
        name: See `weight_files`.
    """
    made = hashlib.sha256()
    for path in weight_files(folder, name):
        size = path.stat().st_size
        with path.open("rb") as file:
            for place in range(_PIECES):
                file.seek(place * max(0, size - _PIECE) // (_PIECES - 1))
                made.update(file.read(_PIECE))
    return made.hexdigest()


def misfits(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], *, twice: Sequence[str] = ()
) -> list[str]:
    """Lists the weights that do not fit a configuration, a line for each key.

    Args:
        expected: Key -> shape by the configuration.
        found: Key -> shape in the files.
        twice: Keys that are in more than one file.
    """
    problems = [f"unexpected {key} {shape}" for key, shape in sorted(found.items()) if key not in expected]
    problems += [
        f"misshapen {key}: expected {expected[key]}, got {shape}"
        for key, shape in sorted(found.items())
        if key in expected and shape != expected[key]
    ]
    problems += [f"missing {key} {shape}" for key, shape in expected.items() if key not in found]
    problems += [f"given twice, such as in two files: {key}" for key in twice]
    return problems


def some_of(problems: Sequence[str]) -> list[str]:
    """The first of many lines, and how many more there are."""
    rest = [f"and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else []
    return [*problems[:_LISTED], *rest]


def refuse_misfits(problems: Sequence[str], *, what: Path) -> None:
    """Refuses weights that do not fit a configuration.

    Args:
        problems: See `misfits`.
        what: The folder, for the message.

    Raises:
        ValueError: There are any; the message lists them.
    """
    if problems:
        listed = "\n  ".join(some_of(problems))
        # Where the names alone are at fault, the first line says the remedy.
        remedy = (
            ""
            if problems[0].startswith("every key")
            else "\nTake the config.json and the weights from the same checkpoint."
        )
        raise InputError(f"{what} does not fit its config.json ({len(problems)} keys):\n  {listed}{remedy}")


def key_problems(
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    *,
    what: Path,
    twice: Sequence[str] = (),
) -> None:
    """Refuses weights that do not fit a configuration; see `misfits` and `refuse_misfits`."""
    refuse_misfits(misfits(expected, found, twice=twice), what=what)
