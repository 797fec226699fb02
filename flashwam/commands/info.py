# SPDX-License-Identifier: Apache-2.0
"""What is installed here, and what a folder holds."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.imports import reading, trusting
from flashwam.system.json_file import built_from, read_mapping, shown
from flashwam.system.paths import user_path
from flashwam.system.provenance import git_revision, package_version, requirements

__all__ = ["analysis_lines", "describe", "evaluation_lines", "info_lines", "installation"]

PROBLEMS = "problems"
"""Key of what is wrong with a model's weights, a line each."""


def installation() -> dict[str, Any]:
    """Versions, device, rendering backend, and which extras lack what."""
    needed = requirements("flashwam")
    always = needed.pop(None, ())
    missing = {extra: [name for name in names if package_version(name) is None] for extra, names in needed.items()}
    missing = {extra: names for extra, names in missing.items() if names}
    facts: dict[str, Any] = {
        "flashwam": package_version("flashwam"),
        "git_revision": git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: package_version(name) for name in always},
        "device": _device(),
        "rendering": _rendering(),
        "missing": missing,
    }
    if missing:
        facts["install"] = f"pip install 'flashwam[{','.join(missing)}]'"
    return facts


def describe(path: str | Path, *, trust: bool = False) -> dict[str, Any]:
    """What a run, teacher, student or checkpoint folder holds.

    Args:
        path: A folder that flashwam wrote, or a checkpoint of another tool in a layout that some family knows.
        trust: Import the classes that its files name beside ours, and run their code.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: The folder is none of these, damaged, or names a class that would have to be imported without
            `trust`.
    """
    folder = user_path(path)
    if not folder.is_dir():
        told = "is a file; give the folder it is in" if folder.exists() else "no such folder"
        raise MissingFileError(f"{folder}: {told}; expected a run, a teacher or a student")
    if (folder / "meta" / "info.json").is_file():
        raise InputError(f"{folder} is a data set, not a model; flashwam check reads one through a recipe")
    if (folder / "flashwam.json").is_file() or (folder / "wam.json").is_file():
        with trusting(trust):
            return _describe_model(folder)
    if (folder / "recipe.yaml").is_file():
        with trusting(trust):
            return _describe_run(folder, trust)
    from flashwam.wam.files import all_files

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


def has_problems(facts: Any) -> bool:
    """Whether anything described cannot be loaded, or holds what is no number."""
    return isinstance(facts, Mapping) and (bool(facts.get(PROBLEMS)) or any(map(has_problems, facts.values())))


def info_lines(facts: Mapping[str, Any], indent: str = "") -> list[str]:
    """Nested facts as aligned text."""
    shown = {key: value for key, value in facts.items() if value not in (None, {}, [])}
    width = max((len(str(key)) for key in shown), default=0)
    lines = []
    for key, value in shown.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{key}", *info_lines(value, indent + "  ")]
        elif key == PROBLEMS:
            lines += [f"{indent}{key}", *(f"{indent}  {line}" for line in value)]
        else:
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            text = f"{value:,}" if type(value) is int else text
            lines.append(f"{indent}{key:<{width}}  {text}")
    return lines


def analysis_lines(analysis: Mapping[str, Any]) -> list[str]:
    """A schedule analysis in a few lines: the table and the verdicts."""
    wide = max(len("schedule"), *(len(numbers["label"]) for numbers in analysis["streams"].values()))
    lines = [
        f"{'stream':<8} {'schedule':<{wide}} {'median':>7} {'<0.1':>6}  {'function':<8} {'E|b|':>7} {'E b^2':>7} "
        f"{'order':>6}"
    ]
    for name, numbers in analysis["streams"].items():
        head = f"{name:<8} {numbers['label']:<{wide}} {numbers['median']:>7.3f} {numbers['mass_below_low_noise']:>6.1%}"
        for label, function in numbers["functions"].items():
            own = "*" if label == numbers["own"] else " "
            lines.append(
                f"{head:<{wide + 24}} {own}{label:<8}{function['mean_gradient_scale']:>7.4f} "
                f"{function['mean_squared_gradient_scale']:>7.4f} {function['order_at_zero']:>6.2f}"
            )
            head = ""
    lines.append("(* = the recipe's own)")
    lines += [f"{name}: {numbers['verdict']['reason']}" for name, numbers in analysis["streams"].items()]
    if analysis.get("together"):
        lines.append(f"different functions for the streams? {analysis['together']['reason']}")
    for entry in analysis.get("warnings", []):
        lines.append(f"warning: {entry if isinstance(entry, str) else ' '.join(map(str, entry))}")
    return lines


