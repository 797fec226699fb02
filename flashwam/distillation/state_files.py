# SPDX-License-Identifier: Apache-2.0
"""A training's state as tensors in safetensors files: written in parts, read by name, never unpickled."""

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from flashwam.system.errors import InputError
from flashwam.system.tensor_file import write_tensors

__all__ = ["StateReader", "StateWriter", "file_digest", "load_random_state", "save_random_state"]

PART_BYTES = 2**30
_PATTERN = "state_*.safetensors"


class StateWriter:
    """Writes `state_00000.safetensors` and so on into a folder; holds about 1 GiB at a time.

    Args:
        folder: Where to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: dict[str, Tensor] = {}
        self._memory: set[int] = set()
        self._bytes = self._parts = 0

    def add(self, name: str, value: Tensor) -> None:
        """Adds a tensor, which must not change before `close`."""
        value = value.detach().to("cpu").contiguous()
        memory = value.untyped_storage().data_ptr()
        # Several names may mean one tensor, such as the step count of a group.
        self._held[name] = value.clone() if memory in self._memory else value
        self._memory.add(memory)
        self._bytes += value.numel() * value.element_size()
        if self._bytes >= PART_BYTES:
            self._flush()

    def close(self) -> None:
        """Writes what is left."""
        if self._held or not self._parts:
            self._flush()

    def _flush(self) -> None:
        write_tensors(self.folder / f"state_{self._parts:05d}.safetensors", self._held)
        self._held, self._memory, self._bytes, self._parts = {}, set(), 0, self._parts + 1


class StateReader(Mapping[str, Tensor]):
    """The tensors that a `StateWriter` wrote to a folder, on the CPU; one is read when it is asked for.

    Args:
        folder: Of the files.
        names: Files that belong to it; those that hold no state are left out.
    """

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        parts = sorted(name for name in names if fnmatch(name, _PATTERN))
        self._files = [safe_open(folder / name, framework="pt") for name in parts]
        self._where = {name: file for file in self._files for name in file.keys()}

    def __getitem__(self, name: str) -> Tensor:
        return self._where[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_random_state(path: Path) -> None:
    """Writes the state of Python's, NumPy's and torch's global generators."""
    _, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    values = {
        "python": torch.tensor(words, dtype=torch.int64),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.from_numpy(keys.astype(np.int64)),
        "numpy_gauss": torch.tensor([position, has_gauss, cached], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        values["cuda"] = torch.cuda.get_rng_state()
    write_tensors(path, values)


def load_random_state(path: Path) -> None:
    """Puts back what `save_random_state` wrote.

    Raises:
        ValueError: the file holds something else.
    """
    try:
        values = load_file(path)
        gauss = values["python_gauss"].tolist()
        random.setstate((3, tuple(values["python"].tolist()), gauss[0] if gauss else None))
        position, has_gauss, cached = values["numpy_gauss"].tolist()
        keys = values["numpy"].numpy().astype(np.uint32)
        np.random.set_state(("MT19937", keys, int(position), int(has_gauss), cached))
        torch.set_rng_state(values["torch"])
        if "cuda" in values and torch.cuda.is_available():
            torch.cuda.set_rng_state(values["cuda"])
    except (SafetensorError, LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise InputError(f"{path} is no state of random generators: {error}") from error
