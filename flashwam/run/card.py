# SPDX-License-Identifier: Apache-2.0
"""The model card of a folder: what the weights are, how they must be sampled, what was measured and what was not."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flashwam.core.consistency import make_consistency_function
from flashwam.core.streams import stream_schedule
from flashwam.system.imports import reading, trusting
from flashwam.system.json_file import built_from, read_mapping
from flashwam.system.paths import user_path

__all__ = ["CARD_FILE", "model_card", "write_card"]

CARD_FILE = "README.md"

_HEADER = """\
---
library_name: flashwam
pipeline_tag: robotics
tags:
- robotics
- world-action-model
- {kind}
---
"""
_USE = """\
## Use
```python
from flashwam.sampling import samplers_for
from flashwam.student import load_wam

model, info = load_wam("{folder}")
samplers = samplers_for(info.streams, steps={steps}, teacher={teacher})
```
"""
_LAYOUT = """\
`transformer/` has the layout and keys of the original and loads in its own tools; how it is to be sampled is in
`flashwam.json`.
"""


def model_card(folder: str | Path, *, trust: bool = False) -> str:
    """The card of a model folder, from its `flashwam.json` and the evaluations of these weights.

    Evaluations are looked for in the folder and in the run it belongs to; only those of the same kind and training
    step count.

    Args:
        folder: The model's.
        trust: Import the classes that its files name beside ours, and run their code.

    Raises:
        FileNotFoundError: There is no `flashwam.json`.
        ValueError: It is not readable, or names a class that would have to be imported without `trust`.
    """
    path = user_path(folder) / "flashwam.json"
    info = _read(path)
    with trusting(trust), reading(path):
        return built_from(path, lambda: _card(user_path(folder), info))


def _card(folder: Path, info: Mapping[str, Any]) -> str:
    name = str(info.get("name") or folder.resolve().name)
    kind = str(info.get("kind"))
    streams = info.get("streams", {})
    results = _evaluations(folder, info)
    sections = [
        f"# {name}\n\n{_sentence(info)}\n",
        _streams(kind, streams),
        _training(info),
        _results(results),
        "## Known limits\n" + "\n".join(f"- {limit}" for limit in _limits(kind, streams, results)) + "\n",
        _USE.format(
            folder=folder.resolve().name,
            steps=None if kind == "teacher" else {key: int(s.get("steps", 1)) for key, s in streams.items()},
            teacher=kind == "teacher",
        ),
    ]
    layout = _LAYOUT if (folder / "transformer").is_dir() else ""
    return _HEADER.format(kind=kind) + "\n" + "\n".join(sections) + layout


def write_card(folder: str | Path, *, trust: bool = False) -> Path:
    """Writes `README.md`, see `model_card`; call it again when there are new evaluations."""
    path = user_path(folder) / CARD_FILE
    path.write_text(model_card(folder, trust=trust))
    return path


def _sentence(info: Mapping[str, Any]) -> str:
    if _role(info) == "teacher":
        return "A world-action model: a velocity network over video and actions, sampled in many steps."
    steps = ", ".join(f"{s.get('steps', 1)} for {name}" for name, s in info.get("streams", {}).items())
    teacher = _place(info["teacher"]) if info.get("teacher") else "an unnamed teacher"
    if info.get("kind") == "teacher":
        return f"A policy made from {teacher}: a velocity network, sampled in its own steps."
    return f"A world-action model distilled from {teacher} to few network evaluations per chunk: {steps}."


def _role(info: Mapping[str, Any]) -> str:
    """ "student" for what was made from another model."""
    return "student" if info.get("teacher") else str(info.get("kind"))


def _streams(kind: str, streams: Mapping[str, Mapping[str, Any]]) -> str:
    if kind == "teacher":
        lines = ["| stream | schedule | steps | guidance |", "|---|---|---|---|"]
        lines += [
            f"| {name} | {stream_schedule(s).label} | {s.get('teacher_steps', '-')} | {s.get('guidance_scale', 1):g} |"
            for name, s in streams.items()
        ]
    else:
        lines = [
            "| stream | consistency function | schedule | steps | anchors | teacher's guidance | weight | "
            "regulariser |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name, s in streams.items():
            guidance = "-" if not s.get("guidance") else "{:g} to {:g}".format(*s["guidance"])
            lines.append(
                f"| {name} | {_function(s)} | {stream_schedule(s).label} | {s.get('steps', 1)} | "
                f"{s.get('anchors', '-')} | {guidance} | {s.get('weight', 1):g} | {s.get('regulariser', 0):g} |"
            )
    return "## Streams, in the order they are drawn\n" + "\n".join(lines) + "\n"


def _function(stream: Mapping[str, Any]) -> str:
    function = make_consistency_function(stream.get("consistency", "linear"))
    parameters = ", ".join(f"{key} {value}" for key, value in function.config.items() if key != "name")
    return f"`{function.name}`" + (f" ({parameters})" if parameters else "")


def _training(info: Mapping[str, Any]) -> str:
    recipe = info.get("recipe") or {}
    loop = recipe.get("train" if _role(info) == "teacher" else "distill") or {}
    facts = {
        "teacher": _place(info["teacher"]) if info.get("teacher") else None,
        "recipe": recipe.get("name") if isinstance(recipe, Mapping) else recipe,
        "method": loop.get("method"),
        "optimiser steps": info.get("steps"),
        "samples per step": loop.get("batch_size", 0) * loop.get("accumulation", 1) or None,
        "learning rate": loop.get("lr"),
        "weights": info.get("weights"),
        "data": (recipe.get("data") or {}).get("source"),
        "flashwam": info.get("flashwam"),
        "git revision": info.get("git_revision"),
        "time": info.get("time"),
    }
    return "## Training\n" + "\n".join(f"- {key}: {value}" for key, value in facts.items() if value is not None) + "\n"


def _results(results: Sequence[Mapping[str, Any]]) -> str:
    driven = [one for one in results if one.get("overall")]
    if not driven:
        return "## Results\nThese weights were not evaluated in closed loop here.\n"
    lines = ["| steps | sampler | task | success | episodes | 95 % interval |", "|---|---|---|---|---|---|"]
    for one in driven:
        for task, numbers in {**one.get("tasks", {}), "all": one["overall"]}.items():
            low, high = numbers["wilson"]
            rate = numbers["success"] / max(1, numbers["episodes"])
            lines.append(
                f"| {one['setting']} | {one['sampler']} | {task} | {rate:.3f} | {numbers['episodes']} | "
                f"[{low:.3f}, {high:.3f}] |"
            )
    return "## Results\nSuccess rates in closed loop with Wilson intervals.\n\n" + "\n".join(lines) + "\n"


def _limits(kind: str, streams: Mapping[str, Mapping[str, Any]], results: Sequence[Mapping[str, Any]]) -> list[str]:
    limits = []
    for name, stream in streams.items() if kind == "student" else ():
        function = make_consistency_function(stream.get("consistency", "linear"))
        state, velocity = function.sampler_mismatch()
        if abs(state) + abs(velocity) > 1e-9:
            limits.append(
                f"{name} was distilled with its own function, and flashwam samples it so. A plain Euler step, as "
                f"LingBot-VA's own server takes, differs from it by {state:+.3f} x {velocity:+.3f} v at sigma = 1."
            )
        if stream.get("guidance"):
            limits.append(f"{name}: guidance is in the weights; its strength cannot be chosen any more.")
        if not stream.get("weight", 1):
            limits.append(f"{name} was not distilled: it needs the teacher's steps.")
    driven = [one for one in results if one.get("overall")]
    if not driven:
        limits.append("Success in closed loop is unknown.")
    else:
        seeds = sorted({one.get("seed") for one in driven})
        tasks = sorted({task for one in driven for task in one.get("tasks", {})})
        limits.append(f"Measured on {', '.join(tasks)} alone; nothing is known of other tasks, robots or cameras.")
        limits.append(f"Evaluation seeds {seeds}, one training run: the intervals do not hold the spread of trainings.")
    return limits


def _evaluations(folder: Path, info: Mapping[str, Any]) -> list[dict[str, Any]]:
    run = folder.resolve().parent
    if run.name == "steps":
        run = run.parent
    found = []
    for path in [*folder.glob("evaluations/*.json"), *run.glob("evaluations/*.json")]:
        result = read_mapping(path, finite=False)
        if (result.get("kind"), result.get("step")) == (_role(info), info.get("steps", 0)):
            found.append(result)
    return sorted(found, key=lambda one: (str(one.get("setting")), str(one.get("sampler")), one.get("seed", 0)))


def _place(path: str) -> str:
    """A folder as it was named, without the machine's part of an absolute path."""
    return path if not Path(path).is_absolute() else "/".join(Path(path).parts[-3:])


def _read(path: Path) -> dict[str, Any]:
    return read_mapping(path, missing="a card needs a folder that flashwam saved")
