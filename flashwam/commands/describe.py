# SPDX-License-Identifier: Apache-2.0
"""Descriptions of a run, a model or another tool's checkpoint, as plain facts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashwam.core.streams import stream_schedule
from flashwam.recipe.load import load_recipe
from flashwam.run.folder import INFO_FILE, RunFolder
from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.hub import local_folder
from flashwam.system.imports import reading, trusting
from flashwam.system.json_file import built_from, read_mapping, shown
from flashwam.wam.files import all_files, files_of
from flashwam.wam.soundness import nonfinite
from flashwam.wam.weights import some_of, summary

__all__ = ["describe"]


def describe(path: str | Path, *, trust: bool = False) -> dict[str, Any]:
    """Describes what a run, teacher, student or checkpoint folder holds.

    Args:
        path: A folder that flashwam wrote, "hf:owner/name" of the hub, or a checkpoint of another tool in a layout that
            some family knows.
        trust: Import the classes that its files name beside ours, and run their code.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: The folder is none of these, damaged, or names a class that would have to be imported without
            `trust`.
    """
    folder = local_folder(path)
    if not folder.is_dir():
        told = "is a file; give the folder it is in" if folder.exists() else "no such folder"
        raise MissingFileError(f"{folder}: {told}; expected a run, a teacher or a student")
    if (folder / "meta" / "info.json").is_file():
        raise InputError(f"{folder} is a data set, not a model; flashwam check reads one through a recipe")
    if (folder / INFO_FILE).is_file() or (folder / "wam.json").is_file():
        with trusting(trust):
            return _describe_model(folder)
    if RunFolder(folder).recipe.is_file():
        with trusting(trust):
            return _describe_run(folder, trust)
    reasons = []
    for files in all_files():
        try:
            return files.describe(folder)
        except FileNotFoundError as error:
            reasons.append(str(error))
    raise InputError(
        f"{folder} is no run (recipe.yaml), no student or teacher (flashwam.json), no model (wam.json) and no "
        f"checkpoint: {'; '.join(reasons)}. It holds "
        f"{', '.join(sorted(p.name for p in folder.iterdir())[:8]) or 'nothing'}"
    )


def _describe_model(folder: Path) -> dict[str, Any]:
    own, wam = _json(folder / INFO_FILE), _json(folder / "wam.json")
    family = files_of(str(wam.get("family")))
    presets = () if family is None else family.presets
    named = f"one of the presets {', '.join(presets)}" if presets else "one that `flashwam train` makes"
    parts = ("transformer",) if family is None else family.weights
    files = [file for part in parts for file in sorted((folder / part).glob("*.safetensors"))]
    files = files or sorted(folder.rglob("*.safetensors"))
    streams = own.get("streams", {})
    if not isinstance(streams, dict) or not all(isinstance(stream, dict) for stream in streams.values()):
        raise InputError(f"{folder / INFO_FILE}: streams must be a mapping of mappings; got {shown(streams)}")
    with reading(folder / INFO_FILE):
        kind = own.get("kind")
        described = built_from(
            folder / INFO_FILE,
            lambda: {name: _describe_stream(stream, kind) for name, stream in streams.items()},
        )
    network = {k: v for k, v in _json(folder / "transformer" / "config.json").items() if not k.startswith("_")}
    return {
        "folder": str(folder),
        "kind": own.get("kind", f"model (no flashwam.json that says how it is sampled; use {named})"),
        "family": wam.get("family"),
        "layout": "flashwam",
        **summary(files),
        "steps": own.get("steps"),
        "teacher": own.get("teacher"),
        "streams": described,
        "rollout": {k: v for k, v in wam.items() if k != "family"},
        "network": network,
        "git_revision": own.get("git_revision"),
        "versions": own.get("versions"),
        "results": own.get("results"),
        "problems": some_of(nonfinite(files) if family is None else family.problems(folder)),
    }


def _describe_stream(stream: Mapping[str, Any], kind: str | None) -> str:
    """Describes how a stream is sampled: a teacher by its own steps, a student by its consistency function."""
    schedule = stream_schedule(stream).label
    if kind == "teacher":
        scale = stream.get("guidance_scale", 1)
        guided = f", guidance {scale:g}" if scale != 1 else ""
        return f"{schedule}, {stream.get('teacher_steps')} steps{guided}{_warmth(stream, 'teacher_temperature')}"
    function = stream.get("consistency", {})
    function = function if isinstance(function, Mapping) else {"name": function}
    parameters = ", ".join(f"{key} {value}" for key, value in function.items() if key != "name")
    named = f"{function.get('name')}" + (f" ({parameters})" if parameters else "")
    return f"{named}, {schedule}, {stream.get('steps')} step(s){_warmth(stream, 'temperature')}"


def _warmth(stream: Mapping[str, Any], field: str) -> str:
    temperature = stream.get(field, 1)
    return f", temperature {temperature:g}" if temperature != 1 else ""


def _describe_run(folder: Path, trust: bool) -> dict[str, Any]:
    recipe, run = load_recipe(folder, trust=trust), RunFolder(folder)
    measured = [*run.evaluation_files, *run.real_time_files, *run.recording_files]
    checkpoints, results = run.checkpoint_names, [result.name for result in run.results]
    state = f"finished: {', '.join(results)}" if results else f"at {checkpoints[-1]}" if checkpoints else "not begun"
    return {
        "folder": str(folder),
        "kind": "run",
        "recipe": recipe.name,
        "state": state,
        "kept_steps": run.kept_names,
        "evaluations": [path.relative_to(run.evaluations).with_suffix("").as_posix() for path in measured],
        "made_by": _json(run.provenance),
        **{name: _describe_model(run.result(name)) for name in results},
    }


def _json(path: Path) -> dict[str, Any]:
    return read_mapping(path) if path.exists() else {}
