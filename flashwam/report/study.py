# SPDX-License-Identifier: Apache-2.0
"""A study: what many runs measured, in one file of evaluations and one of training curves.

`evaluations.jsonl` holds an evaluation a line, as `flashwam evaluate` writes it, after "file": where it lay below the
runs' folder; scenes of a task that are numbered one after the other are told by the "first" and the "last".
`curves.parquet` holds a row for every logged step: "run", "step", and a column for every measure, null
where it was not logged. `recipes.jsonl` holds a line for every run: "run", its folder, and "recipe". `about.json` tells
the "command" that makes it all. A run of a study is named by the folder that it would have there,
`<study>/runs/<name>`, wherever a run's folder is expected.
"""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flashwam.system.errors import InputError
from flashwam.system.files import write_whole
from flashwam.system.json_file import parse_json, read_mapping, shown

__all__ = [
    "CURVES",
    "EVALUATIONS",
    "find_study",
    "study_command",
    "study_curves",
    "study_evaluations",
    "study_recipes",
    "write_study_curves",
    "write_study_evaluations",
]

EVALUATIONS, CURVES = "evaluations.jsonl", "curves.parquet"
RECIPES, _ABOUT = "recipes.jsonl", "about.json"
_FILE, _RUN, _STEP = "file", "run", "step"
_MOST_SCENES = 10**6
_TASKS, _SCENES, _FIRST, _LAST = "tasks", "scenes", "first", "last"


def find_study(path: Path) -> Path | None:
    """Finds the study that a path is, or lies in; None for any other path."""
    return next((folder for folder in (path, *path.parents) if (folder / EVALUATIONS).is_file()), None)


