# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a training: whole or absent, newest first, restored last."""

import json
from pathlib import Path

from flashwam.distillation.files import clear_leftovers, remove_folder, whole_folder
from flashwam.distillation.roles import Roles
from flashwam.distillation.strategy import Strategy

__all__ = ["Checkpoints"]

_KEPT = 2


class Checkpoints:
    """`<run>/checkpoints/step_000200/`: student, target, optimiser, learning-rate schedule and random state as the
    strategy writes them, `training.json` beside.

    Args:
        run_dir: The run's folder.
        strategy: Writes and reads the state.
        roles: Of these, student and target are kept; the others come from elsewhere.
    """

    def __init__(self, run_dir: Path, strategy: Strategy, roles: Roles) -> None:
        self.folder = run_dir / "checkpoints"
        self.strategy, self.accelerator = strategy, strategy.accelerator
        self.roles = roles
        if self.accelerator.is_main_process:
            clear_leftovers(self.folder)

    def steps(self) -> list[int]:
        """Steps with a checkpoint, ascending."""
        return sorted(int(path.name.removeprefix("step_")) for path in self.folder.glob("step_*"))

    def path(self, step: int) -> Path:
        """Folder of a step's checkpoint."""
        return self.folder / f"step_{step:06d}"

    def save(self, step: int) -> None:
        """Writes everything after `step` optimiser steps, then drops all but the newest two."""
        self.accelerator.wait_for_everyone()
        if self.accelerator.num_processes == 1:
            with whole_folder(self.path(step)) as folder:
                self._write(folder, step)
        else:
            self._save_together(step)
        if self.accelerator.is_main_process:
            for old in self.steps()[:-_KEPT]:
                remove_folder(self.path(old))
        self.accelerator.wait_for_everyone()

    def _save_together(self, step: int) -> None:
        """As `save` where every process writes its share: the first one opens the folder and renames it."""
        beside = self.path(step).with_name(".beside-" + self.path(step).name)
        if self.accelerator.is_main_process:
            with whole_folder(self.path(step)) as folder:
                assert folder == beside
                self.accelerator.wait_for_everyone()
                self._write(folder, step)
                self.accelerator.wait_for_everyone()
        else:
            self.accelerator.wait_for_everyone()
            self._write(beside, step)
            self.accelerator.wait_for_everyone()

    def _write(self, folder: Path, step: int) -> None:
        self.strategy.save(folder, self.roles.model, self.roles.target)
        if self.accelerator.is_main_process:
            (folder / "training.json").write_text(json.dumps({"step": step}) + "\n")

    def restore(self) -> int:
        """Loads the newest checkpoint and returns its step; 0 where there is none."""
        steps = self.steps()
        if not steps:
            return 0
        folder = self.path(steps[-1])
        self.strategy.restore(folder, self.roles.model, self.roles.target)
        return int(json.loads((folder / "training.json").read_text())["step"])
