# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a training: whole or absent, each file with its checksum, newest whole one first, restored last."""

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast

from flashwam.distillation.roles import Roles
from flashwam.distillation.state_files import (
    StateReader,
    StateWriter,
    file_digest,
    load_random_state,
    save_random_state,
)
from flashwam.distillation.strategy import Strategy
from flashwam.run.folder import RunFolder
from flashwam.system.errors import InputError
from flashwam.system.files import beside, remove_folder, whole_folder, write_whole

__all__ = ["Checkpoints"]

logger = logging.getLogger(__name__)

MANIFEST = "training.json"
_KEPT = 2
_NAME = re.compile(r"step_([0-9]{6,})")


class Checkpoints:
    """`<run>/checkpoints/step_000200/`: what is trained, its optimisers and the target as tensors by name, whatever the
    strategy and the number of processes, with every process' random state; `training.json` holds the step and every
    file's SHA-256.

    What else a training needs (learning rates, whose turn it is, position in the data, draws) follows from the step.

    Args:
        run: The run's folder.
        strategy: Gives and takes the state.
        roles: Of these, what is trained and the target are kept; the others come from elsewhere.
    """

    def __init__(self, run: RunFolder, strategy: Strategy, roles: Roles) -> None:
        self.run, self.folder = run, run.checkpoints
        self.strategy, self.accelerator = strategy, strategy.accelerator
        self.roles = roles

    def steps(self) -> list[int]:
        """Steps with a checkpoint, ascending; what has another name is none."""
        names = (_NAME.fullmatch(name) for name in self.run.checkpoint_names)
        return sorted(int(name[1]) for name in names if name)

    def path(self, step: int) -> Path:
        """Folder of a step's checkpoint."""
        return self.run.checkpoint(step)

    def save(self, step: int) -> None:
        """Writes everything after `step` optimiser steps, then drops all but the newest two up to there.

        Raises:
            OSError: the disk is full or refuses it; older checkpoints are kept.
        """
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            try:
                with whole_folder(self.path(step)) as folder:
                    self._write(folder)
                    _write_manifest(folder, step)
            except OSError as error:
                raise OSError(
                    f"{self.path(step)} could not be written ({error}); make room there and give the same command "
                    "again: it goes on from the last checkpoint that is whole"
                ) from error
            for old in [kept for kept in self.steps() if kept <= step][:-_KEPT]:
                remove_folder(self.path(old))
        else:
            self._write(beside(self.path(step)))
        self.accelerator.wait_for_everyone()

    def _write(self, folder: Path) -> None:
        """This process' share: the first one writes what every process holds a part of."""
        self.accelerator.wait_for_everyone()
        writer = StateWriter(folder) if self.accelerator.is_main_process else None
        for name, value in self.strategy.state(self.roles.trained, self.roles.target):
            if writer is not None:
                writer.add(name, value)
        if writer is not None:
            writer.close()
        save_random_state(self._random_state(folder))
        self.accelerator.wait_for_everyone()

    def _random_state(self, folder: Path) -> Path:
        return folder / f"random_{self.accelerator.process_index:05d}.safetensors"

    def restore(self) -> int:
        """Loads the newest whole checkpoint and returns its step; 0 where there is none at all.

        Raises:
            ValueError: there are checkpoints, but none is whole.
        """
        step = self._newest_whole() if self.accelerator.is_main_process else 0
        if self.accelerator.num_processes > 1:
            step = int(broadcast(torch.tensor([step], device=self.accelerator.device))[0])
        if not step:
            return 0
        folder = self.path(step)
        listed = json.loads((folder / MANIFEST).read_bytes())["files"]
        self.strategy.restore(StateReader(folder, listed), self.roles.trained, self.roles.target)
        if self._random_state(folder).name in listed:
            load_random_state(self._random_state(folder))
        return step

    def _newest_whole(self) -> int:
        damaged: dict[int, str] = {}
        for step in reversed(self.steps()):
            damage = find_damage(self.path(step), step)
            if damage is None:
                for bad, reason in damaged.items():
                    logger.warning("checkpoint %s is damaged: %s; an older one is used", self.path(bad), reason)
                return step
            damaged[step] = damage
        if damaged:
            listed = "; ".join(f"{self.path(step).name}: {reason}" for step, reason in damaged.items())
            raise InputError(
                f"no checkpoint in {self.folder} is whole ({listed}); put a copy back, or delete {self.folder} to "
                "begin this run again"
            )
        return 0


def find_damage(folder: Path, step: int) -> str | None:
    """Finds the fault of a checkpoint's files, each read whole; None if there is none. Files that it does not list do
    not count."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        files, checksum = manifest["files"], manifest.pop("checksum")
        if checksum != _checksum(manifest) or manifest["step"] != step or not isinstance(files, dict):
            return f"{MANIFEST} is not as it was written"
        for name, expected in files.items():
            if Path(name).name != name:
                return f"{MANIFEST} is not as it was written"
            if file_digest(folder / name) != expected:
                return f"{name} is not as it was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"{Path(error.filename or folder).name} cannot be read ({error.strerror})"
    except KeyError:
        return f"{MANIFEST} lists no checksums, as an earlier version wrote it"
    except (ValueError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} is not as it was written"
    return None


def _write_manifest(folder: Path, step: int) -> None:
    manifest: dict[str, Any] = {
        "step": step,
        "files": {path.name: file_digest(path) for path in sorted(folder.iterdir())},
    }
    manifest["checksum"] = _checksum(manifest)
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def _checksum(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
