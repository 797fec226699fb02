# SPDX-License-Identifier: Apache-2.0
"""Sections of a comparison's page: findings, speed and fidelity, curves, cross table, pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flashwam.report.against import common_teacher
from flashwam.report.alt_texts import budget_alt, cross_alt, forest_alt, latency_alt, training_alt
from flashwam.report.budget import budget
from flashwam.report.colours import inked, run_colours
from flashwam.report.columns import GREY, OPEN_LOOP, latency_columns
from flashwam.report.compare_figures import (
    draw_budget,
    draw_cross,
    draw_latency,
    draw_training,
    names_some,
)
from flashwam.report.films_page import films_section
from flashwam.report.forest_figure import draw_forest
from flashwam.report.methods_page import methods_section
from flashwam.report.motion_page import motion_section
from flashwam.report.page import Callout, Figure, Section, Table
from flashwam.report.parts import figures_in_parts
from flashwam.report.row import Row, milliseconds_text
from flashwam.report.table import group_cells, table_notes
from flashwam.report.verdict import best_student, verdict

__all__ = ["compare_sections"]

_LATENCY_CAPTION, _SQUARES = "Up and to the left is better.", " Squares: the teacher."
_BEST_NAMED = " Beside their dots the best two at each number of steps are named; the others by their colours."


def compare_sections(
    rows: Sequence[Row],
    folder: Path,
    *,
    metrics: Mapping[str, Sequence[Sequence[dict[str, Any]]]] | None = None,
    cross: Mapping[str, Any] | None = None,
    colours: Mapping[str, str] | None = None,
    apart: Sequence[Row] = (),
) -> list[Section]:
    """Draws the figures into `folder` and returns the sections of the page, for this page and for the demo's.

    Args:
        rows: Every row, final or not, in the order to show them.
        folder: For the PNGs.
        metrics: Student -> rows of `metrics.jsonl`, one list per seed.
        cross: The cross table, where it was made.
        colours: Run -> colour, where other sections have more runs; those of `run_colours` of the rows if None.
        apart: Of runs in other sections, for how they were made.
    """
    colours = run_colours(rows) if colours is None else colours
    finals = [row for row in rows if row.final]
    found = [
        _outcome(rows, cross, folder, colours),
        methods_section([*finals, *apart]),
        _speed_and_fidelity(finals, folder, colours),
        _budget(rows, metrics or {}, folder, colours),
        _cross(cross, folder) if cross else None,
        motion_section(finals, folder, colours=colours),
        _pictures(finals),
        films_section(finals),
    ]
    return [section for section in found if section is not None]


def _outcome(
    rows: Sequence[Row], cross: Mapping[str, Any] | None, folder: Path, colours: Mapping[str, str]
) -> Section | None:
    driven = [row for row in rows if row.final and row.driven]
    if not driven:
        return None
    first, *rest = verdict(rows, cross) or ["None of these was driven with its own function and noise."]
    return Section(
        heading="What came out",
        callouts=(Callout(text=first, points=rest, kind="verdict"),),
        figures=_forest(driven, folder / "success.png", colours),
        tables=(_success_table(driven),),
    )


def _forest(rows: Sequence[Row], path: Path, colours: Mapping[str, str]) -> list[Figure]:
    def make(part: Sequence[Row], file: Path, told: str) -> Figure:
        drawn = draw_forest(part, file, among=rows, colours=colours)
        return Figure(path=drawn, caption=told + _forest_caption(rows), alt=forest_alt(part, among=rows))

    return figures_in_parts(rows, lambda row: row, path, make)


def _forest_caption(rows: Sequence[Row]) -> str:
    told = (
        "Dots: success over the teacher's in the same scenes; bars: the paired 95 % interval over trainings and scenes "
        "(none where nothing can be paired); ticks: single trainings."
        if any(found.paired for row in rows for found in row.kept.values())
        else "Dots: share of successful episodes; bars: Wilson's 95 % interval; ticks: single seeds."
    )
    parts = [told]
    teacher = common_teacher(rows)
    if teacher is not None:
        parts.append(f"Dashed: the level of {teacher.label}.")
    elif any(found.paired for row in rows for found in row.kept.values()):
        parts.append("Dashed: the level of each one's teacher.")
    if any(row.sampler != "own" for row in rows):
        parts.append("Hollow: not with its own function or noise.")
    if any(row.share(multimodal=True).commitment is not None for row in rows):
        parts.append("Commitment: share of episodes that clearly take one of the demonstrated ways.")
    return " ".join(parts)


def _speed_and_fidelity(finals: Sequence[Row], folder: Path, colours: Mapping[str, str]) -> Section | None:
    table = _fidelity_table(finals)
    driven = [row for row in finals if row.driven]
    speed = draw_latency(driven, folder / "latency.png", colours=colours)
    if table is None and speed is None:
        return None
    squares = any(row.run in inked(driven) and row.latency.get("chunk_ms") for row in driven)
    caption = _LATENCY_CAPTION + (_SQUARES if squares else "") + (_BEST_NAMED if names_some(driven) else "")
    return Section(
        heading="How fast, how faithful",
        paragraphs=(
            "Errors are squared differences to what the many-step teacher draws from the same noise: copying "
            "the teacher's draw is the student's job, while being near the expert on average also rewards a "
            "blur of all ways. A variance ratio near 0 means that the draws have collapsed to one; a "
            "sharpness ratio below 1 that the video is blurred.",
        ),
        figures=(Figure(path=speed, caption=caption, alt=latency_alt(driven)),) if speed else (),
        tables=tuple(found for found in (table, _parts_table(finals)) if found is not None),
    )


def _budget(
    rows: Sequence[Row],
    metrics: Mapping[str, Sequence[Sequence[dict[str, Any]]]],
    folder: Path,
    colours: Mapping[str, str],
) -> Section | None:
    streams, told = _streams(rows), budget(rows)
    course = draw_budget(rows, folder / "budget.png", colours=colours)
    training = draw_training(metrics, streams, folder / "training.png", colours=colours)
    figures, paragraphs = [], []
    if told is not None and course is not None:
        shaded = "Shaded: Wilson's 95 % interval over episodes." if told.success else ""
        figures.append(Figure(path=course, caption=shaded, alt=budget_alt(told)))
        paragraphs.append(
            f"{told.trainings_text}{told.convention_text} A point on its way is not what a shorter training of its own "
            "schedule would reach."
        )
    if training:
        smooth = "Running means; logarithmic. A line is one training."
        figures.append(Figure(path=training, caption=smooth, alt=training_alt(metrics, streams)))
        paragraphs.append("Losses of different consistency functions are not comparable, their course is.")
    if not figures:
        return None
    return Section(heading="Along the training", paragraphs=(" ".join(paragraphs),), figures=figures)


def _cross(cross: Mapping[str, Any], folder: Path) -> Section:
    draws = f" {cross['draws']} draws a cell." if cross.get("draws") else ""
    error = (
        " Error: squared difference to the actions of the last column under its own video."
        if cross.get("action_error")
        else ""
    )
    return Section(
        heading="Which stream loses what",
        paragraphs=(
            "Later streams are drawn given earlier ones, so a wrong action may be the fault of the actions "
            "or of the video they were given. Crossing tells: take the video of one model, draw the actions "
            "with another. Down a column only the video changes, along a row only the actions.",
        ),
        figures=(
            Figure(
                path=draw_cross(cross, folder / "cross.png"),
                caption=f"Share of first chunks that commit to one way.{error}{draws}",
                alt=cross_alt(cross),
            ),
        ),
    )


def _pictures(finals: Sequence[Row]) -> Section | None:
    shown: dict[str, Row] = {}
    for row in sorted((r for r in finals if r.strips and r.sampler == "own"), key=lambda r: r.total_nfe):
        shown.setdefault(row.run, row)
    if not shown:
        return None
    return Section(
        heading="What they draw from the same noise",
        paragraphs=(
            "Decoded video of held-out windows. Of each window, from above: what happened, what the teacher "
            "draws at full steps, what this model draws from the same noise.",
        ),
        figures=[
            Figure(
                path=row.strips[0],
                caption=row.label,
                alt="Small pictures of a robot arm over a table, three windows of three lines: what the camera saw, "
                f"what the teacher draws, what {row.label} draws",
                photo=True,
            )
            for row in shown.values()
        ],
    )


def _streams(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.nfe))


def _success_table(rows: Sequence[Row]) -> Table:
    tasks = list(dict.fromkeys(name for row in rows for name in row.tasks))
    several = {name for row in rows for name, share in row.tasks.items() if share.multimodal}
    cells = [group_cells(row) for row in rows]
    columns = [name for name in cells[0] if any(each[name] != "-" for each in cells)]
    best = best_student(rows)
    body = []
    for row, each in zip(rows, cells, strict=True):
        shares = [row.tasks.get(name) for name in tasks]
        rates = ["" if share is None else f"{share.rate:.2f}" for share in shares]
        over = "" if row.kind == "baseline" else str(row.trainings)
        body.append([row.label, str(row.total_nfe or ""), over, f"{row.share().episodes:,}"])
        body[-1] += [*("" if each[name] == "-" else each[name] for name in columns), *rates]
    return Table(
        columns=(
            *("model", "NFE", "trainings", "episodes"),
            *columns,
            *(f"{name}{' *' if name in several else ''}" for name in tasks),
        ),
        rows=body,
        emphasised=frozenset({rows.index(best)}) if best is not None else frozenset(),
        caption=" ".join(table_notes(rows))
        + (" * has several ways." if several else "")
        + " v: video steps a chunk, a: action steps; NFE: passes of the network a chunk.",
    )


def _parts_table(rows: Sequence[Row]) -> Table | None:
    """Parameters part by part, of the models that tell their parts apart."""
    told = {row.run: row.parameters for row in rows if len(row.parameters) > 1}
    if not told:
        return None
    body = [[run, part, f"{count:,}"] for run, parts in told.items() for part, count in parts.items()]
    return Table(columns=("model", "part", "parameters"), rows=body, caption="What stays in the deployed model.")


def _fidelity_table(rows: Sequence[Row]) -> Table | None:
    told = {key: name for key, name in OPEN_LOOP.items() if any(key in row.open_loop for row in rows)}
    measures = [(key, name, "open_loop") for key, name in told.items()]
    measures += [(key, name, "latency") for key, name in latency_columns(row.latency for row in rows).items()]
    if not measures:
        return None
    sized = any(row.parameters for row in rows)
    body = []
    for row in rows:
        values = [getattr(row, place).get(key) for key, _, place in measures]
        if all(value is None for value in values):
            continue
        numbers = [
            "" if v is None else milliseconds_text(v) if place == "latency" else f"{v:.3g}"
            for v, (_, _, place) in zip(values, measures, strict=True)
        ]
        body.append([row.label, str(row.total_nfe), *numbers, *([row.parameters_text] if sized else [])])
    return Table(
        columns=("model", "NFE", *(name for _, name, _ in measures), *(["parameters"] if sized else [])),
        rows=body,
        caption="NFE: network evaluations a chunk. Milliseconds: one for each network and number of steps, the median "
        "of the models that have it, on the machine that evaluated."
        + (" Parameters: all that stay in the deployed model." if sized else "")
        + (" Grey levels: mean absolute difference of decoded pictures, of 255." if told.keys() & GREY else ""),
    )
