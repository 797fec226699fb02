# SPDX-License-Identifier: Apache-2.0
"""Rows of evaluations on recorded episodes: errors of what was drawn there, and whether it decides."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from flashwam.core.steps import nfe_text
from flashwam.data.control_names import ControlNames
from flashwam.report.columns import latency_columns
from flashwam.report.distinct import distinct_evaluations, runs_apart
from flashwam.report.results import training_seeds
from flashwam.report.row import milliseconds_text, row_label
from flashwam.report.table import text_table
from flashwam.run.evaluation import Evaluation
from flashwam.run.recordings import OnRecordings, RecordingNumbers

__all__ = ["RecordingRow", "column_notes", "recording_cells", "recording_columns", "recording_rows", "recording_table"]

_WHO = ("student", "teacher", "recorded")
_OVER_SPREAD = ("to teacher", "to recorded")
_NORMALISED = "{}, normalised"
"""The column of the same errors as they are, for rows of which nobody knows how far two draws of a teacher differ."""
_NOTES = {
    "to teacher": "over the distance of two draws of the teacher, all controls together, normalised",
    "to recorded": "over the same distance (the teacher's own)",
    "to teacher, normalised": "root mean square of all controls together",
    "to recorded, normalised": "root mean square of all controls together{own}",
    "variance ratio": "of a window's draws, over the teacher's; near 0 all draws are one",
    "chunks with two ways": "those whose draws of the teacher fall apart more clearly than 99 in 100 normal ones would",
    "between the ways": "share of draws nearer to the middle than to a way (the teacher's own)",
    "teacher's way": "of the others, from the same noise",
    "step into a chunk": "from the recorded control before it, over a step within (the {others}recorded one)",
    "jerk": "third differences, normalised (the {others}recorded one)",
    "gripper switches": "per 100 controls (the {others}recorded ones)",
    "latent video error": "mean squared difference to the teacher's latents from the same noise",
    "video error, grey levels": "mean absolute difference of decoded pictures to the teacher's from the same noise, of "
    "255 (to the recorded ones)",
    "decoded sharpness ratio": "differences of neighbouring pixels, over the teacher's; below 1 is blurred",
    "sharpness ratio of last latents alone": "the same of each chunk's last latent frame decoded by itself",
    "ms a chunk": "milliseconds at batch 1; of a served model those of a round trip",
    "server ms": "of a round trip what the server computes",
}
"""Column -> words of a caption, to be filled with what a teacher's are called."""


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
    def has_teacher(self) -> bool:
        """Tells whether it was held against a teacher's draws."""
        return self.measure("all_error_teacher") is not None

    @property
    def latency(self) -> dict[str, float]:
        """Part of a chunk -> mean milliseconds, see `Evaluation.latency`."""
        names = dict.fromkeys(name for part in self.parts for name in part.latency)
        return {name: fmean(part.latency[name] for part in self.parts if name in part.latency) for name in names}

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
        return f"{one.counted} of {one.episodes} {whose}, {one.draws} draws each"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        names = dict.fromkeys(name for one in self.numbers for name in one.measures)
        listed = dict.fromkeys(name for one in self.numbers for name in one.by_control)
        opened = dict.fromkeys(name for part in self.parts for name in part.open_loop or ())
        return {
            "label": self.label,
            "kind": self.kind,
            "trainings": self.trainings,
            "recordings": self.recordings,
            "controls": list(self.controls),
            "measures": {name: self.measure(name) for name in names},
            "by_control": {name: list(self.by_control(name)) for name in listed},
            "over_chunk": list(self.over_chunk),
            "open_loop": {name: self.open_loop(name) for name in opened},
            "chunk_ms": self.latency.get("chunk_ms"),
            "latency": self.latency,
        }


def recording_rows(evaluations: Sequence[Evaluation]) -> list[RecordingRow]:
    """Pools evaluations of one run, step, NFE, sampler, precision and recordings: teachers first, then by the error to
    the teacher, then those without one by the error to what was recorded. What was measured twice counts once; runs
    that share a name are told apart.

    Args:
        evaluations: On recordings; others are left out.
    """
    groups: dict[Hashable, list[Evaluation]] = {}
    last: dict[str, int] = {}
    measured = distinct_evaluations([one for one in evaluations if one.recordings is not None], _way)
    for one in runs_apart(measured, _way):
        last[one.run] = max(last.get(one.run, 0), one.step or 0)
        groups.setdefault(_way(one), []).append(one)
    rows = [_row(parts, last) for parts in groups.values()]
    return sorted(rows, key=_order)


def _order(row: RecordingRow) -> tuple[bool, bool, float]:
    error = row.over_spread("error_teacher")
    unknown = error is None
    return row.kind != "teacher", unknown, (row.measure("all_error_recorded") or 0.0) if error is None else error


def _way(one: Evaluation) -> Hashable:
    on = None if one.asked is None else one.asked.recordings
    return (
        one.run,
        one.step,
        tuple(one.nfe.items()),
        one.sampler,
        one.precision,
        None if on is None else replace(on, data=on.folder),
    )


