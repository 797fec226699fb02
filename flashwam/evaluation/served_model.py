# SPDX-License-Identifier: Apache-2.0
"""The record of a measurement through a policy server: what it tells of its model, and where results go."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from flashwam.core.steps import nfe_text
from flashwam.run.folder import RunFolder
from flashwam.system.errors import InputError
from flashwam.system.json_file import shown
from flashwam.system.paths import names_a_folder

__all__ = ["Greeting", "described_by_server", "refuse_earlier", "served_how"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """The words of a server about its model that a measurement is named by; others than ours do not say all of them.

    Args:
        told: All of it.
        name: Of the model.
        step: Optimiser steps of its weights.
        nfe: Steps of a chunk, such as "1v/2a"; "unknown" where it does not tell.
        tasks: Those that it names.
        episodes: Of each task.
    """

    told: Mapping[str, Any]
    name: str
    step: int | None
    nfe: str
    tasks: tuple[str, ...]
    episodes: int | None

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Self:
        """Reads what a server greeted with.

        Raises:
            ValueError: Something that it tells cannot be.
        """
        for name, (fits, expected) in _GREETED.items():
            if told.get(name) is not None and not fits(told[name]):
                raise InputError(f"the server tells {name} {shown(told[name])} of its model; expected {expected}")
        return cls(
            told=told,
            name=told.get("name") or "server",
            step=told.get("step"),
            nfe=nfe_text(told.get("nfe") or {}) or "unknown",
            tasks=tuple(told.get("tasks") or ()),
            episodes=told.get("episodes"),
        )

    @property
    def run(self) -> RunFolder:
        """The folder of what is measured of the model."""
        return RunFolder(Path("runs") / "served" / self.name)


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


_GREETED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "name": (names_a_folder, "letters, digits, '_', '-' and '.', since it names the folder of what is measured"),
    "step": (lambda value: _whole(value, 0), "a whole number"),
    "nfe": (
        lambda value: isinstance(value, Mapping) and all(names_a_folder(k) and _whole(v, 1) for k, v in value.items()),
        "stream -> steps",
    ),
    "tasks": (
        lambda value: isinstance(value, list | tuple) and all(isinstance(task, str) for task in value),
        "a list of names",
    ),
    "episodes": (lambda value: _whole(value, 1), "a whole number, at least 1"),
    "controls": (lambda value: _whole(value, 1), "a whole number, at least 1"),
    "senses": (lambda value: isinstance(value, Mapping), "sense -> its numbers"),
    "sampler": (names_a_folder, "the name of one, such as own"),
    "precision": (names_a_folder, "the name of one, such as own"),
}


def described_by_server(told: Mapping[str, Any]) -> dict[str, Any]:
    """Describes a served model for an evaluation's record, as `flashwam.evaluation.policy.described` does a loaded one.

    Args:
        told: What its server greets with; an earlier version, or another's, does not tell all of it.
    """
    return {
        "kind": told.get("kind") or "student",
        "step": told.get("step"),
        "nfe": dict(told.get("nfe") or {}),
        "training_seed": told.get("training_seed"),
        "sampler": told.get("sampler", "own"),
        "precision": told.get("precision", "own"),
        "family": told.get("family", ""),
        "guidance": _guidance(told.get("streams")),
    }


def _guidance(streams: Any) -> dict[str, float]:
    """Stream -> scale of its guidance, of those that have one."""
    scales = {
        name: spec.get("guidance_scale")
        for name, spec in (streams.items() if isinstance(streams, Mapping) else ())
        if isinstance(spec, Mapping)
    }
    return {name: float(scale) for name, scale in scales.items() if isinstance(scale, int | float) and scale != 1}


def served_how(told: Mapping[str, Any], word: str = "served") -> str:
    """The part of an evaluation's name that says how a served model is driven: "served", "served_t0.5"."""
    sampler = told.get("sampler", "own")
    return word if sampler == "own" else f"{word}_{sampler}"


def refuse_earlier(path: Path) -> None:
    """Refuses to measure where a measurement lies.

    Raises:
        FileExistsError: There is one.
    """
    if path.exists():
        raise FileExistsError(
            f"{path} holds an earlier measurement, and a served model is measured anew: give another out= folder "
            "(--out), or move the file away"
        )
