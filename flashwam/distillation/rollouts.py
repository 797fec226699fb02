# SPDX-License-Identifier: Apache-2.0
"""Draws of a teacher from known seeds, made once by any number of processes and kept on disk.

Letters: B samples, C channels, F latent frames that were drawn, H and W the rest of a stream's tokens.
"""

import fcntl
import hashlib
import json
import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import safe_open
from torch import Tensor
from tqdm import tqdm

from flashwam.core.batch import Batch
from flashwam.distillation.futures import Future, stacked_noise
from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.files import write_whole
from flashwam.system.json_file import read_mapping
from flashwam.system.paths import user_path
from flashwam.system.tensor_file import read_header, write_tensors
from flashwam.wam.base import WorldActionModel

__all__ = ["Extras", "Group", "RolloutStore", "TeacherRollout", "stored_bytes"]

logger = logging.getLogger(__name__)

Group = Callable[[], tuple[Batch, Sequence[int]]]
"""Reads some windows, and the seed of each."""

_STORED = torch.float16
"""Half the bytes; normalised latents and actions lose less than one part in a thousand."""


def stored_bytes(model: WorldActionModel, frames: int) -> int:
    """Bytes that a store holds of some drawn latent frames of a model's streams."""
    return _STORED.itemsize * frames * sum(math.prod(shape) for shape in model.shapes.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherRollout:
    """The last frames of one window as they were drawn.

    Args:
        drawn: Stream name -> [C, F, H, W], float32.
        extra: What else was made of them, by name.
    """

    drawn: Mapping[str, Tensor]
    extra: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """Further tensors that are made of drawn streams and stored beside them.

    Args:
        fingerprint: Of what makes them.
        make: The windows, and of what was drawn of them stream name -> [B, C, F, H, W]; gives tensors by name, first
            axis B.
    """

    fingerprint: str
    make: Callable[[Batch, Mapping[str, Tensor]], Mapping[str, Tensor]]


class RolloutStore:
    """Rollouts by what determines them: `<folder>/<settings>/<windows and seeds>.safetensors`, some in each file.

    A file appears whole or not at all, so a killed run goes on where it was; of several processes each makes what no
    other is making. Noise and windows are not stored: they come from the seeds and the data again.

    Args:
        folder: Of all rollouts.
        future: Makes those that are missing.
        frames: How many of a window's last frames are drawn; None for all.
        extras: What else is made of them; rollouts with those of another fingerprint are others.
        batch_size: Windows drawn at once, and put into one file.

    Attributes:
        made: How many rollouts were drawn here, and not found.

    Raises:
        ValueError: what is there was drawn by the same weights otherwise.
    """

    def __init__(
        self,
        folder: Path | str,
        future: Future,
        *,
        frames: int | None = None,
        extras: Extras | None = None,
        batch_size: int = 16,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"at least 1 window is drawn at once; got {batch_size}")
        self._future: Future | None = future
        self._extras, self.frames, self.batch_size = extras, frames, batch_size
        self.made = 0
        self._told = future.settings() | ({} if extras is None else {"extras": extras.fingerprint})
        settings = json.dumps(self._told, sort_keys=True)
        self.settings = hashlib.sha256(settings.encode()).hexdigest()[:16]
        self.folder = user_path(folder) / self.settings
        if not (self.folder / "settings.json").is_file():
            write_whole(self.folder / "settings.json", settings.encode())
        self._check_unnamed(future.unnamed())
        self._places: dict[str, tuple[Path, int]] = {}
        self._open = lru_cache(maxsize=512)(self._opened)

    def _check_unnamed(self, unnamed: Mapping[str, Any]) -> None:
        """Refuses what was drawn otherwise by a future of the same name."""
        path, told = self.folder / "unnamed.json", json.loads(json.dumps(unnamed))
        if not path.is_file():
            # Those of earlier versions were not noted.
            write_whole(path, json.dumps(told, sort_keys=True).encode())
        if differ := _different(read_mapping(path), told):
            raise InputError(
                f"{self.folder} was drawn by these weights with other settings of their wam.json "
                f"({', '.join(differ)}): put the file back as it was, or move that folder away to draw anew"
            )

    def key(self, batch: Batch, row: int, seed: int) -> str:
        """Name of one rollout: a hash of all that the teacher is shown, the frames that it draws, and the seed."""
        made = hashlib.sha256(f"{seed} {self.frames}".encode())
        for part in (*batch.history.values(), *batch.clean.values(), batch.text):
            made.update(part[row].cpu().contiguous().numpy().tobytes())
        made.update(batch.null_text.cpu().contiguous().numpy().tobytes())
        return made.hexdigest()[:32]

    def file(self, keys: Sequence[str]) -> Path:
        """The file that rollouts which were drawn at once lie in."""
        return self.folder / f"{hashlib.sha256(''.join(keys).encode()).hexdigest()[:32]}.safetensors"

    def read(self, key: str, *, only: Collection[str] | None = None) -> TeacherRollout:
        """One rollout.

        Args:
            key: Its name.
            only: Streams that are read, and nothing else; all there is if None.

        Raises:
            FileNotFoundError: it was not made yet.
            ValueError: it was made by another teacher or sampler.
        """
        if key not in self._places:
            raise MissingFileError(f"{self.folder} does not hold {key} yet: complete the rollouts first")
        path, row = self._places[key]
        file, names = self._open(path)
        wanted = names if only is None else [name for name in names if name.removeprefix("drawn/") in only]
        held = {name: file.get_slice(name)[row] for name in wanted}
        drawn = {name.removeprefix("drawn/"): x.float() for name, x in held.items() if name.startswith("drawn/")}
        extra = {name.removeprefix("extra/"): x for name, x in held.items() if name.startswith("extra/")}
        return TeacherRollout(drawn=drawn, extra=extra)

    def _opened(self, path: Path) -> tuple[Any, list[str]]:
        if not path.is_file():
            raise MissingFileError(f"{path} is missing: complete the rollouts first")
        read_header(path)
        file = safe_open(path, framework="pt").__enter__()
        told = file.metadata() or {}
        if told.get("settings") != self.settings:
            raise InputError(f"{path} was drawn under settings {told.get('settings')}, expected {self.settings}")
        return file, list(file.keys())

    def complete(self, groups: Sequence[Group], *, progress: bool = True) -> list[list[str]]:
        """Makes what is missing, or waits for those who are making it.

        Args:
            groups: Each of at most `batch_size` windows; read twice where its rollouts are missing.
            progress: Show a bar with the time left.

        Returns:
            The key of every window, group by group.
        """
        keys = []
        for group in groups:
            batch, seeds = group()
            keys.append([self.key(batch, row, seed) for row, seed in enumerate(seeds)])
        files = [self.file(some) for some in keys]
        for file, some in zip(files, keys, strict=True):
            self._places |= {key: (file, row) for row, key in enumerate(some)}
        missing = [number for number, file in enumerate(files) if not file.is_file()]
        total, left = sum(map(len, keys)), sum(len(keys[number]) for number in missing)
        logger.info("%d rollouts of %d are in %s", total - left, total, self.folder)
        if not missing:
            return keys
        if left == total:
            self._tell_others()
        with (
            tqdm(total=total, initial=total - left, desc="rollouts", unit="window", disable=not progress) as bar,
            (self.folder / ".making").open("ab") as locks,
        ):
            # First what nobody else is making; then whatever one of them left behind.
            for patient in (False, True):
                for number in [number for number in missing if patient or not files[number].is_file()]:
                    with _claimed(locks, files[number], wait=patient) as mine:
                        if mine and not files[number].is_file():
                            self._make(groups[number], keys[number], files[number])
                        if mine:
                            bar.update(len(keys[number]))
                            missing = [other for other in missing if other != number]
        return keys

    def release(self) -> None:
        """Lets go of what draws: what was completed can still be read."""
        self._future = self._extras = None

    @property
    def bytes(self) -> int:
        """Size on disk of all that `complete` was asked for."""
        return sum(path.stat().st_size for path in {path for path, _ in self._places.values()})

    def _tell_others(self) -> None:
        """Says in the log what the latest rollouts beside these were drawn otherwise by."""
        beside = [path for path in self.folder.parent.glob("*/settings.json") if path.parent != self.folder]
        if not beside:
            return
        latest = max(beside, key=lambda path: path.stat().st_mtime)
        differ = _different(read_mapping(latest), json.loads(json.dumps(self._told)))
        logger.info("all are drawn anew: those in %s differ in %s; they stay", latest.parent, ", ".join(differ))

    def _make(self, group: Group, keys: Sequence[str], path: Path) -> None:
        if self._future is None:
            raise RuntimeError("the store was released: it draws nothing any more")
        batch, seeds = group()
        length = batch.frames if self.frames is None else self.frames
        like = {name: x[0][:, -length:] for name, x in batch.clean.items()}
        drawn = self._future.draw(batch, stacked_noise(seeds, like))
        stored = {name: x.to(_STORED) for name, x in drawn.items()}
        beyond = [name for name, x in stored.items() if not bool(torch.isfinite(x).all())]
        if beyond:
            raise InputError(f"the teacher drew {beyond} beyond {torch.finfo(_STORED).max:g}, or not a number")
        held = {f"drawn/{name}": x for name, x in stored.items()}
        if self._extras is not None:
            seen = self._extras.make(batch, {name: x.float() for name, x in stored.items()})
            held |= {f"extra/{name}": x.cpu() for name, x in seen.items()}
        write_tensors(path, held, metadata={"settings": self.settings, "keys": " ".join(keys)})
        self.made += len(keys)


def _different(old: Mapping[str, Any], new: Mapping[str, Any], within: str = "") -> list[str]:
    """Dotted names of the values that differ between two trees."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += _different(a, b, f"{within}{key}.")
        elif a != b:
            found.append(f"{within}{key}")
    return found


@contextmanager
def _claimed(locks: IO[bytes], path: Path, *, wait: bool) -> Iterator[bool]:
    """Tells whether this process alone may make a file: one byte of a shared file stands for it."""
    place = int(path.stem[:7], 16)
    try:
        fcntl.lockf(locks, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, place)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        fcntl.lockf(locks, fcntl.LOCK_UN, 1, place)
