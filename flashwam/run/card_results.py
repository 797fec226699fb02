# SPDX-License-Identifier: Apache-2.0
"""The part of a model card that tells of measurements: in closed loop, and on recorded episodes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from flashwam.run.conventions import Conventions
from flashwam.run.driven_under import convention_of
from flashwam.run.evaluation import Evaluation, TaskNumbers
from flashwam.run.recordings import CONTROL_COLUMNS, RecordingNumbers
from flashwam.system.json_file import Measured

__all__ = ["driven_among", "how_measured", "recorded_among", "results_section"]

_DRIVEN = """\
Success rates in closed loop with Wilson intervals.

| steps | sampler | task | success | episodes | 95 % interval |
|---|---|---|---|---|---|
"""
_RECORDED = """\
Root mean square distances of the controls that are drawn under a recorded past, with nobody driving: all controls
together as the model has them, normalised, and each in its unit. Two draws of the teacher from different noise are the
scale for the distance to it from the same noise; the ratio is that of the variance among draws to the teacher's.

"""


def driven_among(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Those of episodes that were driven in a world that waited."""
    return [one for one in evaluations if one.overall is not None]


def recorded_among(evaluations: Sequence[Evaluation]) -> list[RecordingNumbers]:
    """The numbers of those on recorded episodes."""
    return [one.recordings for one in evaluations if one.recordings is not None]


def results_section(evaluations: Sequence[Evaluation]) -> str:
    """Tells what was measured of a model.

    Args:
        evaluations: Of these weights, those of one setting side by side.
    """
    driven = driven_among(evaluations)
    told = [
        _DRIVEN + "\n".join(_driven_rows(driven)) if driven else "These weights were not evaluated in closed loop here."
    ]
    if recorded_among(evaluations):
        names = list(CONTROL_COLUMNS)
        head = "| steps | sampler | recordings | control | " + " | ".join(names) + " |"
        told.append(
            "\n".join([_RECORDED + head, "|---|---|---|---" + "|---" * len(names) + "|", *_recorded_rows(evaluations)])
        )
    return "## Results\n" + "\n\n".join(told) + "\n"


def _driven_rows(driven: Sequence[Evaluation]) -> Iterator[str]:
    under = Conventions(driven)
    groups: dict[tuple[str, str], list[Evaluation]] = {}
    for one in driven:
        # Where there are several, their own name stands for the convention's.
        name, told = under.name(one), how_measured(one)
        own = str(convention_of(one).get("name", ""))
        groups.setdefault((one.setting, told if not name else told.removesuffix(own) + name), []).append(one)
    for (setting, how), seeds in groups.items():
        for task, numbers in _pooled(seeds).items():
            low, high = numbers.interval
            counted = f"{numbers.rate:.3f} | {numbers.episodes} | [{low:.3f}, {high:.3f}]"
            yield f"| {setting} | {how} | {task} | {counted} |"


def _recorded_rows(evaluations: Sequence[Evaluation]) -> Iterator[str]:
    """A line for all controls together and one for each, over the seeds of a setting on the same recordings."""
    groups: dict[tuple[str, ...], list[RecordingNumbers]] = {}
    for one in evaluations:
        if one.recordings is not None:
            key = (one.setting, how_measured(one), _recordings(one, one.recordings))
            groups.setdefault(key, []).append(one.recordings)
    for setting, numbers in groups.items():
        lines = {"all": [_mean([_of_all(one, name) for one in numbers]) for name in CONTROL_COLUMNS.values()]}
        for place, (name, unit) in enumerate(zip(numbers[0].names, numbers[0].units, strict=True)):
            lists = [[one.by_control.get(measure, ()) for one in numbers] for measure in CONTROL_COLUMNS.values()]
            values = [_mean([told[place] if place < len(told) else None for told in each]) for each in lists]
            lines[f"{name}, {unit}" if unit else name] = values
        for control, values in lines.items():
            yield "| " + " | ".join([*setting, control, *values]) + " |"


def _of_all(numbers: RecordingNumbers, measure: str) -> Measured | None:
    """A measure of all controls together; None where there is none."""
    own, spread = (numbers.measures.get(f"all_{who}_spread") for who in ("student", "teacher"))
    if measure == "variance_ratio":
        return None if own is None or not spread else (own / spread) ** 2
    return numbers.measures.get(f"all_{measure}")


def _recordings(one: Evaluation, numbers: RecordingNumbers) -> str:
    """ "32 windows of 61 held-out episodes, 8 draws each": which recordings, by no path of a machine."""
    told = {True: "held-out episodes", False: "episodes that it was trained on", None: "recorded episodes"}
    data = one.asked.recordings.data if one.asked is not None and one.asked.recordings is not None else ""
    where = f" of {Path(data).name}" if data else ""
    return f"{numbers.counted} of {numbers.episodes} {told[numbers.held_out]}{where}, {numbers.draws} draws each"


def how_measured(one: Evaluation) -> str:
    """Sampler, precision where it is not the model's own, and convention of the simulator where that has several."""
    precision = "" if one.precision == "own" else one.precision
    return ", ".join(filter(None, (one.sampler, precision, str(convention_of(one).get("name", "")))))


def _mean(values: Sequence[Measured | None]) -> str:
    told = [value for value in values if value is not None and not math.isnan(value)]
    return f"{fmean(told):.3g}" if told else "-"


def _pooled(seeds: Sequence[Evaluation]) -> Mapping[str, TaskNumbers]:
    """Task, and then "all" -> the episodes of all seeds together."""
    pooled = {}
    for name in (*dict.fromkeys(task for one in seeds for task in one.tasks), "all"):
        parts = [one.overall if name == "all" else one.tasks.get(name) for one in seeds]
        counts = [(part.episodes, part.success) for part in parts if part is not None]
        episodes, success = (sum(each) for each in zip(*counts, strict=True))
        pooled[name] = TaskNumbers(episodes=episodes, success=success)
    return pooled
