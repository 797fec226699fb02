# SPDX-License-Identifier: Apache-2.0
"""The model card of a folder: what the weights are, how they must be sampled, what was measured and what was not."""

import logging
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from flashwam.core.streams import StreamSpec
from flashwam.run.evaluation import Evaluation, TaskNumbers, read_evaluation
from flashwam.run.folder import CARD_FILE, INFO_FILE, RunFolder
from flashwam.run.model_info import ModelInfo
from flashwam.system.errors import MissingFileError
from flashwam.system.files import final_path, write_whole
from flashwam.system.imports import trusting
from flashwam.system.json_file import built_from
from flashwam.system.paths import user_path

__all__ = ["model_card", "renew_card", "write_card"]

logger = logging.getLogger(__name__)

_MADE_HERE = "<!-- Written by flashwam, and anew after every evaluation; without this line it is left as it is. -->"
_MADE_ELSEWHERE = (
    "<!-- Written by flashwam from evaluations that do not lie here, and so left as it is after others. -->"
)
_UNFINISHED = 'load_wam(".beside-'
"""In every card that an older version wrote, of a folder that had not got its name yet."""
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


def model_card(folder: str | Path, *, evaluations: Sequence[Evaluation] | None = None, trust: bool = False) -> str:
    """The card of a model folder, from its `flashwam.json` and the evaluations of these weights.

    Args:
        folder: The model's.
        evaluations: To tell of those of these weights; the folder's own and its run's if None.
        trust: Import the classes that its files name beside ours, and run their code.

    Raises:
        FileNotFoundError: There is no `flashwam.json`.
        ValueError: It is not readable, or names a class that would have to be imported without `trust`; or a file of
            the evaluations is none.
    """
    folder = user_path(folder)
    path = folder / INFO_FILE
    if not path.is_file():
        raise MissingFileError(f"{path} is missing: a card needs a folder that flashwam saved")
    with trusting(trust):
        info = ModelInfo.read(folder)
    these = _of_these(folder, info, evaluations)
    origin = _MADE_HERE if evaluations is None else _MADE_ELSEWHERE
    return built_from(path, lambda: _card(folder, info, these)) + f"\n{origin}\n"


def write_card(folder: str | Path, *, evaluations: Sequence[Evaluation] | None = None, trust: bool = False) -> Path:
    """Writes `README.md`, see `model_card`.

    A card that somebody else wrote is left as it is; so is one that tells of evaluations that were given, unless there
    are such again.

    Raises:
        FileNotFoundError, ValueError, OSError: There is nothing to tell of, or it cannot be written.
    """
    path = user_path(folder) / CARD_FILE
    ours = (_MADE_HERE, _UNFINISHED) if evaluations is None else (_MADE_HERE, _UNFINISHED, _MADE_ELSEWHERE)
    while (text := model_card(folder, evaluations=evaluations, trust=trust)) != (there := _there(path)):
        if there is not None and not any(line in there for line in ours):
            logger.info("%s was not written by flashwam from what lies here, and is left as it is", path)
            break
        # Once more afterwards: another process may have measured and written in between.
        write_whole(path, text)
    return path


def renew_card(folder: str | Path, *, trust: bool = False) -> None:
    """Writes a model's card anew after something was measured; what cannot be written is a warning.

    A folder without `flashwam.json`, such as another tool's checkpoint, gets none.
    """
    if not (user_path(folder) / INFO_FILE).is_file():
        return
    try:
        write_card(folder, trust=trust)
    except Exception as error:
        # A card tells of weights and measurements that are safe; nothing about it may lose them.
        logger.warning("the card %s was not written anew: %s", user_path(folder) / CARD_FILE, error)


def _card(folder: Path, info: ModelInfo, evaluations: Sequence[Evaluation]) -> str:
    name = final_path(folder.resolve()).name
    sections = [
        f"# {info.name or name}\n\n{_sentence(info)}\n",
        _streams(info),
        _training(info),
        _results(evaluations),
        "## Known limits\n" + "\n".join(f"- {limit}" for limit in _limits(info, evaluations)) + "\n",
        _USE.format(
            folder=name,
            steps=None if info.kind == "teacher" else {stream: spec.steps for stream, spec in info.streams.items()},
            teacher=info.kind == "teacher",
        ),
    ]
    layout = _LAYOUT if (folder / "transformer").is_dir() else ""
    return _HEADER.format(kind=info.kind) + "\n" + "\n".join(sections) + layout


def _there(path: Path) -> str | None:
    return path.read_text(errors="replace") if path.exists() else None


def _sentence(info: ModelInfo) -> str:
    if info.role == "teacher":
        return "A world-action model: a velocity network over video and actions, sampled in many steps."
    teacher = _place(info.teacher) if info.teacher else "an unnamed teacher"
    if info.kind == "teacher":
        return f"A policy made from {teacher}: a velocity network, sampled in its own steps."
    steps = ", ".join(f"{spec.steps} for {name}" for name, spec in info.streams.items())
    return f"A world-action model distilled from {teacher} to few network evaluations per chunk: {steps}."


