# SPDX-License-Identifier: Apache-2.0
"""Rows of evaluations on recorded episodes: errors of what was drawn there, and whether it decides."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from flashwam.core.steps import nfe_text
from flashwam.data.control_names import ControlNames
from flashwam.report.distinct import distinct_evaluations
from flashwam.report.results import training_seeds
from flashwam.report.row import row_label
from flashwam.report.table import text_table
from flashwam.run.evaluation import Evaluation
from flashwam.run.recordings import RecordingNumbers

__all__ = ["RecordingRow", "recording_columns", "recording_rows", "recording_table"]

_WHO = ("student", "teacher", "recorded")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingRow:
    """One way of sampling a run's weights on one set of recordings, over trainings and seeds.

    Args:
        label: Name in tables and figures.
        kind: "teacher" or "student".
        parts: Its evaluations.
        numbers: What each measured.
    """

    label: str
    kind: str
    parts: tuple[Evaluation, ...]
    numbers: tuple[RecordingNumbers, ...]

    @property
    def run(self) -> str:
        """Name of the run."""
        return self.parts[0].run

    @property
    def trainings(self) -> int:
        """Trainings that it is over; where that is not told, its folders are taken for them."""
        return (
            len(training_seeds(self.parts)) or len({part.folder for part in self.parts if part.file is not None}) or 1
        )

    def measure(self, name: str) -> float | None:
        """Mean of a measure; None where none of its evaluations has it."""
        told = [one.measures[name] for one in self.numbers if name in one.measures]
        return fmean(told) if told else None

    def open_loop(self, name: str) -> float | None:
        """Mean of an open-loop measure of the streams; None where none has it."""
        told = [part.open_loop[name] for part in self.parts if part.open_loop and name in part.open_loop]
        return fmean(told) if told else None

    def by_control(self, name: str) -> tuple[float, ...]:
        """Means of a measure of each control; none where none has it."""
        told = [one.by_control[name] for one in self.numbers if name in one.by_control]
        return tuple(fmean(values) for values in zip(*told, strict=True))

    def over_spread(self, name: str) -> float | None:
        """A measure of all controls over the distance of two draws of the teacher; None where either is not known."""
        value, spread = self.measure(f"all_{name}"), self.measure("all_teacher_spread")
        return value / spread if value is not None and spread else None

    @property
    def over_chunk(self) -> tuple[float, ...]:
        """Mean error to the teacher at each place of a chunk."""
        told = [one.over_chunk for one in self.numbers if one.over_chunk]
        return tuple(fmean(values) for values in zip(*told, strict=False))

    @property
    def chunk_ms(self) -> float | None:
        """Mean milliseconds of a chunk."""
        told = [part.chunk_ms for part in self.parts if part.chunk_ms is not None]
        return fmean(told) if told else None

    @property
    def controls(self) -> tuple[str, ...]:
        """Names of the controls with their units."""
        one = self.numbers[0]
        return ControlNames(names=one.names, units=one.units).with_units

    @property
    def recordings(self) -> str:
        """The recordings in words: "32 windows of 61 held-out episodes, 8 draws each"."""
        one = self.numbers[0]
        told = {True: "held-out episodes", False: "episodes that it was trained on", None: "recorded episodes"}
        whose = told[one.held_out]
        return f"{one.windows} windows of {one.episodes} {whose}, {one.draws} draws each"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        names = dict.fromkeys(name for one in self.numbers for name in one.measures)
        listed = dict.fromkeys(name for one in self.numbers for name in one.by_control)
        return {
            "label": self.label,
            "kind": self.kind,
            "trainings": self.trainings,
            "recordings": self.recordings,
            "controls": list(self.controls),
            "measures": {name: self.measure(name) for name in names},
            "by_control": {name: list(self.by_control(name)) for name in listed},
            "over_chunk": list(self.over_chunk),
            "chunk_ms": self.chunk_ms,
        }


def recording_rows(evaluations: Sequence[Evaluation]) -> list[RecordingRow]:
    """Pools evaluations of one run, step, NFE, sampler, precision and recordings: teachers first, then by the error to
    the teacher. What was measured twice counts once.

    Args:
        evaluations: On recordings; others are left out.
    """
    groups: dict[Hashable, list[Evaluation]] = {}
    last: dict[str, int] = {}
    for one in distinct_evaluations([one for one in evaluations if one.recordings is not None], _way):
        last[one.run] = max(last.get(one.run, 0), one.step or 0)
        groups.setdefault(_way(one), []).append(one)
    rows = [_row(parts, last) for parts in groups.values()]
    return sorted(rows, key=lambda row: (row.kind != "teacher", row.over_spread("error_teacher") or 0.0))


def _way(one: Evaluation) -> Hashable:
    on = None if one.asked is None else one.asked.recordings
    return one.run, one.step, tuple(one.nfe.items()), one.sampler, one.precision, on


def _row(parts: Sequence[Evaluation], last: Mapping[str, int]) -> RecordingRow:
    one = parts[0]
    step = None if (one.step or 0) == last[one.run] else one.step
    on = None if one.asked is None else one.asked.recordings
    named = f"{one.run} {nfe_text(one.nfe)}" + (f" on {Path(on.data).name}" if on is not None and on.data else "")
    label = row_label(named, one.kind, one.sampler, precision=one.precision, step=step)
    numbers = tuple(part.recordings for part in parts if part.recordings is not None)
    return RecordingRow(label=label, kind=one.kind, parts=tuple(parts), numbers=numbers)


def recording_columns(row: RecordingRow) -> dict[str, str]:
    """Column -> cell of a row, "-" where it was not measured."""
    recorded, own = (row.over_spread(name) for name in ("error_recorded", "teacher_error_recorded"))
    spread = row.over_spread("student_spread")
    return {
        "model": row.label,
        "trainings": str(row.trainings),
        "to teacher": _number(row.over_spread("error_teacher")),
        "to recorded": _beside(recorded, own),
        "variance ratio": _number(None if spread is None else spread**2),
        "chunks with two ways": _share(row.measure("split")),
        "between the ways": _share(row.measure("student_between"), row.measure("teacher_between")),
        "teacher's way": _share(row.measure("same_way")),
        "step into a chunk": _beside(*(row.measure(f"{who}_border") for who in _WHO)),
        "jerk": _beside(*(row.measure(f"{who}_jerk") for who in _WHO)),
        "video error": _number(row.open_loop("video_error_teacher")),
        "sharpness ratio": _number(row.open_loop("video_sharpness_ratio")),
        "ms a chunk": _number(row.chunk_ms),
    }


def recording_table(rows: Sequence[RecordingRow], *, markdown: bool = False) -> str:
    """A line a row, for a terminal or, with `markdown`, for a README; columns that nobody has are left out."""
    lines = [recording_columns(row) for row in rows]
    columns = [name for name in (lines[0] if lines else {}) if any(line[name] != "-" for line in lines)]
    return text_table(columns, [[line[name] for name in columns] for line in lines], markdown=markdown) if rows else ""


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _beside(value: float | None, *others: float | None) -> str:
    """ "2.47 (2.55, 0.53)": a value and what it is held against."""
    told = ", ".join(_number(other) for other in others if other is not None)
    return _number(value) + (f" ({told})" if told and value is not None else "")


def _share(value: float | None, other: float | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.0%}" + ("" if other is None else f" ({other:.0%})")
