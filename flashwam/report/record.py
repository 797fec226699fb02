# SPDX-License-Identifier: Apache-2.0
"""The record of the analysis: comparisons of students whose outcomes are known, and those that it ordered right."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from flashwam.core.streams import StreamSpec
from flashwam.distillation.methods import find_method
from flashwam.report.levels import scarce_levels, stream_levels
from flashwam.report.order import better_at, standing
from flashwam.report.results import pool_evaluations, read_evaluations
from flashwam.report.row import Row
from flashwam.report.study import study_recipes
from flashwam.system.files import write_whole
from flashwam.system.json_file import read_mapping
from flashwam.system.paths import ASSETS

__all__ = [
    "GROUPS",
    "RECORD",
    "judge_study",
    "judge_warnings",
    "read_record",
    "split_record",
    "tally",
    "write_record",
]

RECORD = ASSETS / "verdict_record.json"
"""The record that `analysis/verdict_record.py` made of the studies in `analysis/results`."""
GROUPS: dict[str, bool | None] = {"two-way": True, "one-way": False, "all": None}
"""Name -> tasks with several ways, with one, or all of them."""
_READ = {"consistency", "anchors", "teacher_substeps", "steps", "teacher_steps"}
"""Fields of a stream that the analysis itself reads, or that training does not."""


def judge_study(study: Path) -> list[dict[str, Any]]:
    """Compares every two students of a study of whom the analysis puts one ahead.

    Students are taken as they are driven, with their own function, after the same number of steps, of a teacher that
    is driven at the same guidance and temperature; those with a stream that is not distilled, or whose method does not
    say where it trains, are left out.

    Args:
        study: Folder with `evaluations.jsonl` and `recipes.jsonl`.

    Returns:
        Plain values per comparison: `setting`; `ahead` and `behind`, the recipes' names; `by`, the criteria of
        `flashwam.report.order`; `beside`, what else the two recipes differ in; and `outcomes`, group of tasks ->
        {"episodes": of either, "difference": in successes, "seeds": the difference in each}.
    """
    recipes = _recipes(study)
    rows = _rows(study, recipes)
    places = [standing(_streams(recipes[row.run], row)) for row in rows]
    found = []
    for first, place in zip(rows, places, strict=True):
        for second, other in zip(rows, places, strict=True):
            one, two = recipes[first.run], recipes[second.run]
            if first.steps_text != second.steps_text or one["distill"]["steps"] != two["distill"]["steps"]:
                continue
            if _driving(one) != _driving(two):
                continue
            if by := better_at(place, other):
                found.append(
                    {
                        "setting": first.steps_text,
                        "ahead": first.run,
                        "behind": second.run,
                        "by": list(by),
                        "beside": _beside(one, two),
                        "outcomes": {group: _outcome(first, second, ways) for group, ways in GROUPS.items()},
                    }
                )
    return sorted(found, key=lambda one: (one["setting"], one["ahead"], one["behind"]))


def judge_warnings(study: Path) -> list[dict[str, Any]]:
    """Lists the students of a study that the analysis warns of: few training samples where a sampler of theirs stands.

    Returns:
        Plain values per student and setting: `run`, `setting`, the least share of samples `near` a level, its successes
        and `episodes` over all tasks, and `fewest`, the successes of the same students in the fewest steps.
    """
    recipes = _recipes(study)
    rows = _rows(study, recipes)
    found = []
    for row in rows:
        streams = _streams(recipes[row.run], row).values()
        shares = [level["near"] for numbers in streams for level in scarce_levels(numbers)]
        if shares:
            fewest = min((other for other in rows if other.run == row.run), key=lambda other: other.total_nfe)
            share = row.beside(fewest).share()
            found.append(
                {
                    "run": row.run,
                    "setting": row.steps_text,
                    "near": min(shares),
                    "success": share.successes,
                    "episodes": share.episodes,
                    "fewest": {"setting": fewest.steps_text, "success": fewest.beside(row).share().successes},
                }
            )
    return sorted(found, key=lambda one: (one["run"], one["setting"]))


def _recipes(study: Path) -> dict[str, Mapping[str, Any]]:
    """Name -> recipe of the study's distillations."""
    found: dict[str, Mapping[str, Any]] = {}
    for recipe in study_recipes(study).values():
        if recipe["distill"] is not None:
            found.setdefault(recipe["name"], recipe)
    return found


