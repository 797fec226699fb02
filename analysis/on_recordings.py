# SPDX-License-Identifier: Apache-2.0
"""Asks whether what is measured on held-out recordings foretells success in closed loop.

    python analysis/on_recordings.py                 the one-step students of analysis/one_step.py, at 1v/1a
    python analysis/on_recordings.py --success       the same measures beside what was driven since

It wants the students and evaluations that `analysis/one_step.py` left in runs/one_step. Every training of every student
that was driven, and the undistilled teacher in few steps, draw on the same windows of episodes that no training saw;
`recordings.json` and `recordings.png` beside the study's comparison hold that beside their success over the teacher's
in its scenes; the table is printed. What was measured is not measured again.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cells import TEACHER, add_folders
from one_step import place_of
from one_step_cells import STUDENTS, Place
from scipy.stats import spearmanr

from flashwam.demo.place import DEFAULT_FAMILY
from flashwam.evaluation.recordings import evaluate_recordings
from flashwam.report.against import full_teacher, keep_of_teacher
from flashwam.report.colours import run_colours
from flashwam.report.figures import INK, MUTED, new_figure, save_figure, tidy
from flashwam.report.recordings import RecordingRow, recording_columns, recording_rows
from flashwam.report.results import pool_evaluations, read_evaluations
from flashwam.report.row import GROUPS
from flashwam.run.evaluation import Evaluation
from flashwam.run.folder import RunFolder
from flashwam.system.files import write_whole
from flashwam.system.json_file import read_mapping

NFE = "1v/1a"
TEACHER_NFE = (NFE, "2v/1a", "1v/2a")
WINDOWS = 64
PALE = "#b4bac4"
MEASURES = {
    "distance to the teacher": lambda row: row.over_spread("error_teacher"),
    "draws between the ways": lambda row: row.measure("student_between"),
    "variance ratio": lambda row: (row.over_spread("student_spread") or 0.0) ** 2,
}
"""Name -> a row's value."""


def judged(place: Place, name: str, seed: int, nfe: Sequence[str]) -> list[Evaluation]:
    """Evaluations on recordings of one training."""
    run = place.demo.teacher if name == TEACHER else RunFolder(place.run(name, seed)).result("student")
    out = place.out / "recordings" / (name if seed == 0 else f"{name}_seed{seed}")
    results = evaluate_recordings(run, nfe=nfe, windows=WINDOWS, out=out)
    return [Evaluation.from_json(result, out, file=out / f"{number}.json") for number, result in enumerate(results)]


def driven(place: Place) -> dict[str, dict[str, Any]]:
    """Label of a run -> group of tasks -> success over the teacher's in the same scenes."""
    results = [result for run in place.evaluated(guided=False) for result in read_evaluations(run)]
    rows = [row for row in pool_evaluations(results) if row.final and row.sampler == "own"]
    teacher = full_teacher(rows)
    if teacher is None:
        raise SystemExit(f"no teacher was driven below {place.out}: run analysis/one_step.py first")
    found = {row.label: {group: keep_of_teacher(row, teacher, group) for group in GROUPS} for row in rows}
    return {label: kept for label, kept in found.items() if None not in kept.values()}


def measure(place: Place) -> dict[str, Any]:
    """Every row, and how well each measure orders the trainings by their success on either group of tasks."""
    kept, evaluations = driven(place), judged(place, TEACHER, 0, TEACHER_NFE)
    for name, cell in STUDENTS.items():
        trainings = {len(found.by_training) for found in kept.get(f"{name} {NFE}", {}).values()}
        # One whose trainings are not all driven yet is left for the next time.
        if trainings == {len(cell.seeds)}:
            evaluations += [one for seed in cell.seeds for one in judged(place, name, seed, [NFE])]
    rows = [row for row in recording_rows(evaluations) if row.label in kept]
    each = [one for row in rows for one in _each(row, kept[row.label])]
    return _ordered([_told(row, kept[row.label]) for row in rows], each)