def _row(parts: Sequence[Evaluation], last: Mapping[str, int]) -> RecordingRow:
    one = parts[0]
    step = None if (one.step or 0) == last[one.run] else one.step
    on = None if one.asked is None else one.asked.recordings
    named = f"{one.run} {nfe_text(one.nfe)}" + ("" if on is None else _where(on))
    label = row_label(named, one.kind, one.sampler, precision=one.precision, step=step)
    numbers = tuple(part.recordings for part in parts if part.recordings is not None)
    return RecordingRow(label=label, kind=one.kind, parts=tuple(parts), numbers=numbers)


def _where(on: OnRecordings) -> str:
    """ " on mine (monday, tuesday)"; "" for those that a model was made from."""
    told = [Path(on.data).name] if on.data else []
    told += [f"({', '.join(on.tasks)})"] if on.tasks else []
    return f" on {' '.join(told)}" if told else ""


def recording_columns(row: RecordingRow, *, teacher: bool = True) -> dict[str, str]:
    """Column -> cell of a row, "-" where it was not measured.

    Args:
        row: The row.
        teacher: Tell what its teacher draws beside what was recorded, too.
    """
    who = [name for name in _WHO if teacher or name != "teacher"]
    spread = row.over_spread("student_spread")
    return {
        "model": row.label,
        "trainings": str(row.trainings),
        "to teacher": _number(row.over_spread("error_teacher")),
        "to recorded": _beside(row.over_spread("error_recorded"), row.over_spread("teacher_error_recorded")),
        "to teacher, normalised": _number(row.measure("all_error_teacher")),
        "to recorded, normalised": _beside(
            row.measure("all_error_recorded"), row.measure("all_teacher_error_recorded")
        ),
        "variance ratio": _number(None if spread is None else spread**2),
        "chunks with two ways": _share(row.measure("split")),
        "between the ways": _share(row.measure("student_between"), row.measure("teacher_between")),
        "teacher's way": _share(row.measure("same_way")),
        "step into a chunk": _beside(*(row.measure(f"{each}_border") for each in who)),
        "jerk": _beside(*(row.measure(f"{each}_jerk") for each in who)),
        "gripper switches": _beside(*(row.measure(f"{each}_flips") for each in who)),
        "latent video error": _number(row.open_loop("video_error_teacher")),
        "video error, grey levels": _beside(
            *(row.open_loop(f"video_decoded_error_{side}") for side in ("teacher", "expert"))
        ),
        "decoded sharpness ratio": _number(row.open_loop("video_decoded_sharpness_ratio")),
        "sharpness ratio of last latents alone": _number(row.open_loop("video_sharpness_ratio")),
        **{name: milliseconds_text(row.latency[key]) for key, name in latency_columns([row.latency]).items()},
    }


def recording_cells(rows: Sequence[RecordingRow]) -> list[dict[str, str]]:
    """Column -> cell of every row, of the columns that any row has; with milliseconds, stage by stage.

    Errors are told as they are, too, where one cannot be told over the distance of two draws of the teacher.
    """
    timed = [*latency_columns(row.latency for row in rows).values()]
    teacher = any(row.has_teacher for row in rows)
    lines = [dict.fromkeys(timed, "-") | recording_columns(row, teacher=teacher) for row in rows]
    measured = [name for name in (lines[0] if lines else {}) if name not in timed]
    columns = [name for name in measured if any(line[name] != "-" for line in lines)]
    for column in _OVER_SPREAD:
        whole = _NORMALISED.format(column)
        if whole in columns and not any(line[column] == "-" != line[whole] for line in lines):
            columns.remove(whole)
    return [{name: line[name] for name in (*columns, *timed)} for line in lines]


def column_notes(columns: Iterable[str], *, teacher: bool) -> str:
    """Words of a caption.

    Args:
        columns: Those that are there.
        teacher: Any row was held against a teacher.
    """
    words = {"others": "teacher's, the " if teacher else "", "own": " (the teacher's own)" if teacher else ""}
    told = [(name, _NOTES[name].format(**words)) for name in columns if name in _NOTES]
    return " ".join(f"{name[0].upper()}{name[1:]}: {note}." for name, note in told)


def recording_table(rows: Sequence[RecordingRow], *, markdown: bool = False) -> str:
    """A line a row, for a terminal or, with `markdown`, for a README; columns that nobody has are left out."""
    lines = recording_cells(rows)
    return text_table([*lines[0]], [[*line.values()] for line in lines], markdown=markdown) if rows else ""


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _beside(value: float | None, *others: float | None) -> str:
    """ "2.47 (2.55, 0.53)": a value and what it is held against, "2.47 (-, 0.53)" where some of that is not known."""
    told = ", ".join(map(_number, others)) if any(other is not None for other in others) else ""
    return _number(value) + (f" ({told})" if told and value is not None else "")


def _share(value: float | None, other: float | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.0%}" + ("" if other is None else f" ({other:.0%})")