def _driving(recipe: Mapping[str, Any]) -> dict[str, list[float]]:
    """Stream -> scale of the guidance and temperature at which its teacher is driven."""
    told = ("guidance_scale", "teacher_temperature")
    return {name: [stream.get(key, 1.0) for key in told] for name, stream in recipe["streams"].items()}


def _rows(study: Path, recipes: Mapping[str, Any]) -> list[Row]:
    rows = pool_evaluations(read_evaluations(study))
    return [row for row in rows if row.final and row.sampler == "own" and row.run in recipes]


def _streams(recipe: Mapping[str, Any], row: Row) -> dict[str, dict[str, Any]]:
    """The levels of a recipe's streams, sampled as the row was."""
    lesson = partial(find_method(recipe["distill"]["method"]).lesson, options=recipe["distill"]["options"])
    specs = {name: StreamSpec.from_config(name, config) for name, config in recipe["streams"].items()}
    return {name: stream_levels(replace(spec, steps=row.nfe[name]), lesson) for name, spec in specs.items()}


def _beside(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    keys = [
        f"{name}.{key}"
        for name, config in one["streams"].items()
        for key in sorted(config.keys() - _READ)
        if config[key] != other["streams"][name].get(key)
    ]
    return keys + (["lr"] if one["distill"]["lr"] != other["distill"]["lr"] else [])


def _outcome(first: Row, second: Row, ways: bool | None) -> dict[str, Any]:
    seeds, episodes = [], 0
    for seed in sorted({s for s, _ in first.seeds if s is not None} & {s for s, _ in second.seeds if s is not None}):
        ours, theirs = (
            replace(row, seeds=tuple(part for part in row.seeds if part[0] == seed)).share(multimodal=ways)
            for row in (first, second)
        )
        seeds.append(ours.successes - theirs.successes)
        episodes += ours.episodes
    return {"episodes": episodes, "difference": sum(seeds), "seeds": seeds}


def tally(comparisons: Sequence[Mapping[str, Any]], group: str) -> dict[str, int]:
    """Counts comparisons by what came of them.

    Args:
        comparisons: As `judge_study` gives them.
        group: A key of `GROUPS`.

    Returns:
        "all"; "right", "level" and "wrong" by the sign of the difference over all seeds; "surely right" and "surely
        wrong", those with that sign in every seed.
    """
    outcomes = [one["outcomes"][group] for one in comparisons]
    return {
        "all": len(outcomes),
        "right": sum(one["difference"] > 0 for one in outcomes),
        "level": sum(one["difference"] == 0 for one in outcomes),
        "wrong": sum(one["difference"] < 0 for one in outcomes),
        "surely right": sum(min(one["seeds"]) > 0 for one in outcomes),
        "surely wrong": sum(max(one["seeds"]) < 0 for one in outcomes),
    }


def write_record(known: Mapping[str, Path], since: Mapping[str, Path], path: Path = RECORD) -> Path:
    """Writes the comparisons of studies.

    Args:
        known: Model -> study whose outcomes were known when the rule of `flashwam.report.order` was written.
        since: Model -> study made later, a test of the rule; other names than those of `known`.
        path: File.
    """
    record = {
        model: {
            "study": study.name,
            "known": model in known,
            "comparisons": judge_study(study),
            "warned": judge_warnings(study),
        }
        for model, study in {**known, **since}.items()
    }
    return write_whole(path, json.dumps(record, indent=1) + "\n")


def read_record(path: Path = RECORD) -> dict[str, Any]:
    """Reads what `write_record` wrote: model -> {"study", "known", "comparisons", "warned"}."""
    return dict(read_mapping(path))


def split_record(record: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The part of a record that was known when the rule was written, and the part that tests it."""
    known = {model: found for model, found in record.items() if found["known"]}
    return known, {model: found for model, found in record.items() if model not in known}