def _streams(info: ModelInfo) -> str:
    if info.kind == "teacher":
        lines = ["| stream | schedule | steps | guidance |", "|---|---|---|---|"]
        lines += [
            f"| {name} | {spec.schedule.label} | {spec.teacher_steps} | {spec.guidance_scale:g} |"
            for name, spec in info.streams.items()
        ]
    else:
        lines = [
            "| stream | consistency function | schedule | steps | anchors | teacher's guidance | weight | "
            "regulariser |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name, spec in info.streams.items():
            guidance = "-" if not spec.guidance else "{:g} to {:g}".format(*spec.guidance)
            lines.append(
                f"| {name} | {_function(spec)} | {spec.schedule.label} | {spec.steps} | {spec.anchors} | {guidance} | "
                f"{spec.weight:g} | {spec.regulariser:g} |"
            )
    return "## Streams, in the order they are drawn\n" + "\n".join(lines) + "\n"


def _function(spec: StreamSpec) -> str:
    function = spec.consistency
    parameters = ", ".join(f"{key} {value}" for key, value in function.config.items() if key != "name")
    return f"`{function.name}`" + (f" ({parameters})" if parameters else "")


def _training(info: ModelInfo) -> str:
    recipe, told = info.recipe, info.extra
    facts: dict[str, Any] = {"teacher": _place(info.teacher) if info.teacher else None}
    if recipe is not None:
        loop = recipe.train if info.role == "teacher" or recipe.distill is None else recipe.distill
        facts |= {
            "recipe": recipe.name,
            "method": loop.method,
            "samples per step": loop.batch_size * loop.accumulation,
            "learning rate": loop.lr,
            "data": recipe.data.source,
            "tasks": ", ".join(recipe.data.tasks),
        }
    facts |= {
        "optimiser steps": info.steps or None,
        **{key.replace("_", " "): told.get(key) for key in ("weights", "flashwam", "git_revision", "time")},
    }
    return "## Training\n" + "\n".join(f"- {key}: {value}" for key, value in facts.items() if value is not None) + "\n"


def _results(evaluations: Sequence[Evaluation]) -> str:
    driven = [one for one in evaluations if one.overall is not None]
    if not driven:
        return "## Results\nThese weights were not evaluated in closed loop here.\n"
    lines = ["| steps | sampler | task | success | episodes | 95 % interval |", "|---|---|---|---|---|---|"]
    for (setting, sampler, precision), seeds in groupby(driven, lambda one: (one.setting, one.sampler, one.precision)):
        how = sampler if precision == "own" else f"{sampler}, {precision}"
        for task, numbers in _pooled(list(seeds)).items():
            low, high = numbers.interval
            counted = f"{numbers.rate:.3f} | {numbers.episodes} | [{low:.3f}, {high:.3f}]"
            lines.append(f"| {setting} | {how} | {task} | {counted} |")
    return "## Results\nSuccess rates in closed loop with Wilson intervals.\n\n" + "\n".join(lines) + "\n"


def _pooled(seeds: Sequence[Evaluation]) -> dict[str, TaskNumbers]:
    """Task, and then "all" -> the episodes of all seeds together."""
    pooled = {}
    for name in (*dict.fromkeys(task for one in seeds for task in one.tasks), "all"):
        parts = [one.overall if name == "all" else one.tasks.get(name) for one in seeds]
        counts = [(part.episodes, part.success) for part in parts if part is not None]
        episodes, success = (sum(each) for each in zip(*counts, strict=True))
        pooled[name] = TaskNumbers(episodes=episodes, success=success)
    return pooled


def _limits(info: ModelInfo, evaluations: Sequence[Evaluation]) -> list[str]:
    limits = []
    for name, spec in info.streams.items() if info.kind == "student" else ():
        state, velocity = spec.consistency.sampler_mismatch()
        if abs(state) + abs(velocity) > 1e-9:
            limits.append(
                f"{name} was distilled with its own function, and flashwam samples it so. A plain Euler step, as "
                f"LingBot-VA's own server takes, differs from it by {state:+.3f} x {velocity:+.3f} v at sigma = 1."
            )
        if spec.guidance:
            limits.append(f"{name}: guidance is in the weights; its strength cannot be chosen any more.")
        if not spec.weight:
            limits.append(f"{name} was not distilled: it needs the teacher's steps.")
    driven = [one for one in evaluations if one.overall is not None]
    if not driven:
        limits.append("Success in closed loop is unknown.")
    else:
        seeds = sorted({one.seed for one in driven if one.seed is not None})
        tasks = sorted({task for one in driven for task in one.tasks})
        limits.append(f"Measured on {', '.join(tasks)} alone; nothing is known of other tasks, robots or cameras.")
        limits.append(f"Evaluation seeds {seeds}, one training run: the intervals do not hold the spread of trainings.")
    return limits


def _of_these(folder: Path, info: ModelInfo, evaluations: Sequence[Evaluation] | None) -> list[Evaluation]:
    """The evaluations of these weights, in the order they are shown."""
    run = RunFolder.of_model(final_path(folder.resolve()))
    if evaluations is None:
        places = dict.fromkeys((RunFolder(folder.resolve()), run))
        evaluations = [read_evaluation(path) for place in places for path in place.evaluation_files]
    name = info.name or run.name
    these = [one for one in evaluations if (one.run, one.kind, one.step or 0) == (name, info.role, info.steps)]
    return sorted(these, key=lambda one: (one.setting, one.sampler, one.precision, one.seed or 0))


def _place(path: str) -> str:
    """A folder as it was named, without the machine's part of an absolute path."""
    return path if not Path(path).is_absolute() else "/".join(Path(path).parts[-3:])
