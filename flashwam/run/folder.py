# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: where it keeps what, and how it is begun or gone on with."""

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from flashwam.recipe.build import plain
from flashwam.recipe.load import RECIPE_FILE, differences, foreign_classes, load_recipe, to_yaml
from flashwam.recipe.sections import Recipe
from flashwam.system.errors import InputError
from flashwam.system.files import write_whole
from flashwam.system.imports import foreign_paths
from flashwam.system.paths import user_path
from flashwam.system.provenance import provenance

__all__ = [
    "BEST",
    "CARD_FILE",
    "INFO_FILE",
    "RESULTS",
    "SIGMA_BINS",
    "RunFolder",
    "check_run",
    "prepare_run",
    "run_folder",
]

logger = logging.getLogger(__name__)

INFO_FILE = "flashwam.json"
"""Of a model's folder: how the model is sampled and what it was made from."""
CARD_FILE = "README.md"
"""Of a model's folder: its card."""
RESULTS = ("student", "teacher")
"""Kinds of models, and the folders of a run that hold them."""
BEST = "best"
"""The folder of a run that holds the model which was best while it was trained, see `LoopConfig.keep_best`."""
SIGMA_BINS = 10
"""Of equal width on [0, 1], in which a run's metrics are told apart by level: `<stream>/loss_sigma_bin_0` to 9."""
_MOVABLE = ("data.root", "wam.pretrained", "autoencoder.pretrained", "train.init", "distill.init")
_KEPT = "step_"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The places of a run's files; a path of it may not be there yet.

    Args:
        path: The run's folder.
    """

    path: Path

    @classmethod
    def of_model(cls, folder: Path) -> Self:
        """The run that a model's folder belongs to: its result, its best, or a copy that was kept on the way.

        A model that stands alone is a run of its own, so that neighbours in a folder of models do not share what was
        measured of them.
        """
        if folder.parent.name == "steps":
            return cls(folder.parents[1])
        return cls(folder.parent if folder.name in (*RESULTS, BEST) else folder)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name

    @property
    def recipe(self) -> Path:
        """The resolved recipe; a folder with one is a run."""
        return self.path / RECIPE_FILE

    @property
    def provenance(self) -> Path:
        """The versions, machine and command that began it."""
        return self.path / "provenance.json"

    @property
    def inputs(self) -> Path:
        """Fingerprints of what it learns from."""
        return self.path / "inputs.json"

    @property
    def metrics(self) -> Path:
        """Numbers of its logged steps, a line each."""
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        """The same numbers for TensorBoard."""
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        """Folder of what an interrupted training goes on from."""
        return self.path / "checkpoints"

    @property
    def checkpoint_names(self) -> list[str]:
        """Names of its checkpoints, oldest first."""
        return _folders(self.checkpoints)

    @property
    def steps(self) -> Path:
        """Folder of the models that were kept on the way."""
        return self.path / "steps"

    @property
    def kept_names(self) -> list[str]:
        """Names of the models that were kept on the way."""
        return _folders(self.steps)

    @property
    def best(self) -> Path:
        """Folder of the model that was best while it was trained."""
        return self.path / BEST

    @property
    def judged(self) -> Path:
        """Folder of pictures of what the model drew while it was trained."""
        return self.path / "judged"

    @property
    def evaluations(self) -> Path:
        """Folder of what was measured of its models."""
        return self.path / "evaluations"

    @property
    def evaluation_files(self) -> list[Path]:
        """Files of what was measured, by name."""
        return sorted(self.evaluations.glob("*.json"))

    @property
    def real_time(self) -> Path:
        """Folder of what was measured in worlds that did not wait, which no other measurement is mixed with."""
        return self.evaluations / "real_time"

    @property
    def real_time_files(self) -> list[Path]:
        """Files of that, by name."""
        return sorted(self.real_time.glob("*.json"))

    @property
    def recordings(self) -> Path:
        """Folder of what was measured on recorded episodes, with nobody driving."""
        return self.evaluations / "recordings"

    @property
    def recording_files(self) -> list[Path]:
        """Files of that, by name."""
        return sorted(self.recordings.glob("*.json"))

    @property
    def is_run(self) -> bool:
        """Tells whether anything says that a run or a model lies here."""
        return any((self.path / name).exists() for name in (RECIPE_FILE, INFO_FILE, *RESULTS))

    @property
    def results(self) -> list[Path]:
        """Folders of the finished models that are there."""
        return [self.result(kind) for kind in RESULTS if (self.result(kind) / INFO_FILE).is_file()]

    @property
    def with_auxiliary(self) -> Self:
        """The folder of the evaluations of its model with the modality of its training: a run of their own in it."""
        return type(self)(self.path / "with_auxiliary")

    def result(self, kind: str) -> Path:
        """Folder of the finished model, "student" or "teacher"."""
        return self.path / kind

    def checkpoint(self, step: int) -> Path:
        """Folder of the checkpoint after a step."""
        return self.checkpoints / f"{_KEPT}{step:06d}"

    def kept_step(self, step: int) -> Path:
        """Folder of the model that was kept after a step."""
        return self.steps / f"{_KEPT}{step}"


def run_folder(recipe: Recipe, run_dir: str | Path | None = None) -> Path:
    """Finds a recipe's run: `run_dir`, else the recipe's own, else runs/<name>."""
    return user_path(run_dir or recipe.run_dir or Path("runs") / recipe.name)


def prepare_run(recipe: Recipe, run_dir: str | Path | None = None) -> Path:
    """Creates a run's folder with the resolved recipe and its provenance, or accepts one of the same recipe.

    The steps that the run is to be evaluated at may differ but for the first, which a judge may have measured at while
    it was trained: the kept recipe then takes on the new ones.

    Args:
        recipe: The recipe.
        run_dir: See `run_folder`.

    Returns:
        The folder.

    Raises:
        ValueError: The folder holds a run of another recipe, or something that is no run.
    """
    folder = check_run(recipe, run_dir)
    run = RunFolder(folder)
    if run.recipe.is_file():
        kept = load_recipe(run.recipe)
        if kept.evaluate.nfe != recipe.evaluate.nfe:
            logger.info("%s: evaluated at %s from now on", folder, ", ".join(recipe.evaluate.nfe))
            write_whole(run.recipe, to_yaml(replace(kept, evaluate=replace(kept.evaluate, nfe=recipe.evaluate.nfe))))
        return folder
    write_whole(run.provenance, json.dumps(provenance(), indent=2) + "\n")
    # The recipe is written last: a folder with one is complete.
    write_whole(run.recipe, to_yaml(recipe))
    return folder


def check_run(recipe: Recipe, run_dir: str | Path | None = None) -> Path:
    """The folder that `prepare_run` would make or accept; nothing is written.

    Raises:
        ValueError: It would refuse.
    """
    folder = run_folder(recipe, run_dir)
    run = RunFolder(folder)
    kept = run.recipe
    if kept.is_file():
        # What the recipe at hand names too, its user has named.
        foreign = foreign_classes(kept).keys() - foreign_paths(plain(recipe)).keys()
        if foreign:
            raise InputError(
                f"{folder} holds a run of another recipe, and runs are never overwritten; it names "
                f"{', '.join(sorted(foreign))}. Give another --run-dir or name=..., or delete the folder."
            )
        # A run may be moved, so where it lies is no difference; nor is where its inputs lie, once their content is
        # noted there.
        before = load_recipe(kept)
        changed = differences(before, recipe, ignore=("run_dir",))
        if before.evaluate.nfe[0] == recipe.evaluate.nfe[0]:
            changed.pop("evaluate.nfe", None)
        if run.inputs.is_file():
            changed = {k: pair for k, pair in changed.items() if k not in _MOVABLE or None in pair}
        if changed:
            listed = "".join(f"\n  {key}: {old!r} there, {new!r} now" for key, (old, new) in changed.items())
            raise InputError(
                f"{folder} holds a run of another recipe, and runs are never overwritten; it differs in{listed}\n"
                f"Give another --run-dir or name=..., or delete the folder{_nothing_lost(run)}."
            )
        return folder
    if folder.exists() and (not folder.is_dir() or any(p != run.provenance for p in folder.iterdir())):
        raise InputError(f"{folder} exists but is no run folder (no {RECIPE_FILE}); give another --run-dir")
    return folder


def _nothing_lost(run: RunFolder) -> str:
    begun = {each.name for each in run.path.iterdir()} - {run.recipe.name, run.provenance.name, run.inputs.name}
    return "" if begun else ", in which no training has begun: nothing is lost with it"


def _folders(path: Path) -> list[str]:
    return sorted(each.name for each in path.glob(f"{_KEPT}*") if each.is_dir())
