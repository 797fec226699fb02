# SPDX-License-Identifier: Apache-2.0
"""One evaluation of a model: a JSON file, written by what evaluates and read by reports, cards and commands."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from flashwam.core.steps import nfe_text
from flashwam.run.asked import Asked, with_parts
from flashwam.run.folder import RESULTS, RunFolder
from flashwam.run.real_time import RealTime
from flashwam.run.recordings import RecordingNumbers
from flashwam.run.task_numbers import TaskNumbers, known_values
from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.files import remove_folder, write_whole
from flashwam.system.json_file import Measured, build, read_json
from flashwam.system.paths import user_path

__all__ = [
    "Asked",
    "Evaluation",
    "TaskNumbers",
    "evaluation_name",
    "finish",
    "measure_once",
    "read_evaluation",
    "read_real_time",
    "read_recordings",
    "read_run",
    "unfinished_folder",
]

logger = logging.getLogger(__name__)

_REQUIRED = ("run", "nfe", "tasks")
_KINDS = (*RESULTS, "baseline")
_MODEL = "model"
_ADVICE = "give another out= folder (--out), or move it away"
_NOT_IN_FILE = ("file", "more")


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
        sampler: "own", "euler" for plain Euler steps, "unit" for its functions at unit amplitude, "t0.5" for noise of
            that temperature; see `flashwam.core.sampler_name`.
        precision: Of the rollout, see `flashwam.core.precision`.
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
        real_time: The clock that it was driven by, its latency known; None where the world waited.
        recordings: What was measured on recorded episodes; None where it was not asked for.
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
    precision: str = "own"
    seed: int | None = None
    training_seed: int | None = None
    family: str = ""
    guidance: Mapping[str, float] = field(default_factory=dict)
    label: str = ""
    asked: Asked | None = None
    stages: tuple[tuple[str, ...], ...] = ()
    open_loop: Mapping[str, Measured] | None = None
    latency: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, int] = field(default_factory=dict)
    strip: str | None = None
    film: str | None = None
    real_time: RealTime | None = None
    recordings: RecordingNumbers | None = None
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
        values = known_values(content, where, known)
        tasks = known_values(values["tasks"], f"{where}: tasks")
        values["tasks"] = {name: TaskNumbers.from_json(told, f"{where}: tasks.{name}") for name, told in tasks.items()}
        if "overall" in values:
            values["overall"] = TaskNumbers.from_json(values["overall"], f"{where}: overall")
        if "asked" in values:
            values["asked"] = Asked.from_json(values["asked"], f"{where}: asked")
        values = with_parts(values, where, recordings=RecordingNumbers)
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
        for above in self.file.parents[1:3]:
            run = RunFolder(above)
            if self.file.parent in (run.evaluations, run.real_time, run.recordings):
                return above
        return self.file.parent

    @property
    def round_trip(self) -> bool:
        """Tells whether its latency is what a served model's client waits, and not the passes alone."""
        simulator = self.more.get("simulator")
        return "server" in self.more or (isinstance(simulator, Mapping) and "chunk_ms" in simulator)

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
            "precision": self.precision,
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
            "real_time": None if self.real_time is None else self.real_time.to_json(),
            "recordings": None if self.recordings is None else self.recordings.to_json(),
        }
        # Of a model behind a server, in a world that waits, of episodes that are driven, or by an older version, these
        # are not told.
        maybe = ("stages", "parameters", "family", "guidance", "real_time", "recordings")
        untold = [name for name in maybe if not told[name]]
        untold += ["precision"] if self.precision == "own" else []
        return {name: value for name, value in told.items() if name not in untold} | dict(self.more)

    def write(self, path: Path) -> None:
        """Writes its file, whole or not at all."""
        write_whole(path, json.dumps(self.to_json(), indent=1) + "\n")


def evaluation_name(step: int | None, setting: str, how: str, seed: int) -> str:
    """Name of an evaluation's file without its ending, such as "step400_1v-2a_own_seed0".

    Args:
        step: Optimiser steps of the weights.
        setting: Steps of a chunk, such as "1v/2a".
        how: What tells it from others of the same weights and setting: "own", "euler", "own_fp8", "served".
        seed: Of episodes and noise.
    """
    return f"step{step}_{setting.replace('/', '-')}_{how}_seed{seed}"


