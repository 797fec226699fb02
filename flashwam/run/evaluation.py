# SPDX-License-Identifier: Apache-2.0
"""One evaluation of a model: a JSON file, written by what evaluates and read by reports, cards and commands."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from flashwam.core.stats import wilson
from flashwam.core.steps import nfe_text
from flashwam.run.folder import RESULTS, RunFolder
from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.files import write_whole
from flashwam.system.json_file import Measured, build, read_json, shown
from flashwam.system.paths import user_path

__all__ = ["Asked", "Evaluation", "TaskNumbers", "evaluation_name", "measure_once", "read_evaluation", "read_run"]

logger = logging.getLogger(__name__)

_REQUIRED = ("run", "nfe", "tasks")
_KINDS = (*RESULTS, "baseline")
_NOT_IN_FILE = ("file", "more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The request that an evaluation answers; two of one request are one.

    Args:
        tasks: Names.
        episodes: Per task.
        closed_loop: Whether the tasks are driven.
        cache: Entries of the cache of a policy that keeps one by choice.
    """

    tasks: tuple[str, ...]
    episodes: int
    closed_loop: bool = True
    cache: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        told = {"tasks": list(self.tasks), "episodes": self.episodes, "closed_loop": self.closed_loop}
        return told if self.cache is None else {**told, "cache": self.cache}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskNumbers:
    """Episodes of one task, or of several together.

    Args:
        episodes: How many.
        success: Successful ones.
        commitment: Share of episodes that clearly took one way; None where there is but one, or it is not told.
        multimodal: Whether several ways lead to success.
        ways: "-1" for none, "0" or "1" -> episodes whose hand took it.
        steps: Control steps of an episode, mean; None where it is not told.
        outcomes: Per episode 1 for success and 0 for failure; None for several tasks, or where it is not told.
        scenes: Per episode, the number of its scene; None like `outcomes`.
        taken: Per episode, the way its hand took, -1 for none; None like `outcomes`, or where there is but one way.
        motion: Per episode, how alike the imagined and the real motion were, in [-1, 1]; None where it had none.
        first_motion: The same of an episode's first chunk.

    Raises:
        ValueError: More successes than episodes.
    """

    episodes: int
    success: int
    commitment: Measured | None = None
    multimodal: bool = False
    ways: Mapping[str, int] = field(default_factory=dict)
    steps: Measured | None = None
    outcomes: tuple[int, ...] | None = None
    scenes: tuple[int, ...] | None = None
    taken: tuple[int, ...] | None = None
    motion: tuple[Measured | None, ...] | None = None
    first_motion: tuple[Measured | None, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.success <= self.episodes:
            raise InputError(f"success must be from 0 to the number of episodes, {self.episodes}; got {self.success}")

    @classmethod
    def from_json(cls, content: Any, where: str) -> Self:
        """Numbers from plain values; `where` names them in messages.

        Raises:
            ValueError: They are no numbers of episodes.
        """
        return build(where, cls, _told(content, where, {each.name for each in fields(cls)}))

    @property
    def rate(self) -> float:
        """Share of successes, 0 where nothing was tried."""
        return self.success / self.episodes if self.episodes else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share."""
        return wilson(self.success, self.episodes)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        told = {
            "episodes": self.episodes,
            "success": self.success,
            "wilson": list(self.interval),
            "commitment": self.commitment,
            "multimodal": self.multimodal,
            "ways": dict(self.ways),
            "steps": self.steps,
        }
        names = ("outcomes", "scenes", "taken", "motion", "first_motion")
        of_episodes = {name: getattr(self, name) for name in names}
        return told | {name: list(values) for name, values in of_episodes.items() if values is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The measurements of one model at one setting and seed.

    Args:
        run: Name of the model's run.
        nfe: Stream name -> steps of a chunk.
        tasks: Task -> its episodes; none where only the open loop was measured.
        overall: All episodes together; None where there are none.
        kind: "student", "teacher", or "baseline" for what no model made.
        step: Optimiser steps of the weights; None where it is not told.
        setting: Steps as they were asked for, such as "1v/2a" or "full".
        sampler: "own", "euler" for plain Euler steps, or "unit" for its functions at unit amplitude.
        seed: Of episodes and noise; None where it is not told.
        training_seed: Of the training that made the weights; None where it is not told.
        family: Of the model; empty where it is not told.
        guidance: Stream name -> scale at which its velocity is guided while it is drawn, where that is not 1.
        label: Name in a table.
        asked: The request; None where it is not told.
        stages: Streams that one pass of the network draws together; empty where it is not told.
        open_loop: Measure -> value, such as "action_error_teacher"; None where it was not measured.
        latency: Part of a chunk -> milliseconds at batch 1, such as "video_ms"; "chunk_ms" is the whole chunk's.
        parameters: Part -> parameters that stay in the deployed model; empty where it is not told.
        strip: Name of a picture of decoded video beside the file.
        film: Name of a picture of real frames above imagined ones beside the file.
        provenance: Versions, machine and command that made it.
        more: What else the file says.
        file: Where it was read from.
    """

    run: str
    nfe: Mapping[str, int]
    tasks: Mapping[str, TaskNumbers]
    overall: TaskNumbers | None = None
    kind: str = ""
    step: int | None = None
    setting: str = ""
    sampler: str = "own"
    seed: int | None = None
    training_seed: int | None = None
    family: str = ""
    guidance: Mapping[str, float] = field(default_factory=dict)
    label: str = ""
    asked: Asked | None = None
    stages: tuple[tuple[str, ...], ...] = ()
    open_loop: Mapping[str, Measured] | None = None
    latency: Mapping[str, Measured] = field(default_factory=dict)
    parameters: Mapping[str, int] = field(default_factory=dict)
    strip: str | None = None
    film: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    file: Path | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        # An older file says less.
        setting = self.setting or nfe_text(self.nfe)
        untold = {
            "kind": "teacher" if self.run.startswith("teacher") else "student",
            "setting": setting,
            "label": f"{self.run} {setting}",
        }
        for name, value in untold.items():
            object.__setattr__(self, name, getattr(self, name) or value)
        if self.kind not in _KINDS:
            raise InputError(f"kind must be one of {', '.join(_KINDS)}; got {self.kind!r}")

    @classmethod
    def from_json(cls, content: Any, where: str | Path, *, file: Path | None = None) -> Self:
        """An evaluation from plain values, as any version of flashwam wrote them.

        Args:
            content: What the file holds.
            where: What it is, for messages: a file, or a line of one.
            file: See `Evaluation.file`.

        Raises:
            ValueError: It is no evaluation, or a value has another type.
        """
        missing = [key for key in _REQUIRED if not isinstance(content, Mapping) or content.get(key) is None]
        if missing:
            raise InputError(f"{where} is not an evaluation: it lacks {missing}")
        known = {each.name for each in fields(cls)} - {*_NOT_IN_FILE}
        values = _told(content, where, known)
        tasks = _told(values["tasks"], f"{where}: tasks")
        values["tasks"] = {name: TaskNumbers.from_json(told, f"{where}: tasks.{name}") for name, told in tasks.items()}
        if "overall" in values:
            values["overall"] = TaskNumbers.from_json(values["overall"], f"{where}: overall")
        if "asked" in values:
            values["asked"] = build(f"{where}: asked", Asked, _told(values["asked"], f"{where}: asked"))
        more = {key: value for key, value in content.items() if key not in known}
        return build(where, cls, {**values, "more": more, "file": file})

    @property
    def folder(self) -> Path:
        """The run's folder, from where the file lies.

        Raises:
            ValueError: It was not read from a file.
        """
        if self.file is None:
            raise ValueError(f"{self.label} was not read from a file, so nothing says in which run's folder it belongs")
        return (
            self.file.parents[1]
            if self.file.parent == RunFolder(self.file.parents[1]).evaluations
            else self.file.parent
        )

    @property
    def chunk_ms(self) -> float | None:
        """Milliseconds of a whole chunk; None where it was not timed."""
        return self.latency.get("chunk_ms")

    def to_json(self) -> dict[str, Any]:
        """Plain values, as the file holds them."""
        told = {
            "label": self.label,
            "run": self.run,
            "setting": self.setting,
            "sampler": self.sampler,
            "tasks": {name: numbers.to_json() for name, numbers in self.tasks.items()},
            "overall": None if self.overall is None else self.overall.to_json(),
            "open_loop": None if self.open_loop is None else dict(self.open_loop),
            "strip": self.strip,
            "film": self.film,
            "provenance": dict(self.provenance),
            "kind": self.kind,
            "step": self.step,
            "nfe": dict(self.nfe),
            "stages": [list(stage) for stage in self.stages],
            "asked": None if self.asked is None else self.asked.to_json(),
            "latency": dict(self.latency),
            "parameters": dict(self.parameters),
            "seed": self.seed,
            "training_seed": self.training_seed,
            "family": self.family,
            "guidance": dict(self.guidance),
        }
        # Of a model behind a server, or by an older version, these are not told.
        untold = [name for name in ("stages", "parameters", "family", "guidance") if not told[name]]
        return {name: value for name, value in told.items() if name not in untold} | dict(self.more)

    def write(self, path: Path) -> None:
        """Writes its file, whole or not at all."""
        write_whole(path, json.dumps(self.to_json(), indent=1) + "\n")


def evaluation_name(step: int | None, setting: str, how: str, seed: int) -> str:
    """Name of an evaluation's file without its ending, such as "step400_1v-2a_own_seed0".

    Args:
        step: Optimiser steps of the weights.
        setting: Steps of a chunk, such as "1v/2a".
        how: What tells it from others of the same weights and setting: "own", "euler", "served".
        seed: Of episodes and noise.
    """
    return f"step{step}_{setting.replace('/', '-')}_{how}_seed{seed}"


def measure_once(path: Path, asked: Asked, measure: Callable[[], Evaluation]) -> Evaluation:
    """Reads an evaluation, or makes and writes it where there is none.

    Args:
        path: Its file.
        asked: The request.
        measure: Makes it.

    Raises:
        ValueError: The file holds an evaluation of something else, which is not overwritten.
    """
    if not path.is_file():
        made = measure()
        made.write(path)
        return made
    found = read_evaluation(path)
    if found.asked != asked:
        told = None if found.asked is None else found.asked.to_json()
        raise InputError(f"{path} holds a measurement of {told}, not of {asked.to_json()}; give another out= folder")
    logger.info("%s was measured before", path)
    return found


def read_evaluation(path: Path) -> Evaluation:
    """Reads an evaluation's file.

    Raises:
        FileNotFoundError, ValueError: It is missing, or no evaluation; the message names it.
    """
    return Evaluation.from_json(read_json(path, finite=False), path, file=path)


def read_run(folder: Path | str) -> list[Evaluation]:
    """Reads a run's evaluations, by their files' names.

    Raises:
        FileNotFoundError: The folder or its evaluations are missing.
        ValueError: A file is no evaluation.
    """
    run = RunFolder(user_path(folder))
    if not run.path.is_dir():
        raise MissingFileError(f"no run folder {run.path}; expected one made by `flashwam train` or `flashwam distill`")
    if not run.evaluation_files:
        if not run.is_run:
            raise MissingFileError(
                f"{run.path} is no run folder: it has neither a {run.recipe.name} nor evaluations; expected one made "
                "by `flashwam train` or `flashwam distill`"
            )
        raise MissingFileError(f"{run.path} has no evaluations; make one first: flashwam evaluate {run.path}")
    found = []
    for file in run.evaluation_files:
        try:
            found.append(read_evaluation(file))
        except ValueError as error:
            raise InputError(f"{error}; delete it and evaluate again") from error
    return found


def _told(content: Any, where: str | Path, known: set[str] | None = None) -> dict[str, Any]:
    """Keeps the known keys of a mapping whose values are not null."""
    if not isinstance(content, Mapping):
        raise InputError(f"{where} must be a mapping; got {shown(content)}")
    return {key: value for key, value in content.items() if value is not None and (known is None or key in known)}
