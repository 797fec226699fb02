# SPDX-License-Identifier: Apache-2.0
"""Section and figures of a comparison's page: what models draw on recorded episodes."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flashwam.report.alt_texts import over_chunk_alt
from flashwam.report.colours import run_colours
from flashwam.report.figures import INK, MUTED, PALETTE, label_ends, new_figure, save_figure, tidy
from flashwam.report.page import Figure, Section, Table
from flashwam.report.recordings import RecordingRow, column_notes, recording_cells
from flashwam.run.recordings import CONTROL_COLUMNS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_over_chunk", "draw_trajectories", "recordings_section"]

logger = logging.getLogger(__name__)

_WINDOWS, _CONTROLS, _FIGURES = 3, 7, 4


def recordings_section(
    rows: Sequence[RecordingRow], folder: Path, *, colours: Mapping[str, str] | None = None
) -> Section:
    """Numbers and figures.

    Args:
        rows: At least one.
        folder: For the PNGs.
        colours: Student's run -> colour; the palette, run by run, if None.
    """
    if colours is None:
        colours = run_colours((), (row.run for row in rows if row.kind == "student"))
    cells = recording_cells(rows)
    figures = []
    if any(any(row.over_chunk) for row in rows):
        path = draw_over_chunk(rows, folder / "over_chunk.png", colours=colours)
        told = "Distance to the teacher's controls from the same noise, at each place of a chunk, normalised."
        figures.append(Figure(path=path, caption=told, alt=over_chunk_alt(rows)))
    for row in [row for row in rows if row.kind == "student"][:_FIGURES]:
        figures += _own_figures(row, folder, colours[row.run])
    lines, caption = [[*line.values()] for line in cells], column_notes(cells[0], teacher=_any_teacher(rows))
    tables = [Table(columns=[*cells[0]], rows=lines, caption=caption)]
    tables += [found for row in rows if (found := _by_control(row)) is not None]
    return Section(
        heading="On recorded episodes", paragraphs=(_against(rows), _meaning(rows)), figures=figures, tables=tables
    )


def _any_teacher(rows: Sequence[RecordingRow]) -> bool:
    return any(row.has_teacher for row in rows)


def _against(rows: Sequence[RecordingRow]) -> str:
    told = "Nobody drove here: every model drew chunks under the recorded past of its windows, and is held against "
    if _any_teacher(rows):
        told += "what its teacher drew in all its steps from the same noise, and against "
    told += "what was recorded. "
    if _any_teacher(rows) and (alone := [row.label for row in rows if not row.has_teacher]):
        told += f"No teacher drew beside {', '.join(alone)}. "
    return told + _on_which(rows)


def _meaning(rows: Sequence[RecordingRow]) -> str:
    if any(row.over_spread("error_teacher") is not None for row in rows):
        told = (
            "Two draws of a teacher differ, most of all where there is a choice. So a student's distance to the "
            "teacher is given over the distance of two draws of the teacher: near 0 it draws what the teacher draws, "
            "at 1 it is as far off as another draw. The distance to the recording cannot be near 0 where the teacher "
            "has a choice that the recording made one way."
        )
    else:
        told = (
            "The distance to the recording is told of every control in its own unit, and of all together normalised. "
            "It cannot be near 0 where there is a choice that the recording made one way."
        )
    return f"{told} Small errors here are needed for success on a robot, and do not prove it."


def _on_which(rows: Sequence[RecordingRow]) -> str:
    told = dict.fromkeys(row.recordings for row in rows)
    if len(told) == 1:
        return f"All of them: {next(iter(told))}."
    return "; ".join(f"{row.label}: {row.recordings}" for row in rows) + "."


def _by_control(row: RecordingRow) -> Table | None:
    told = {column: values for column, name in CONTROL_COLUMNS.items() if (values := row.by_control(name))}
    if not told:
        return None
    rows = [[name, *(f"{values[number]:.3g}" for values in told.values())] for number, name in enumerate(row.controls)]
    unitless = "; variance ratios have none" if "variance ratio" in told else ""
    caption = f"{row.label}: root mean squares, in each control's unit{unitless}."
    return Table(columns=("control", *told), rows=rows, caption=caption)


def _own_figures(row: RecordingRow, folder: Path, colour: str) -> list[Figure]:
    found = []
    evaluation, numbers = row.parts[0], row.numbers[0]
    place = None if evaluation.file is None else evaluation.file.parent
    name = row.label.replace("/", "-").replace(" ", "_")
    arrays = None if place is None or numbers.trajectories is None else place / numbers.trajectories
    if arrays is not None and arrays.is_file():
        path = draw_trajectories(
            arrays, row.controls, folder / f"trajectories_{name}.png", colour=colour, title=row.label
        )
        drawn, whose = "draws (colour)", "the draws"
        if row.has_teacher:
            drawn = "draws of the teacher (grey) and of the student (colour) from the same noise"
            whose = "the draws of the teacher"
        told = (
            f"{row.label}: recorded controls (black), {drawn}, each chunk under the recorded past. One line of panels "
            f"is a window, those in which {whose} differ most; dotted lines part chunks."
        )
        curves = ", ".join(["recorded", *(["teacher's"] if row.has_teacher else []), f"{row.label}'s"])
        alt = f"Curves of controls over time, panels of controls and windows: {curves}"
        found.append(Figure(path=path, caption=told, alt=alt))
    elif arrays is not None:
        logger.warning("%s is not there, so its trajectories are not drawn", arrays)
    if place is not None and evaluation.strip is not None and (place / evaluation.strip).is_file():
        who = "the teacher and the student" if row.has_teacher else "the model"
        told = f"{row.label}: recorded video of three windows, below each what {who} drew."
        found.append(
            Figure(path=place / evaluation.strip, caption=told, alt=f"Rows of small pictures: {told}", photo=True)
        )
    return found


def draw_over_chunk(rows: Sequence[RecordingRow], path: Path, *, colours: Mapping[str, str]) -> Path:
    """The error to the teacher at each place of a chunk, a line a row that has one.

    Args:
        rows: In order.
        path: PNG to write.
        colours: Student's run -> colour.
    """
    shown = [row for row in rows if any(row.over_chunk)]
    with new_figure(7.2, 3.2) as figure:
        axes = figure.subplots()
        ends = []
        for row in shown:
            colour = MUTED if row.kind == "teacher" else colours[row.run]
            places = np.arange(1, len(row.over_chunk) + 1)
            axes.plot(places, row.over_chunk, color=colour, lw=1.6)
            ends.append((float(places[-1]), row.over_chunk[-1], row.label, colour))
        axes.set(ylim=(0, None), xlabel="control of the chunk", ylabel="error to the teacher")
        tidy(axes)
        label_ends(axes, ends)
        return save_figure(figure, path)


def draw_trajectories(
    arrays: Path, controls: Sequence[str], path: Path, *, colour: str = PALETTE[0], title: str = ""
) -> Path:
    """Controls over time: recorded, the teacher's draws and the student's; a line of panels a window.

    Args:
        arrays: What `flashwam.evaluation.recordings` wrote.
        controls: Their names.
        path: The PNG's.
        colour: Of the student.
        title: Of the figure.
    """
    with np.load(arrays, allow_pickle=False) as held:
        told = {name: held[name] for name in held.files}
    windows, shown = min(_WINDOWS, len(told["recorded"])), range(min(_CONTROLS, len(controls)))
    with new_figure(2.2 * len(shown) + 0.6, 1.7 * windows + 0.7) as figure:
        panels = figure.subplots(windows, len(shown), sharex=True, sharey="col", squeeze=False)
        for line, window in zip(panels, range(windows), strict=True):
            for axes, control in zip(line, shown, strict=True):
                _draw_control(axes, told, window, control, colour)
        for axes, control in zip(panels[0], shown, strict=True):
            axes.set_title(controls[control], fontsize=9)
        for axes in panels[-1]:
            axes.set_xlabel("control", fontsize=8.5)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        return save_figure(figure, path)


def _draw_control(axes: "Axes", told: Mapping[str, np.ndarray], window: int, control: int, student: str) -> None:
    at, chunk = np.flatnonzero(told["valid"][window]), told["chunk"]
    for name, colour, alpha in (("teacher", MUTED, 0.55), ("student", student, 0.7)):
        for draw in told[name][window] if name in told else ():
            for number in np.unique(chunk[at]):
                here = at[chunk[at] == number]
                axes.plot(here, draw[here, control], color=colour, lw=1, alpha=alpha)
    axes.plot(at, told["recorded"][window][at, control], color=INK, lw=1.3)
    for border in np.flatnonzero(np.diff(chunk)):
        if at.size and at[0] <= border < at[-1]:
            axes.axvline(border + 0.5, color=MUTED, lw=0.7, ls=(0, (1, 2)))
    tidy(axes)
    axes.tick_params(labelsize=7.5)
