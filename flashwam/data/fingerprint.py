# SPDX-License-Identifier: Apache-2.0
"""Fingerprints that tell one content from another without reading all of it."""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashwam.system.errors import MissingFileError

__all__ = [
    "autoencoder_files",
    "autoencoder_fingerprint",
    "file_fingerprint",
    "files_fingerprint",
    "tensors_fingerprint",
    "values_fingerprint",
]

_BLOCKS = 64
_WHOLE = 2**16
_BLOCK = 2**10
_WHOLE_FILES = 2000
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


def tensors_fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Fingerprints tensors by name, type, shape and numbers, whatever their order.

    Of a tensor of more than 65,536 numbers, 64 blocks of 1,024 are read, spread evenly from the first to the last: what
    was scaled, trained or exchanged is noticed, a few numbers changed by hand need not be.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        flat = tensors[name].detach().reshape(-1)
        digest.update(f"{name} {flat.dtype} {tuple(tensors[name].shape)}\n".encode())
        for begin, end in _pieces(flat.numel(), whole=_WHOLE, block=_BLOCK):
            digest.update(flat[begin:end].cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def values_fingerprint(values: Mapping[str, Any]) -> str:
    """Fingerprints plain values, whatever their order."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def autoencoder_files(folder: Path, *, settings: Collection[str] | None = None) -> list[Path]:
    """The files of weights and settings in a folder such as a model's ``vae/``.

    Args:
        folder: Where they lie.
        settings: Names of the JSON files that count; all if None.
    """

    def counts(path: Path) -> bool:
        if path.suffix == ".json":
            return settings is None or path.name in settings
        return path.suffix in _WEIGHTS

    return [path for path in folder.rglob("*") if counts(path) and path.is_file()]


def autoencoder_fingerprint(folder: Path) -> str:
    """Fingerprints the weights and settings in a folder such as a model's ``vae/``, see `files_fingerprint`."""
    return files_fingerprint(autoencoder_files(folder), base=folder)


def files_fingerprint(files: Iterable[Path], *, base: Path, extra: str = "") -> str:
    """Fingerprints files: their paths below `base`, sizes and content.

    Content is read of all files, or of 2,000 that are spread evenly where there are more; of a file of more than 1 MiB,
    64 blocks of 16 KiB. So what was made anew is noticed, and a flipped bit in a large file need not be.

    Args:
        files: Which.
        base: What their paths are taken relative to: copied elsewhere, they are the same.
        extra: Further text that belongs to them.
    """
    digest = hashlib.sha256(extra.encode())
    ordered = sorted(set(files))
    every = max(1, -(-len(ordered) // _WHOLE_FILES))
    for number, path in enumerate(ordered):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(base).as_posix()} {size}\n".encode())
        if number % every:
            continue
        with path.open("rb") as file:
            for begin, end in _pieces(size, whole=16 * _WHOLE, block=16 * _BLOCK):
                file.seek(begin)
                digest.update(file.read(end - begin))
    return digest.hexdigest()


def file_fingerprint(path: Path) -> str:
    """As `files_fingerprint`, of a file that is read once though many episodes may lie in it.

    Raises:
        FileNotFoundError: It is missing.
    """
    if not path.is_file():
        raise MissingFileError(f"{path} is missing: fetch it with the data set")
    status = path.stat()
    return _content(path, (status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=4096)
def _content(path: Path, version: tuple[int, int]) -> str:
    """`version` tells the file from a later one."""
    return files_fingerprint([path], base=path.parent)


def _pieces(total: int, *, whole: int, block: int) -> Iterator[tuple[int, int]]:
    """Lists where to read: everything up to `whole`, or blocks from the very begin to the very end."""
    if total <= whole:
        yield 0, total
        return
    for number in range(_BLOCKS):
        begin = (total - block) * number // (_BLOCKS - 1)
        yield begin, begin + block
