# SPDX-License-Identifier: Apache-2.0
"""Safetensors files of a folder: which they are, what their headers say, what is wrong with their keys."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["digest", "key_problems", "read_config", "read_header", "samples", "summary", "weight_files"]

_LISTED = 20
_EDGE = 2**20
_PIECES, _PIECE = 256, 4096
_LARGEST_HEADER = 100_000_000


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
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{index} is no index of safetensors files: {error!r}") from error
        outside = [one for one in names if Path(one).name != one]
        if outside:
            raise ValueError(f"{index} names files outside its folder: {outside}")
        files = [folder / one for one in names]
    absent = [str(path) for path in files if not path.is_file()]
    if absent:
        raise FileNotFoundError(f"weights are missing: {', '.join(absent)}")
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
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: expected a folder with config.json and {weights}")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a mapping, got {type(content).__name__}")
    return content


def read_header(path: Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Header of a safetensors file, without its tensors.

    Returns:
        (key -> dtype, shape and data_offsets; metadata).

    Raises:
        ValueError: The file is no safetensors file, or shorter than its header says.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 2 <= size <= min(_LARGEST_HEADER, path.stat().st_size - 8):
            raise ValueError(f"{path} is no safetensors file, or cut off")
        text = file.read(size)
    try:
        header = json.loads(text)
        metadata = header.pop("__metadata__", {})
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{path} is no safetensors file: {error!r}") from error
    if path.stat().st_size != 8 + size + end:
        raise ValueError(f"{path} is cut off: expected {8 + size + end:,} bytes, got {path.stat().st_size:,}")
    return header, metadata


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
    """As `digest`, from short pieces all over the files: tells apart what a training of the middle layers changed.

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


def key_problems(
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    *,
    what: Path,
    twice: Sequence[str] = (),
) -> None:
    """Refuses weights that do not fit a configuration.

    Args:
        expected: Key -> shape by the configuration.
        found: Key -> shape in the files.
        what: The folder, for the message.
        twice: Keys that are in more than one file.

    Raises:
        ValueError: Keys are missing, unexpected, misshapen or given twice; the message lists them.
    """
    problems = [f"unexpected {key} {shape}" for key, shape in sorted(found.items()) if key not in expected]
    problems += [
        f"misshapen {key}: expected {expected[key]}, got {shape}"
        for key, shape in sorted(found.items())
        if key in expected and shape != expected[key]
    ]
    problems += [f"missing {key} {shape}" for key, shape in expected.items() if key not in found]
    problems += [f"in two files: {key}" for key in twice]
    if problems:
        listed = "\n  ".join(problems[:_LISTED])
        rest = f"\n  and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise ValueError(
            f"{what} does not fit its config.json ({len(problems)} keys):\n  {listed}{rest}\n"
            "Take the config.json and the weights from the same checkpoint."
        )