def beside_success(told: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """Lays the measures of before beside the success of what was driven since."""
    kept, rows, each = driven(place), [], []
    for row in told["rows"]:
        found = kept[row["label"]]
        rows.append({**row, **_success(found)})
        same = [one for one in told["trainings"] if one["label"] == row["label"]]
        each += [{**one, **_of_training(found, number)} for number, one in enumerate(same)]
    return _ordered(rows, each)


def _ordered(rows: Sequence[dict[str, Any]], each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    orders = {group: {name: _order(each, name, group) for name in MEASURES} for group in GROUPS}
    return {"rows": rows, "trainings": each, "rank correlation": orders}


def _each(row: RecordingRow, kept: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every training of a row: its measures, and its success."""
    for number, (part, numbers) in enumerate(zip(row.parts, row.numbers, strict=True)):
        alone = replace(row, parts=(part,), numbers=(numbers,))
        measures = {name: value(alone) for name, value in MEASURES.items()}
        yield {"label": row.label, **measures, **_of_training(kept, number)}


def _order(trainings: Sequence[Mapping[str, Any]], name: str, group: str) -> float:
    return float(spearmanr([one[name] for one in trainings], [one[group] for one in trainings]).statistic)


def _told(row: RecordingRow, kept: Mapping[str, Any]) -> dict[str, Any]:
    return {"label": row.label, "trainings": len(row.parts), **_success(kept), "columns": recording_columns(row)}


def _success(kept: Mapping[str, Any]) -> dict[str, Any]:
    return {"of_teacher": {group: found.to_json() for group, found in kept.items()}}


def _of_training(kept: Mapping[str, Any], number: int) -> dict[str, float]:
    return {group: kept[group].by_training[number] for group in GROUPS}


def table(told: Mapping[str, Any]) -> str:
    """All of it, as Markdown."""
    columns = ("to teacher", "variance ratio", "between the ways", "teacher's way", "jerk")
    head = ["model", "trainings", *(f"{group}, of teacher" for group in GROUPS), *columns]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for row in sorted(told["rows"], key=lambda one: -one["of_teacher"]["two-way"]["value"]):
        kept = [f"{row['of_teacher'][group]['value']:.2f}" for group in GROUPS]
        cells = [row["label"], str(row["trainings"]), *kept, *(row["columns"][name] for name in columns)]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", f"Rank correlation (Spearman) with success over {len(told['trainings'])} trainings:", ""]
    lines += [
        f"- {group} tasks: " + "; ".join(f"{name} {value:+.2f}" for name, value in orders.items())
        for group, orders in told["rank correlation"].items()
    ]
    return "\n".join(lines) + "\n"


def draw(told: Mapping[str, Any], path: Path) -> Path:
    """Success over two of the measures, a point a training."""
    shown = list(MEASURES)[:2]
    labels = list(dict.fromkeys(one["label"] for one in told["trainings"]))
    students = [label for label in labels if not label.startswith(TEACHER)]
    colours = run_colours((), students)
    # Darker, the more steps.
    teachers = [label for label in labels if label not in students]
    colours |= {label: (INK, MUTED, PALE)[number % 3] for number, label in enumerate(teachers)}
    with new_figure(9.2, 6.2) as figure:
        for line, group in zip(figure.subplots(2, 2, sharex="col", sharey="row"), GROUPS, strict=True):
            for axes, name in zip(line, shown, strict=True):
                for label in labels:
                    points = [(one[name], one[group]) for one in told["trainings"] if one["label"] == label]
                    axes.plot(*zip(*points, strict=True), "o", ms=5, color=colours[label], alpha=0.85)
                axes.axhline(1, color=INK, lw=0.8, ls=(0, (2, 2)))
                axes.set(xlim=(0, None), ylim=(0, 1.2))
                axes.set_title(f"rank correlation {told['rank correlation'][group][name]:+.2f}", fontsize=9)
                tidy(axes, grid="both")
            line[0].set_ylabel(f"success of the teacher's,\n{group} tasks")
        for axes, name in zip(figure.axes[2:], shown, strict=True):
            axes.set_xlabel(name)
        for label in labels:
            figure.axes[0].plot([], [], "o", color=colours[label], label=label)
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
        return save_figure(figure, path)


def main() -> None:
    """Measures, and writes table and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--success", action="store_true", help="measure nothing, take over what was")
    add_folders(parser)
    arguments = parser.parse_args()
    place = place_of(DEFAULT_FAMILY, arguments)
    out = place.out / "comparison"
    told = beside_success(read_mapping(out / "recordings.json"), place) if arguments.success else measure(place)
    write_whole(out / "recordings.json", json.dumps(told, indent=1) + "\n")
    draw(told, out / "recordings.png")
    print(table(told))


if __name__ == "__main__":
    main()
