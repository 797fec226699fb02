# SPDX-License-Identifier: Apache-2.0
"""`flashwam compare`: any set of evaluated runs as JSON, figures and one page with a verdict from the numbers."""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flashwam.report.compare_page import compare_sections
from flashwam.report.metrics import has_metrics, read_metrics
from flashwam.report.page import write_page
from flashwam.report.results import Row, pool_evaluations, read_evaluations
from flashwam.report.study import find_study
from flashwam.report.verdict import cross_losses, full_teacher, verdict
from flashwam.run.evaluation import Evaluation
from flashwam.run.folder import RunFolder
from flashwam.system.errors import InputError
from flashwam.system.files import write_whole
from flashwam.system.json_file import read_mapping
from flashwam.system.paths import user_path

__all__ = ["compare", "format_table", "gather", "measured_rows"]

logger = logging.getLogger(__name__)

_ALWAYS = ("model", "episodes", "success", "95 % interval", "several ways", "commitment")
_WHERE_KNOWN = ("ms a chunk", "speed-up", "parameters", "training, min")


def compare(runs: Sequence[Path | str], *, out: Path | str) -> dict[str, Any]:
    """Compares evaluated runs: writes `compare.json`, `compare.md`, PNG figures and `compare.html` into `out`.

    Args:
        runs: Run folders with `evaluations/*.json`, or studies of many (`flashwam.report.study`); the teacher's too,
            for the controls. `metrics.jsonl` is read where a run has one, and `cross.json`, `latency.json` and
            `costs.json` where they were made: in `out`, else in a study's `comparison`.
        out: Folder to write into; made if absent.

    Returns:
        What `compare.json` holds: "rows", "verdict" (sentences), "table" (plain text), "cross", "page".

    Raises:
        FileNotFoundError: for a run that does not exist or was never evaluated.
        ValueError: without runs, or for a file that is not an evaluation.
    """
    out = user_path(out)
    rows, metrics, cross = gather(runs, out)
    result = {
        "rows": [row.to_json() for row in rows],
        "verdict": verdict(rows, cross),
        "table": format_table(rows),
        "cross": cross,
        "cross_losses": cross_losses(cross) if cross else [],
    }
    page = write_page(
        out / "compare.html",
        "Comparison of runs",
        compare_sections(rows, out, metrics=metrics, cross=cross),
        lead="Who succeeds, how fast, and which stream loses what.",
        footer="Made by `flashwam compare`. The numbers are in `compare.json` beside this page.",
    )
    result["page"] = str(page)
    write_whole(out / "compare.md", format_table(rows, markdown=True) + "\n")
    write_whole(out / "compare.json", json.dumps(result, indent=1) + "\n")
    logger.info("comparison of %d runs: %s", len(runs), page)
    return result


def gather(
    runs: Sequence[Path | str], out: Path
) -> tuple[list[Row], dict[str, list[list[dict[str, Any]]]], dict[str, Any] | None]:
    """(rows in the order they are shown, student -> metrics of each of its folders, cross table or None)."""
    if not runs:
        raise InputError("nothing to compare; give at least one run folder")
    results = [result for run in runs for result in read_evaluations(run)]
    rows = measured_rows(results, out)
    named = {folder: row.run for row in rows if row.kind == "student" for folder in row.folders}
    metrics: dict[str, list[list[dict[str, Any]]]] = {}
    for folder in dict.fromkeys(result.folder for result in results):
        if folder in named and has_metrics(folder):
            metrics.setdefault(named[folder], []).append(read_metrics(RunFolder(folder).metrics))
    studies = dict.fromkeys(find_study(result.folder) for result in results)
    cross = _measured("cross.json", out, next(iter(studies)) if len(studies) == 1 else None)
    return rows, metrics, cross or None


def measured_rows(results: Sequence[Evaluation], out: Path) -> list[Row]:
    """Pools evaluations, in the order they are shown, with what was measured of whole models: latency and costs.

    `latency.json` and `costs.json` are those of `out`, or, for a run of a study, of its `comparison`, where they were
    made.
    """
    rows = []
    for row in pool_evaluations(results):
        study, run = find_study(row.folders[0]), row.run.rpartition("/")[2]
        timed, costs = (_measured(name, out, study) for name in ("latency.json", "costs.json"))
        row = replace(row, latency=timed.get(f"{run} {row.steps_text}", row.latency))
        rows.append(_with_cost(row, costs[run]) if run in costs else row)
    return sorted(rows, key=_order)


def _measured(name: str, out: Path, study: Path | None) -> dict[str, Any]:
    """A table of whole models' measurements; empty where there is none."""
    places = [out, *([] if study is None else [study / "comparison"])]
    path = next((place / name for place in places if (place / name).is_file()), None)
    return {} if path is None else read_mapping(path, finite=False)


def _with_cost(row: Row, told: dict[str, Any]) -> Row:
    cost = {"training": told["training"], **told["before"]}
    return replace(row, cost=cost, parameters=row.parameters or told.get("parameters", {}))


def _order(row: Row) -> tuple[Any, ...]:
    return (
        row.kind != "teacher",
        not row.final,
        row.sampler == "euler",
        row.total_nfe * (1 if row.kind == "student" else -1),
        (-row.share().rate),
    )


def format_table(rows: Sequence[Row], *, markdown: bool = False, teacher: Row | None = None) -> str:
    """The comparison in a few lines, for a terminal or, with `markdown`, for a README.

    Args:
        rows: In order.
        markdown: For a README.
        teacher: What speed-ups are against; the slowest teacher of the rows if None.
    """
    teacher = full_teacher(rows) if teacher is None else teacher
    full = None if teacher is None else teacher.latency.get("chunk_ms")
    lines = []
    for row in (r for r in rows if r.final):
        share, several, milliseconds = row.share(), row.share(multimodal=True), row.latency.get("chunk_ms")
        lines.append(
            {
                "model": row.label,
                "episodes": f"{share.episodes:,}",
                "success": f"{share.rate:.2f}",
                "95 % interval": f"{share.interval[0]:.2f} to {share.interval[1]:.2f}",
                "several ways": f"{several.rate:.2f}" if several.episodes else "-",
                "commitment": "-" if share.commitment is None else f"{share.commitment:.2f}",
                "ms a chunk": f"{milliseconds:.3g}" if milliseconds else "-",
                "speed-up": f"{full / milliseconds:.1f}x" if full and milliseconds else "-",
                "parameters": row.parameters_text or "-",
                "training, min": row.cost_text or "-",
            }
        )
    known = {name for line in lines for name, cell in line.items() if cell != "-"}
    head = [*_ALWAYS, *(name for name in _WHERE_KNOWN if name in known)]
    body = [[line[name] for name in head] for line in lines]
    if markdown:
        rule = "|---" + "|---:" * (len(head) - 1) + "|"
        return "\n".join(["| " + " | ".join(head) + " |", rule, *("| " + " | ".join(cells) + " |" for cells in body)])
    widths = [max(len(cells[i]) for cells in (head, *body)) for i in range(len(head))]
    text = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        for cells in (head, ["-" * w for w in widths], *body)
    ]
    return "\n".join(text)
