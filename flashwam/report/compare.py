# SPDX-License-Identifier: Apache-2.0
"""`flashwam compare`: any set of evaluated runs as JSON, figures and one page with a verdict from the numbers."""

import json
import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flashwam.report.against import with_ratios
from flashwam.report.beside import cross_beside, measured_beside, run_name
from flashwam.report.colours import run_colours
from flashwam.report.compare_page import compare_sections
from flashwam.report.cross_losses import cross_losses
from flashwam.report.film import find_film
from flashwam.report.metrics import has_metrics, read_metrics
from flashwam.report.next_page import next_section
from flashwam.report.page import write_page
from flashwam.report.real_time import Curve, real_time_curves, real_time_table
from flashwam.report.real_time_page import real_time_section
from flashwam.report.recordings import RecordingRow, recording_rows, recording_table
from flashwam.report.recordings_page import recordings_section
from flashwam.report.results import pool_evaluations, read_evaluations, read_real_time_evaluations
from flashwam.report.row import Row
from flashwam.report.study import find_study
from flashwam.report.table import format_table, markdown_table, table_notes
from flashwam.report.verdict import verdict
from flashwam.run.evaluation import Evaluation, read_recordings
from flashwam.run.folder import INFO_FILE, RunFolder
from flashwam.system.errors import InputError, MissingFileError
from flashwam.system.files import write_whole
from flashwam.system.json_file import without_nan
from flashwam.system.paths import user_path

__all__ = ["compare", "gather", "measured_rows"]

logger = logging.getLogger(__name__)

_KINDS = ("teacher", "baseline", "student")


def compare(runs: Sequence[Path | str], *, out: Path | str) -> dict[str, Any]:
    """Compares evaluated runs: writes `compare.json`, `compare.md`, PNG figures and `compare.html` into `out`.

    Evaluations in worlds that did not wait, and those on recorded episodes, stand apart, in `real_time.md`,
    `recordings.md` and a section of the page each.

    Args:
        runs: Run folders with `evaluations/*.json`, or studies of many (`flashwam.report.study`); the teacher's too,
            for the controls. `metrics.jsonl` is read where a run has one, and `cross.json`, `latency.json`,
            `costs.json` and a film where they were made: in `out`, else in a study's `comparison`. What they tell of
            other models is left out, see `flashwam.report.beside`. Of a model's folder in a run, that run is taken.
        out: Folder to write into; made if absent.

    Returns:
        What `compare.json` holds: "rows", "verdict" (sentences), "table" (plain text) and its "notes", "cross", "page",
        "real_time" and its "real_time_table", "recordings" and its "recordings_table".

    Raises:
        FileNotFoundError: for a run that does not exist or was never evaluated.
        ValueError: without runs, or for a file that is not an evaluation.
    """
    out, runs = user_path(out), [*dict.fromkeys(map(_run_of, runs))]
    rows, metrics, cross = gather(runs, out)
    late = [one for run in runs for one in read_real_time_evaluations(run)]
    on_recordings = [one for run in runs for one in read_recordings(run)]
    curves, recorded = real_time_curves(late), recording_rows(on_recordings)
    apart = _apart([*late, *on_recordings], rows)
    result = {
        "rows": [row.to_json() for row in rows],
        "verdict": verdict(rows, cross),
        "table": format_table(rows),
        "notes": table_notes(rows),
        "cross": cross,
        "cross_losses": cross_losses(cross) if cross else [],
        "real_time": [curve.to_json() for curve in curves],
        "real_time_table": real_time_table(curves),
        "recordings": [row.to_json() for row in recorded],
        "recordings_table": recording_table(recorded),
    }
    late_students = [curve.run for curve in curves if curve.kind == "student"]
    colours = run_colours([*rows, *apart], [*late_students, *(row.run for row in recorded if row.kind == "student")])
    sections = compare_sections(rows, out, metrics=metrics, cross=cross, colours=colours, apart=apart)
    sections += [real_time_section(curves, out, colours=colours)] if curves else []
    sections += [recordings_section(recorded, out, colours=colours)] if recorded else []
    studies = [study for run in runs if (study := find_study(user_path(run)))]
    last = next_section(rows, best=_best_apart(apart, curves, recorded))
    sections += [] if last is None else [last]
    page = write_page(
        out / "compare.html",
        "Comparison of runs",
        sections,
        lead="Who succeeds, how fast, and which stream loses what.",
        film=find_film(out, *(study / "comparison" for study in studies), rows=rows),
        footer="Made by `flashwam compare`. The numbers are in `compare.json` beside this page.",
    )
    result["page"] = str(page)
    write_whole(out / "compare.md", markdown_table(rows))
    if curves:
        write_whole(out / "real_time.md", real_time_table(curves, markdown=True) + "\n")
    if recorded:
        write_whole(out / "recordings.md", recording_table(recorded, markdown=True) + "\n")
    write_whole(out / "compare.json", json.dumps(without_nan(result), indent=1, allow_nan=False) + "\n")
    logger.info("comparison of %d runs: %s", len(runs), page)
    return result


def _run_of(run: Path | str) -> Path | str:
    """The run that holds what was measured of a model, where that is what is named."""
    named = RunFolder(user_path(run))
    measured = [*named.evaluation_files, *named.real_time_files, *named.recording_files]
    is_model = (named.path / INFO_FILE).is_file() and not measured
    return RunFolder.of_model(named.path).path if is_model else run


def _apart(evaluations: Sequence[Evaluation], rows: Sequence[Row]) -> list[Row]:
    """Rows of the runs that others do not hold, for how they were made alone: latencies and recordings are mixed."""
    known = {folder for row in rows for folder in row.folders}
    return [row for row in pool_evaluations(evaluations) if not known.issuperset(row.folders)]


