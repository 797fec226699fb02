# SPDX-License-Identifier: Apache-2.0
"""The keys of files by the weights of a network that they are, also where they were saved from inside a wrapper."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from safetensors import safe_open
from torch import Tensor, nn

from flashwam.wam.weights import misfits, read_header, refuse_misfits

__all__ = ["Keys", "match_keys"]

_INNER = {
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
}
"""Part of a key that no network of its own has -> what puts it there."""
_OUTER = {"module": "DistributedDataParallel", "model": "a module around it"}
"""Beginning of every key -> what puts it there, unless the network's own keys begin so."""

_WHOLE_NUMBERS = ("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64")

_UNPREFIXED = "(no prefix {!r}) "

_Module = TypeVar("_Module", bound=nn.Module)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The weights of a network that files hold.

    Args:
        places: Key -> (file, key there).
        dtypes: Of the tensors.
        problems: What does not, a line each.
        wrapped: What the weights were saved from inside of; empty where of nothing.
    """

    places: Mapping[str, tuple[Path, str]]
    dtypes: frozenset[str]
    problems: tuple[str, ...]
    wrapped: str

    def check(self, folder: Path) -> None:
        """Says what was taken off the keys.

        Raises:
            ValueError: Keys are missing, unexpected, misshapen or given twice; the message lists them.
        """
        refuse_misfits(self.problems, what=folder)
        if self.wrapped:
            logger.warning("%s: %s; it is taken off", folder, self.wrapped)

    def files(self) -> Iterator[tuple[Path, list[tuple[str, str]]]]:
        """Per file its (key, key there)."""
        listed = sorted(((file, key, stored) for key, (file, stored) in self.places.items()), key=lambda each: each[0])
        for file, group in groupby(listed, key=lambda each: each[0]):
            yield file, [(key, stored) for _, key, stored in group]

    def fill(self, module: _Module) -> _Module:
        """The module with the weights copied into it; all keys must fit."""
        weights: dict[str, Tensor] = {}
        for path, held in self.files():
            with safe_open(path, framework="pt") as file:
                weights |= {key: file.get_tensor(stored) for key, stored in held}
        module.load_state_dict(weights, strict=True)
        return module


def match_keys(
    expected: Mapping[str, tuple[int, ...]],
    files: Sequence[Path],
    *,
    prefix: str = "",
    ignored: Callable[[str], bool] = lambda key: False,
) -> Keys:
    """Finds a network's weights by the headers of safetensors files.

    Args:
        expected: Key -> shape by the configuration.
        files: The files.
        prefix: What every key begins with in this layout.
        ignored: Whether a key that is not expected may be left aside.

    Raises:
        ValueError: A file is damaged.
    """
    headers = {file: read_header(file)[0] for file in files}
    names, wrapped = _unwrapped([key for header in headers.values() for key in header], list(expected), prefix)
    shapes: dict[str, tuple[int, ...]] = {}
    places: dict[str, tuple[Path, str]] = {}
    dtypes: set[str] = set()
    twice: list[str] = []
    for file, header in headers.items():
        for stored, entry in sorted(header.items()):
            key, shape = names[stored], tuple(entry["shape"])
            if key not in expected and ignored(key):
                logger.info("ignored %s of %s", stored, file)
                continue
            if key in shapes:
                twice.append(key)
            shapes[key] = shape
            places[key] = (file, stored)
            dtypes.add(entry["dtype"])
    problems = [*_unknown_wrapper(list(shapes), list(expected), prefix), *misfits(expected, shapes, twice=twice)]
    for key, (file, stored) in sorted(places.items()):
        kind = headers[file][stored]["dtype"]
        if key in expected and kind in _WHOLE_NUMBERS:
            problems.append(f"{key} is of whole numbers ({kind}), such as quantised weights; expected floating point")
    return Keys(places=places, dtypes=frozenset(dtypes), problems=tuple(problems), wrapped=wrapped)


def _unknown_wrapper(found: Sequence[str], expected: Sequence[str], prefix: str) -> list[str]:
    """A line where all of a network's keys are there, below a name that it does not have."""
    before = {key.removesuffix(expected[0]) for key in found if key.endswith(f".{expected[0]}")} if expected else set()
    for name in sorted(before):
        if {f"{name}{key}" for key in expected} <= set(found):
            name = name.removeprefix(_UNPREFIXED.format(prefix)).removesuffix(prefix)
            return [f"every key begins with {name!r}: saved from inside another module; take that off the keys"]
    return []


def _unwrapped(stored: Sequence[str], expected: Sequence[str], prefix: str) -> tuple[dict[str, str], str]:
    """Key in the files -> key of the network, and what was taken off."""
    own = {part for key in expected for part in key.split(".")}
    inner = [part for part in _INNER if part not in own]
    plain = [".".join(part for part in key.split(".") if part not in inner) for key in stored]
    taken = [part for part in inner if any(part in key.split(".") for key in stored)]
    plain = _without_outer(plain, [prefix + key for key in expected], taken)
    if prefix and plain and all(key.startswith(prefix) for key in plain):
        plain = [prefix + key for key in _without_outer([key.removeprefix(prefix) for key in plain], expected, taken)]
    # A key that lacks the layout's prefix can be no key of the network and keeps its name.
    names = {
        key: name.removeprefix(prefix) if name.startswith(prefix) else f"{_UNPREFIXED.format(prefix)}{name}"
        for key, name in zip(stored, plain, strict=True)
    }
    what = {**_INNER, **_OUTER}
    every = all(set(taken) & set(key.split(".")) for key in stored)
    said = " and ".join(f"{part + '.'!r} ({what[part]})" for part in dict.fromkeys(taken))
    return names, f"{'every key has' if every else 'keys have'} {said}, saved from inside a wrapper" if taken else ""


def _without_outer(keys: list[str], expected: Sequence[str], taken: list[str]) -> list[str]:
    own = {key.split(".")[0] for key in expected}
    while keys:
        firsts = {key.partition(".")[0] for key in keys}
        first = next(iter(firsts))
        if len(firsts) > 1 or first not in _OUTER or first in own or not all("." in key for key in keys):
            break
        keys = [key.partition(".")[2] for key in keys]
        taken.append(first)
    return keys
