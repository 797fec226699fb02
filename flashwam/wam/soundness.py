# SPDX-License-Identifier: Apache-2.0
"""Faults of the weights in a folder, found without making a model of them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from flashwam.system.json_file import read_mapping
from flashwam.system.lfs import refuse_pointer
from flashwam.wam.weights import read_header, weight_files

__all__ = ["PART_WEIGHTS", "nonfinite", "part_problems"]

PART_WEIGHTS = {"vae": "diffusion_pytorch_model.safetensors", "text_encoder": "model.safetensors"}
"""Folder of a checkpoint -> name of the weights in it."""

# Bits of a number -> those of its exponent, which are all set in what is not finite.
_EXPONENTS: Mapping[str, tuple[str, int]] = {
    "BF16": ("<u2", 0x7F80),
    "F16": ("<u2", 0x7C00),
    "F32": ("<u4", 0x7F800000),
    "F64": ("<u8", 0x7FF0000000000000),
}
_WHOLE = 4 * 2**30
_PIECE = 2**22


def part_problems(root: Path, parts: Sequence[str]) -> list[str]:
    """Lists, of the parts of a checkpoint beside its network, what is missing, damaged, a pointer or not finite.

    Args:
        root: The checkpoint.
        parts: Their folders; of those that hold no weights only the settings are looked at.
    """
    problems = []
    for part in parts:
        folder, name = root / part, PART_WEIGHTS.get(part)
        if not folder.is_dir():
            continue
        problems += [f"{part}: {each}" for each in _small_files(folder)]
        if name is None:
            continue
        try:
            files = weight_files(folder, name)
            problems += [f"{part}: {each}" for each in _of_index(folder / f"{name}.index.json", files)]
            problems += [f"{part}: {each}" for each in nonfinite(files)]
        except (ValueError, OSError) as error:
            problems.append(f"{part}: {error}")
    return problems


def _small_files(folder: Path) -> Iterator[str]:
    """Lists the faults of a part's settings; a pointer in the place of weights is reported where those are read."""
    for file in sorted(folder.glob("*")):
        if file.name.startswith(".") or file.suffix == ".safetensors":
            continue
        try:
            refuse_pointer(file)
            if file.name == "config.json":
                read_mapping(file)
        except (ValueError, OSError) as error:
            yield str(error)


def nonfinite(files: Sequence[Path]) -> list[str]:
    """A line for every tensor with NaN or infinite values; of more than 4 GiB only the head of each is read."""
    whole = sum(file.stat().st_size for file in files) <= _WHOLE
    return [line for file in files for line in _nonfinite(file, whole)]


def _nonfinite(file: Path, whole: bool) -> Iterator[str]:
    header, _ = read_header(file)
    with file.open("rb") as stream:
        begin = 8 + int.from_bytes(stream.read(8), "little")
        for key, entry in header.items():
            kind, exponent = _EXPONENTS.get(entry["dtype"], (None, 0))
            if kind is None:
                continue
            at, end = (begin + offset for offset in entry["data_offsets"])
            stream.seek(at)
            count = 0
            for _ in range(at, end if whole else min(end, at + _PIECE), _PIECE):
                bits = np.frombuffer(stream.read(min(_PIECE, end - stream.tell())), kind)
                count += int(((bits & exponent) == exponent).sum())
            if count:
                yield f"{key} in {file.name} has {count:,} value(s) that are NaN or infinite"


def _of_index(index: Path, files: Sequence[Path]) -> list[str]:
    """Lists the weights that an index promises and its files do not hold."""
    if not index.is_file():
        return []
    told = read_mapping(index).get("weight_map", {})
    held = {file.name: read_header(file)[0] for file in files}
    return [f"{name} lacks {key}, which its index names" for key, name in told.items() if key not in held[name]]
