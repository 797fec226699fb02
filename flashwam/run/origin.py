# SPDX-License-Identifier: Apache-2.0
"""The models and data that a model descends from, by names that mean something on other machines."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from flashwam.run.folder import INFO_FILE, RunFolder
from flashwam.system.hub import is_on_hub, is_repo_name
from flashwam.system.json_file import read_mapping
from flashwam.system.released import License, Released, hub_repo, released_at

__all__ = ["ORIGIN", "Origin", "trace"]

ORIGIN = "origin"
"""The key of `flashwam.json` under which it is noted."""
_GENERATIONS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The origin of a model.

    Args:
        teacher: Name of the model that it was made from; None where it was made from none, or that is not known.
        base_model: "owner/name" on the hub of the nearest model before it that lies there.
        license: Of the nearest model before it that has one.
        datasets: "owner/name" of the hub's data sets that it was trained on.
    """

    teacher: str | None = None
    base_model: str | None = None
    license: License | None = None
    datasets: tuple[str, ...] = ()

    @classmethod
    def read(cls, told: Any) -> Self:
        """An origin from plain values; what makes no sense among them is not known."""
        values = told if isinstance(told, Mapping) else {}
        teacher, datasets = values.get("teacher"), values.get("datasets")
        return cls(
            teacher=teacher if isinstance(teacher, str) else None,
            base_model=_repo(values.get("base_model")),
            license=License.read(values.get("license")),
            datasets=tuple(one for one in datasets if _repo(one)) if isinstance(datasets, list) else (),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not known is left out."""
        told = {
            "teacher": self.teacher,
            "base_model": self.base_model,
            "license": None if self.license is None else self.license.to_json(),
            "datasets": list(self.datasets),
        }
        return {key: value for key, value in told.items() if value}


def trace(
    told: Mapping[str, Any],
    *,
    known: Mapping[str, Released],
    data: Mapping[str, str],
    generations: int = _GENERATIONS,
) -> Origin:
    """Follows the folders that a model was made from, as far as they are here; never fails.

    Args:
        told: What its `flashwam.json` says, or is to say.
        known: See `flashwam.system.released.released_at`.
        data: Name of a folder of recordings -> the hub's data set that it is of.
        generations: Models that are followed at most.
    """
    recipe = _mapping(told.get("recipe"))
    datasets = _datasets(_mapping(recipe.get("data")), data)
    named = _parent(told, recipe)
    if named is None or not generations:
        return Origin(datasets=datasets)
    if is_on_hub(named):
        repo = _repo(named.removeprefix("hf:").partition("@")[0])
        return Origin(teacher=repo, base_model=repo, datasets=datasets)
    folder = Path(named)
    found, own = released_at(folder, known), _info(folder)
    above = Origin.read(own.get(ORIGIN))
    if ORIGIN not in own:
        above = trace(own, known=known, data=data, generations=generations - 1)
    name = own.get("name")
    return Origin(
        teacher=found.repo or (name if isinstance(name, str) else RunFolder.of_model(folder).name),
        base_model=found.repo or above.base_model,
        license=found.license or above.license,
        datasets=datasets,
    )


def _parent(told: Mapping[str, Any], recipe: Mapping[str, Any]) -> str | None:
    """The folder of the model that one was made from: its teacher, or what its own training began with."""
    train, wam = _mapping(recipe.get("train")), _mapping(recipe.get("wam"))
    init = None if train.get("lora") else train.get("init")
    within = _mapping(wam.get("config")).get("pretrained")
    places = (told.get("teacher"), init, wam.get("pretrained"), within)
    return next((place for place in places if isinstance(place, str) and place and "\0" not in place), None)


def _datasets(section: Mapping[str, Any], data: Mapping[str, str]) -> tuple[str, ...]:
    """The hub's data sets among those of a recipe's `data` section."""
    tasks, root = section.get("tasks"), section.get("root")
    if section.get("source") != "lerobot" or not isinstance(tasks, (list, tuple)):
        return ()
    cached = hub_repo(Path(root)) if isinstance(root, str) else None
    found = [cached] if cached else [data[name] for name in tasks if isinstance(name, str) and name in data]
    return tuple(dict.fromkeys(found))


def _info(folder: Path) -> Mapping[str, Any]:
    """The content of a model's `flashwam.json`; nothing where it cannot be read, which is no reason to lose another."""
    try:
        return read_mapping(folder / INFO_FILE) if (folder / INFO_FILE).is_file() else {}
    except (OSError, ValueError):
        return {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _repo(value: Any) -> str | None:
    return value if isinstance(value, str) and is_repo_name(value) else None