def evaluation_lines(results: Any) -> list[str]:
    """Evaluations as a table: one line per label, success with its interval, errors and latency."""
    evaluations = [results] if isinstance(results, Mapping) and "overall" in results else results
    if isinstance(evaluations, Mapping):
        evaluations = list(evaluations.values())
    lines = [f"{'evaluation':<28} {'success':>8}  {'95 % interval':<14} {'committed':>9} {'actT':>7} {'ms/chunk':>9}"]
    for one in evaluations:
        overall = one["overall"]
        low, high = overall["wilson"]
        rate = overall["success"] / max(1, overall["episodes"])
        lines.append(
            f"{one['label']:<28} {rate:>8.3f}  [{low:.3f}, {high:.3f}] {_number(overall.get('commitment'), 9, 2)} "
            f"{_number((one.get('open_loop') or {}).get('action_error_teacher'), 7, 4)} "
            f"{_number((one.get('latency') or {}).get('chunk_ms'), 9, 1)}"
        )
        for task, numbers in one.get("tasks", {}).items():
            low, high = numbers["wilson"]
            rate = numbers["success"] / max(1, numbers["episodes"])
            lines.append(
                f"  {task:<26} {rate:>8.3f}  [{low:.3f}, {high:.3f}] {_number(numbers.get('commitment'), 9, 2)}"
            )
    return lines


def _number(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:>{width}.{digits}f}"


def _device() -> dict[str, Any]:
    import torch

    facts: dict[str, Any] = {"cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        memory = f"{properties.total_memory / 2**30:.0f} GiB"
        return {"type": "cuda", "count": torch.cuda.device_count(), "name": properties.name, "memory": memory, **facts}
    return {"type": "cpu", **facts}


def _rendering() -> dict[str, Any]:
    from flashwam.sim.gl import BACKENDS, ensure_gl

    try:
        return {"backend": ensure_gl()}
    except (RuntimeError, ImportError) as error:
        return {"backend": None, "reason": str(error), "packages": dict(BACKENDS)}


def _describe_model(folder: Path) -> dict[str, Any]:
    from flashwam.wam.files import files_of
    from flashwam.wam.soundness import nonfinite
    from flashwam.wam.weights import some_of, summary

    own, wam = _json(folder / "flashwam.json"), _json(folder / "wam.json")
    family = files_of(str(wam.get("family")))
    presets = () if family is None else family.presets
    named = f"one of the presets {', '.join(presets)}" if presets else "one that `flashwam train` makes"
    parts = ("transformer",) if family is None else family.weights
    files = [file for part in parts for file in sorted((folder / part).glob("*.safetensors"))]
    files = files or sorted(folder.rglob("*.safetensors"))
    streams = own.get("streams", {})
    if not isinstance(streams, dict) or not all(isinstance(stream, dict) for stream in streams.values()):
        raise InputError(f"{folder / 'flashwam.json'}: streams must be a mapping of mappings; got {shown(streams)}")
    with reading(folder / "flashwam.json"):
        kind = own.get("kind")
        described = built_from(
            folder / "flashwam.json",
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
    """How a stream is sampled: a teacher by its own steps, a student by its consistency function."""
    from flashwam.core.streams import stream_schedule

    schedule = stream_schedule(stream).label
    if kind == "teacher":
        scale = stream.get("guidance_scale", 1)
        return f"{schedule}, {stream.get('teacher_steps')} steps" + (f", guidance {scale:g}" if scale != 1 else "")
    function = stream.get("consistency", {})
    function = function if isinstance(function, Mapping) else {"name": function}
    parameters = ", ".join(f"{key} {value}" for key, value in function.items() if key != "name")
    named = f"{function.get('name')}" + (f" ({parameters})" if parameters else "")
    return f"{named}, {schedule}, {stream.get('steps')} step(s)"


def _describe_run(folder: Path, trust: bool) -> dict[str, Any]:
    from flashwam.recipe.load import load_recipe

    recipe = load_recipe(folder, trust=trust)
    checkpoints = sorted(p.name for p in (folder / "checkpoints").glob("step_*"))
    results = [name for name in ("teacher", "student") if (folder / name / "flashwam.json").is_file()]
    state = f"finished: {', '.join(results)}" if results else f"at {checkpoints[-1]}" if checkpoints else "not begun"
    return {
        "folder": str(folder),
        "kind": "run",
        "recipe": recipe.name,
        "state": state,
        "kept_steps": sorted(p.name for p in (folder / "steps").glob("step_*")),
        "evaluations": sorted(p.stem for p in (folder / "evaluations").glob("*.json")),
        "made_by": _json(folder / "provenance.json"),
        **{name: _describe_model(folder / name) for name in results},
    }


def _json(path: Path) -> dict[str, Any]:
    return read_mapping(path) if path.exists() else {}