def _best_apart(rows: Sequence[Row], curves: Sequence[Curve], recorded: Sequence[RecordingRow]) -> Row | None:
    """The student that succeeds most often over all latencies, or else is nearest to its teacher on recordings."""
    found = [(curve.share.rate, curve.run) for curve in curves if curve.kind == "student"]
    if not found:
        errors = [(row.over_spread("error_teacher"), row.run) for row in recorded if row.kind == "student"]
        found = [(-error, run) for error, run in errors if error is not None]
    best = max(found, default=None)
    return next((row for row in rows if best is not None and row.run == best[1]), None)


def gather(
    runs: Sequence[Path | str], out: Path
) -> tuple[list[Row], dict[str, list[list[dict[str, Any]]]], dict[str, Any] | None]:
    """(rows in the order they are shown, student -> metrics of each of its folders, cross table or None)."""
    if not runs:
        raise InputError("nothing to compare; give at least one run folder")
    results = [result for run in runs for result in _waited_for(run)]
    rows = with_ratios(measured_rows(results, out))
    named = {folder: row.run for row in rows if row.kind == "student" for folder in row.folders}
    metrics: dict[str, list[list[dict[str, Any]]]] = {}
    for folder in dict.fromkeys(result.folder for result in results):
        if folder in named and has_metrics(folder):
            metrics.setdefault(named[folder], []).append(read_metrics(RunFolder(folder).metrics))
    return rows, metrics, cross_beside(out, rows)


def _waited_for(run: Path | str) -> list[Evaluation]:
    """Reads a run's evaluations in a world that waits; none of one that has others alone."""
    try:
        return read_evaluations(run)
    except MissingFileError:
        if not read_real_time_evaluations(run) and not read_recordings(run):
            raise
        return []


def measured_rows(results: Sequence[Evaluation], out: Path) -> list[Row]:
    """Pools evaluations, in the order they are shown, with what was measured of whole models: latency and costs.

    `latency.json` and `costs.json` are those of `out`, or, for a run of a study, of its `comparison`, where they were
    made. Rows of one network and as many steps have one latency, the median of theirs: they run the same passes, and
    what differs is the machine's noise. Those that were timed in turns, in `latency.json`, go before what each
    evaluation timed for itself; beside them, in one study, what was timed apart is left out, since the machine may have
    had other work then. So is what the clients of served models waited, beside what passes took.
    """
    rows = _timed_in_one_way(pool_evaluations(results))
    timed = measured_beside("latency.json", out, rows, _timed_label)
    costs = measured_beside("costs.json", out, rows, run_name)
    in_turns = {number for number, latency in enumerate(timed) if latency is not None}
    for number, (latency, cost) in enumerate(zip(timed, costs, strict=True)):
        row = rows[number] if latency is None else replace(rows[number], latency=latency)
        rows[number] = row if cost is None else _with_cost(row, cost)
    timed_studies = {find_study(rows[number].folders[0]) for number in in_turns}
    for numbers in _alike(rows):
        if find_study(rows[numbers[0]].folders[0]) in timed_studies and not in_turns.intersection(numbers):
            for number in numbers:
                rows[number] = replace(rows[number], latency={})
            continue
        told = [rows[number].latency for number in numbers if number in in_turns or not in_turns.intersection(numbers)]
        one = _median(told)
        for number in numbers:
            rows[number] = replace(rows[number], latency=one)
    return sorted(rows, key=_order)


def _timed_in_one_way(rows: Sequence[Row]) -> list[Row]:
    """Rows whose latencies are all of passes, or all of round trips; the latter are left out where there are both."""
    if all(row.round_trip for row in rows if row.latency):
        return list(rows)
    left_out = [row.label for row in rows if row.round_trip and row.latency]
    if left_out:
        logger.info("latencies of %s are those of a server's round trips, and left out", ", ".join(left_out))
    return [replace(row, latency={}) if row.round_trip else row for row in rows]


def _alike(rows: Sequence[Row]) -> list[list[int]]:
    """Groups rows, by their numbers, of one network and as many steps.

    An older evaluation tells less of its network: it counts to the only one that it may be. Studies were timed apart.
    """
    groups: list[list[int]] = []
    for number in sorted(range(len(rows)), key=lambda k: -sum(map(bool, rows[k].network))):
        fitting = [numbers for numbers in groups if all(_may_be_one(rows[number], rows[k]) for k in numbers)]
        if len(fitting) == 1:
            fitting[0].append(number)
        else:
            groups.append([number])
    return groups


def _may_be_one(first: Row, second: Row) -> bool:
    passes = [(dict(row.nfe), row.guided, row.precision, find_study(row.folders[0])) for row in (first, second)]
    if passes[0] != passes[1]:
        return False
    return all(not a or not b or a == b for a, b in zip(first.network, second.network, strict=True))


def _median(measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Medians of what each measure came to where it was measured."""
    names = dict.fromkeys(name for each in measured for name in each)
    return {name: statistics.median(each[name] for each in measured if name in each) for name in names}


def _timed_label(row: Row) -> str:
    rounded = "" if row.precision == "own" else f" {row.precision}"
    return f"{run_name(row)} {row.steps_text}{rounded}"


def _with_cost(row: Row, told: Mapping[str, Any]) -> Row:
    cost = {"training": told["training"], **told["before"]}
    return replace(row, cost=cost, parameters=row.parameters or told.get("parameters", {}))


def _order(row: Row) -> tuple[Any, ...]:
    return (
        _KINDS.index(row.kind),
        not row.final,
        row.sampler != "own",
        row.total_nfe * (-1 if row.kind == "teacher" else 1),
        -row.share().rate,
    )
