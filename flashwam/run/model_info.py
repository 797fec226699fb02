# SPDX-License-Identifier: Apache-2.0
"""The `flashwam.json` of a model's folder: how the model is sampled, and what it was made from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

from flashwam.core.streams import StreamSpec
from flashwam.recipe.saved import saved_recipe
from flashwam.recipe.sections import Recipe
from flashwam.run.folder import INFO_FILE, RESULTS
from flashwam.run.holdings import instead_of_a_model
from flashwam.run.origin import ORIGIN, Origin
from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.hub import local_folder
from flashwam.system.imports import reading
from flashwam.system.json_file import built_from, read_mapping, shown, whole_number

__all__ = ["ModelInfo", "model_folder", "read_info", "read_streams"]

_MOST_STEPS = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """The sampling of a saved model, and what it was made from.

    Args:
        kind: "student" (sampled with its streams' consistency functions) or "teacher" (a velocity network).
        streams: Per-stream choices it was trained with, in generation order.
        steps: Optimiser steps of its training.
        extra: Everything else: name, teacher, recipe, weights, provenance, results.
        file: Where it was read from.
    """

    kind: str
    streams: Mapping[str, StreamSpec]
    steps: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    file: Path | None = field(default=None, compare=False, repr=False)

    @classmethod
    def read(cls, folder: Path | str) -> Self:
        """Reads the `flashwam.json` of a model's folder, or of "hf:owner/name" of the hub.

        Raises:
            FileNotFoundError, ValueError: it is missing, is not readable, says what no model can be, or names a class
                that is not trusted.
        """
        content, path = read_info(folder), local_folder(folder) / INFO_FILE
        kind, configs = content.pop("kind", None), content.pop("streams", None)
        if kind not in RESULTS or not isinstance(configs, dict):
            raise InputError(
                f"{path} must say kind {RESULTS} and its streams; got kind {shown(kind)}, {shown(configs)}"
            )
        steps = whole_number(content.pop("steps", 0), f"{path}: steps", most=_MOST_STEPS)
        return cls(kind=kind, streams=read_streams(configs, path), steps=steps, extra=content, file=path)

    @property
    def name(self) -> str | None:
        """Name of the run that made it; None where that is not told."""
        told = self.extra.get("name")
        return None if told is None else str(told)

    @property
    def teacher(self) -> str | None:
        """Folder of the model that it was made from, as it was named; None for one that was trained from data."""
        told = self.extra.get("teacher")
        return None if told is None else str(told)

    @property
    def origin(self) -> Origin:
        """The models and data that it descends from, as far as they were noted."""
        return Origin.read(self.extra.get(ORIGIN))

    @property
    def role(self) -> str:
        """ "student" where it was made from another model, even one that is sampled as a velocity network."""
        return "student" if self.teacher is not None else self.kind

    @property
    def recipe(self) -> Recipe | None:
        """The recipe that it was made with; None where that is not told.

        Raises:
            ValueError: What is told is no recipe.
        """
        return saved_recipe(self.extra.get("recipe"), self.streams, source=str(self.file or INFO_FILE))

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that its recipe evaluates, or else was trained on; empty where that is not told."""
        return () if self.recipe is None else self.recipe.tasks

    @property
    def seed(self) -> int | None:
        """Seed of the training that made it; None where that is not told."""
        return None if self.recipe is None else self.recipe.seed

    @property
    def family(self) -> str:
        """Family that its recipe names; empty where that is not told."""
        return "" if self.recipe is None else self.recipe.wam.family

    @property
    def precision(self) -> str:
        """Precision of its rollouts, see `flashwam.core.precision`, as its recipe says."""
        return "own" if self.recipe is None else self.recipe.rollout.precision

    @property
    def episodes(self) -> int | None:
        """Episodes per task that its recipe evaluates; None where that is not told."""
        return None if self.recipe is None else self.recipe.evaluate.episodes


def read_info(folder: Path | str) -> dict[str, Any]:
    """The plain content of `flashwam.json`.

    Raises:
        FileNotFoundError, ValueError: it is missing or not readable.
    """
    folder = local_folder(folder)
    path = folder / INFO_FILE
    if not path.is_file():
        raise MissingFileError(f"{path if folder.is_dir() else folder} is missing: {instead_of_a_model(folder)}")
    return read_mapping(path)


def read_streams(configs: Mapping[str, Any], path: Path) -> dict[str, StreamSpec]:
    """The streams that a file says a model has.

    Args:
        configs: Name -> plain values, as the file holds them.
        path: The file.

    Raises:
        ValueError: The file says something that no stream can be, or names a class that would have to be imported.
    """
    streams = {}
    for name, config in configs.items():
        if not isinstance(config, dict):
            raise InputError(f"{path}: stream {name!r} must be a mapping; got {shown(config)}")
        try:
            with reading(path):
                streams[name] = built_from(path, partial(StreamSpec.from_config, name, config))
        except ValueError as error:
            raise InputError(f"{path.parent} cannot be sampled: {error}") from error
    return streams


def model_folder(folder: Path | str) -> Path:
    """The folder of a model, given itself or its run's folder, or "hf:owner/name" of the hub, which is fetched."""
    folder = local_folder(folder)
    for result in RESULTS:
        if not (folder / INFO_FILE).is_file() and (folder / result / INFO_FILE).is_file():
            return folder / result
    return folder