def study_evaluations(study: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Reads a study's evaluations, each with the path that its file would have below the study.

    Raises:
        ValueError: a line is no evaluation of a study; the message names it.
    """
    path = study / EVALUATIONS
    for file, content in _evaluations(path, path.stat().st_mtime_ns):
        yield study / file, content


def study_curves(study: Path) -> dict[Path, list[dict[str, Any]]]:
    """Reads a study's training curves: folder of a run below the study -> its logged steps, as `read_metrics` has them.

    Empty where the study has none.

    Raises:
        ValueError: the file is damaged, or lacks the columns "run" and "step".
    """
    path = study / CURVES
    if not path.is_file():
        return {}
    return {study / run: list(rows) for run, rows in _curves(path, path.stat().st_mtime_ns).items()}


def study_recipes(study: Path) -> dict[Path, Mapping[str, Any]]:
    """Reads a study's recipes: folder of a run below the study -> its resolved recipe; empty where it has none.

    Raises:
        ValueError: a line is no recipe of a run; the message names it.
    """
    path = study / RECIPES
    if not path.is_file():
        return {}
    return {study / run: recipe for run, recipe in _recipes(path, path.stat().st_mtime_ns).items()}


def study_command(study: Path) -> str:
    """Reads the command that makes a study again, from the top of a checkout; "" where it is not told.

    Raises:
        ValueError: The file is no JSON.
    """
    told = read_mapping(study / _ABOUT, finite=False).get("command") if (study / _ABOUT).is_file() else None
    return told if isinstance(told, str) else ""


def write_study_evaluations(study: Path, evaluations: Iterable[tuple[str, Mapping[str, Any]]]) -> Path:
    """Writes a study's evaluations, given as pairs of a file's path below the runs' folder and what it holds.

    Raises:
        ValueError: an evaluation has a key "file" of its own, or two stand for one file.
    """
    lines: dict[str, str] = {}
    for file, content in evaluations:
        if file in lines:
            raise InputError(f"{study / EVALUATIONS}: {file} stands twice among what is to be kept")
        if _FILE in content:
            raise InputError(f"{file} has a key {_FILE!r} of its own; expected an evaluation by `flashwam evaluate`")
        lines[file] = json.dumps({_FILE: file, **_with_scenes(content, _told)}, separators=(",", ":")) + "\n"
    return write_whole(study / EVALUATIONS, "".join(lines[file] for file in sorted(lines, key=PurePosixPath)))


def write_study_curves(study: Path, curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Path:
    """Writes a study's training curves.

    Args:
        study: Its folder.
        curves: Path of a run below the runs' folder -> its logged steps, as `read_metrics` gives them.

    Raises:
        ValueError: a measure is no number, or is named "run".
    """
    rows = [(run, row) for run in sorted(curves, key=PurePosixPath) for row in curves[run]]
    measures = dict.fromkeys(key for _, row in rows for key in row if key != _STEP)
    if _RUN in measures:
        raise InputError(f"{study / CURVES}: a measure cannot be named {_RUN!r}, as the column of runs is")
    for run, row in rows:
        for key, value in row.items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise InputError(f"{run}, step {row[_STEP]}: {key} must be a number; got {shown(value)}")
    columns = {
        _RUN: pa.array([run for run, _ in rows], pa.string()).dictionary_encode(),
        _STEP: pa.array([row[_STEP] for _, row in rows], pa.int64()),
        **{key: pa.array([row.get(key) for _, row in rows], pa.float64()) for key in measures},
    }
    content = io.BytesIO()
    # Bytes of equal weight beside each other: a third smaller than numbers one after the other.
    pq.write_table(
        pa.table(columns),
        content,
        compression="zstd",
        compression_level=19,
        use_dictionary=[_RUN],
        use_byte_stream_split=list(measures),
    )
    return write_whole(study / CURVES, content.getvalue())


@lru_cache(maxsize=8)
def _evaluations(path: Path, _changed: int) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        where = f"{path}, line {number}"
        content = parse_json(line, where, finite=False)
        file = content.pop(_FILE, None) if isinstance(content, dict) else None
        if not isinstance(file, str) or not _is_below(file):
            raise InputError(f'{where}: expected an evaluation with its "file" below the study; got {shown(content)}')
        found.append((file, _with_scenes(content, partial(_numbered, where=where))))
    return tuple(found)


def _with_scenes(content: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """An evaluation whose tasks have the scenes that `change` makes of theirs."""
    tasks = content.get(_TASKS)
    if not isinstance(tasks, Mapping):
        return dict(content)
    changed = {
        name: {**task, _SCENES: change(task[_SCENES])} if isinstance(task, Mapping) and _SCENES in task else task
        for name, task in tasks.items()
    }
    return {**content, _TASKS: changed}


def _told(scenes: Any) -> Any:
    """Scenes by the first and the last of them, where they are numbered one after the other."""
    if not isinstance(scenes, list) or len(scenes) < 3 or any(type(scene) is not int for scene in scenes):
        return scenes
    return {_FIRST: scenes[0], _LAST: scenes[-1]} if scenes == [*range(scenes[0], scenes[-1] + 1)] else scenes


def _numbered(told: Any, where: str) -> Any:
    """The inverse of `_told`."""
    if not isinstance(told, Mapping):
        return told
    first, last = told.get(_FIRST), told.get(_LAST)
    if type(first) is not int or type(last) is not int or not first < last <= first + _MOST_SCENES:
        raise InputError(f'{where}: expected scenes from a "first" to a "last" number; got {shown(told)}')
    return [*range(first, last + 1)]


@lru_cache(maxsize=8)
def _recipes(path: Path, _changed: int) -> dict[str, Mapping[str, Any]]:
    found = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        where = f"{path}, line {number}"
        content = parse_json(line, where)
        if not isinstance(content, dict) or not {_RUN, "recipe"} <= content.keys():
            raise InputError(f'{where}: expected a "run" and its "recipe"; got {shown(content)}')
        found[content[_RUN]] = content["recipe"]
    return found


def _is_below(file: str) -> bool:
    path = PurePosixPath(file)
    return path.suffix == ".json" and not path.is_absolute() and ".." not in path.parts


@lru_cache(maxsize=8)
def _curves(path: Path, _changed: int) -> dict[str, list[dict[str, Any]]]:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is no table of training curves: {' '.join(str(error).split())}") from error
    if missing := [name for name in (_RUN, _STEP) if name not in table.column_names]:
        raise InputError(f"{path} is no table of training curves: it lacks the columns {missing}")
    runs: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        runs.setdefault(row.pop(_RUN), []).append({key: value for key, value in row.items() if value is not None})
    return runs