def measure_once(
    path: Path,
    asked: Asked,
    measure: Callable[[], Evaluation],
    *,
    complete: Callable[[Evaluation], Evaluation | None] = lambda found: None,
    run: str | None = None,
) -> Evaluation:
    """Reads an evaluation, or makes and writes it where there is none.

    Args:
        path: Its file.
        asked: The request; its setting "model" is the fingerprint of the weights.
        measure: Makes it.
        complete: Makes of one that was found one with what could not be measured then; None where nothing is lacking,
            or it is lacking still.
        run: The model's name, where it has one that does not come from its folder: an evaluation that does not tell the
            weights, as older ones do not, must bear it.

    Raises:
        ValueError: The file holds an evaluation of something else, which is not overwritten.
    """
    if not path.is_file():
        made = measure()
        finish(made, path)
        return made
    found = read_evaluation(path)
    if found.asked is None:
        raise InputError(f"{path} holds a measurement that does not say what was asked for; {_ADVICE}")
    _refuse_others(path, found.asked.differences(asked))
    _check_model(path, found, asked, run)
    _check_settings(path, found.asked, asked)
    completed = complete(found)
    if completed is None:
        logger.info("%s was measured before", path)
        return found
    logger.info("%s was measured before, and lacked what is measured now", path)
    completed.write(path)
    return completed


def finish(made: Evaluation, path: Path) -> None:
    """Writes an evaluation, and removes what was kept while it was under way."""
    made.write(path)
    if (unfinished := unfinished_folder(path)).is_dir():
        remove_folder(unfinished)


def unfinished_folder(path: Path) -> Path:
    """Folder of what an evaluation has measured so far, beside the result that is to be at `path`; gone once it is."""
    return path.parent / "unfinished" / path.stem


def _check_model(path: Path, found: Evaluation, asked: Asked, run: str | None) -> None:
    """Refuses what was measured of other weights, or, where they are not told, of a model of another name."""
    told = None if found.asked is None else found.asked.settings.get(_MODEL)
    if told is None and run is not None and found.run != run:
        raise InputError(f"{path} holds a measurement of {found.run!r}, not of {run!r}; {_ADVICE}")
    if told is not None and told != asked.settings.get(_MODEL, told):
        raise InputError(f"{path} holds a measurement of {found.run!r} with other weights than this model's; {_ADVICE}")


def _check_settings(path: Path, told: Asked, asked: Asked) -> None:
    """Refuses what was measured under other settings; what is not told is taken for the same, with a warning."""
    _refuse_others(path, told.changed_settings(asked))
    if asked.settings and not told.settings:
        logger.warning(
            "%s was measured by an earlier version, which did not note %s: they are taken to be the same; to be sure, "
            "give another out= folder (--out)",
            path,
            ", ".join(asked.settings),
        )


def _refuse_others(path: Path, differing: Sequence[str]) -> None:
    if differing:
        raise InputError(f"{path} holds a measurement under other settings ({'; '.join(differing)}); {_ADVICE}")


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
    return _read_all(run.evaluation_files)


def read_real_time(folder: Path | str) -> list[Evaluation]:
    """Reads a run's evaluations in worlds that did not wait, by their files' names; none where it has none.

    Raises:
        ValueError: A file is no evaluation.
    """
    return _read_all(RunFolder(user_path(folder)).real_time_files)


def read_recordings(folder: Path | str) -> list[Evaluation]:
    """Reads a run's evaluations on recorded episodes, by their files' names; none where it has none.

    Raises:
        ValueError: A file is no evaluation.
    """
    return _read_all(RunFolder(user_path(folder)).recording_files)


def _read_all(files: Sequence[Path]) -> list[Evaluation]:
    found = []
    for file in files:
        try:
            found.append(read_evaluation(file))
        except ValueError as error:
            raise InputError(f"{error}; delete it and evaluate again") from error
    return found
