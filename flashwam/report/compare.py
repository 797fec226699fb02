# SPDX-License-Identifier: Apache-2.0
"""`flashwam compare`: any set of evaluated runs as JSON, figures and one page with a verdict from the numbers."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flashwam.report.compare_figures import draw_budget, draw_cross, draw_forest, draw_latency, draw_training
from flashwam.report.figures import write_whole
from flashwam.report.metrics import read_metrics
from flashwam.report.page import Callout, Figure, Section, Table, write_page
from flashwam.report.results import Row, pool_evaluations, read_evaluations
from flashwam.report.verdict import cross_losses, full_teacher, verdict

__all__ = ["compare", "compare_sections", "format_table", "gather"]

logger = logging.getLogger(__name__)

_OPEN_LOOP = {
    "action_error_teacher": "action error to teacher",
    "action_error_expert": "action error to expert",
    "action_variance_ratio": "action variance ratio",
    "video_error_teacher": "video error to teacher",
    "video_sharpness_ratio": "video sharpness ratio",
}
_LATENCY = {"video_ms": "video ms", "action_ms": "action ms", "chunk_ms": "ms a chunk"}


def compare(runs: Sequence[Path | str], *, out: Path | str) -> dict[str, Any]:
    """Compares evaluated runs: writes `compare.json`, PNG figures and `compare.html` into `out`.

    Args:
        runs: Run folders with `evaluations/*.json`; the teacher's too, for the controls. `metrics.jsonl` is read where
            a run has one, and `out/cross.json` where it was made.
        out: Folder to write into; made if absent.

    Returns:
        What `compare.json` holds: "rows", "verdict" (sentences), "streams", "cross", "page".

    Raises:
        FileNotFoundError: for a run that does not exist or was never evaluated.
        ValueError: without runs, or for a file that is not an evaluation.
    """
    out = Path(out)
    rows, metrics, cross = gather(runs, out)
    result = {
        "rows": [row.to_json() for row in rows],
        "verdict": verdict(rows, cross),
        "streams": _streams(rows),
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
    write_whole(out / "compare.json", json.dumps(result, indent=1) + "\n")
    logger.info("comparison of %d runs: %s", len(runs), page)
    return result


def gather(
    runs: Sequence[Path | str], out: Path
) -> tuple[list[Row], dict[str, list[dict[str, Any]]], dict[str, Any] | None]:
    """(rows in the order they are shown, run -> metrics, cross table or None)."""
    if not runs:
        raise ValueError("nothing to compare; give at least one run folder")
    results = [result for run in runs for result in read_evaluations(run)]
    rows = pool_evaluations(results)
    metrics = {}
    for run in runs:
        if (Path(run) / "metrics.jsonl").is_file():
            name = str(next(r["run"] for r in results if r["folder"] == Path(run)))
            metrics[name if name not in metrics else str(run)] = read_metrics(Path(run) / "metrics.jsonl")
    cross = json.loads((out / "cross.json").read_text()) if (out / "cross.json").is_file() else None
    return sorted(rows, key=_order), metrics, cross


def _order(row: Row) -> tuple[Any, ...]:
    return (
        row.kind != "teacher",
        not row.final,
        row.sampler == "euler",
        row.total_nfe * (1 if row.kind == "student" else -1),
        (-row.share().rate),
    )


def _streams(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.nfe))


def compare_sections(
    rows: Sequence[Row],
    folder: Path,
    *,
    metrics: Mapping[str, Sequence[dict[str, Any]]] | None = None,
    cross: Mapping[str, Any] | None = None,
) -> list[Section]:
    """Draws the figures into `folder` and returns the sections of the page, for this page and for the demo's."""
    finals = [row for row in rows if row.final]
    sections = [
        Section(
            heading="What came out",
            callouts=[Callout(text=text, kind="verdict") for text in verdict(rows, cross)],
            figures=(
                Figure(
                    path=draw_forest(finals, folder / "success.png"),
                    caption="Dots: share of successful episodes; bars: Wilson's 95 % interval; dashed: the "
                    "teacher at full steps. Hollow: sampled with plain Euler. Commitment: share of episodes "
                    "that clearly take one of the demonstrated ways.",
                    alt="Success with intervals of every run",
                ),
            ),
            tables=(_success_table(finals),),
        )
    ]
    speed = draw_latency(finals, folder / "latency.png")
    sections.append(
        Section(
            heading="How fast, how faithful",
            paragraphs=(
                "Errors are squared differences to what the many-step teacher draws from the same noise: "
                "copying the teacher's draw is the student's job, while being near the expert on average "
                "also rewards a blur of all ways. A variance ratio near 0 means that the draws have "
                "collapsed to one; a sharpness ratio below 1 that the video is blurred.",
            ),
            figures=(Figure(path=speed, caption="Up and to the left is better. Squares: the teacher."),)
            if speed
            else (),
            tables=tuple(t for t in (_fidelity_table(finals),) if t is not None),
        )
    )
    budget = draw_budget(rows, folder / "budget.png")
    training = draw_training(metrics or {}, rows, _streams(rows), folder / "training.png")
    if budget or training:
        figures = [Figure(path=budget, caption="Shaded: Wilson's 95 % interval.")] if budget else []
        figures += [Figure(path=training, caption="Running means; logarithmic.")] if training else []
        sections.append(
            Section(
                heading="Over the distillation budget",
                paragraphs=(
                    "A single budget misleads: a setting that starts badly may catch up. So look at where "
                    "each curve starts, how fast it rises and where it ends. Losses of different consistency "
                    "functions are not comparable, their course is.",
                ),
                figures=figures,
            )
        )
    if cross:
        sections.append(_cross_section(cross, folder))
    strips = [(row, strip) for row in finals for strip in row.strips[:1]]
    if strips:
        sections.append(
            Section(
                heading="What they imagine",
                paragraphs=("Decoded video that each model predicts, beside what really happened.",),
                figures=[Figure(path=strip, caption=row.label, photo=True) for row, strip in strips],
            )
        )
    return sections


def _success_table(rows: Sequence[Row]) -> Table:
    tasks = list(dict.fromkeys(name for row in rows for name in row.tasks))
    several = {name for row in rows for name, share in row.tasks.items() if share.multimodal}
    committed = any(row.share().commitment is not None for row in rows)
    body = []
    for row in rows:
        low, high = row.share().interval
        cells = [row.label, f"{row.share().rate:.2f} [{low:.2f}, {high:.2f}]"]
        if committed:
            share = row.share().commitment
            cells.append("" if share is None else f"{share:.2f}")
        for name in tasks:
            share = row.tasks.get(name)
            cells.append(
                "" if share is None else f"{share.rate:.2f} [{share.interval[0]:.2f}, {share.interval[1]:.2f}]"
            )
        body.append(cells)
    episodes = sorted({row.share().episodes for row in rows})
    span = f"{episodes[0]}" if len(episodes) == 1 else f"{episodes[0]} to {episodes[-1]}"
    return Table(
        columns=(
            "model",
            "success",
            *(["commitment"] if committed else []),
            *(f"{t}{' *' if t in several else ''}" for t in tasks),
        ),
        rows=body,
        emphasised=_emphasised(rows),
        caption=f"Share of successes with Wilson's 95 % interval, {span} episodes a row."
        + (" * has several ways." if several else "")
        + " v: video steps a chunk, a: action steps.",
    )


def _emphasised(rows: Sequence[Row]) -> frozenset[int]:
    students = [(row.share().rate, -i) for i, row in enumerate(rows) if row.kind == "student"]
    return frozenset({-max(students)[1]}) if students else frozenset()


def _fidelity_table(rows: Sequence[Row]) -> Table | None:
    measures = [(key, name, "open_loop") for key, name in _OPEN_LOOP.items() if any(key in r.open_loop for r in rows)]
    measures += [(key, name, "latency") for key, name in _LATENCY.items() if any(key in r.latency for r in rows)]
    if not measures:
        return None
    body = []
    for row in rows:
        values = [getattr(row, place).get(key) for key, _, place in measures]
        body.append([row.label, str(row.total_nfe), *("" if v is None else f"{v:.3g}" for v in values)])
    return Table(
        columns=("model", "NFE", *(name for _, name, _ in measures)),
        rows=body,
        caption="NFE: network evaluations a chunk. Milliseconds as measured on the machine that evaluated.",
    )


def _cross_section(cross: Mapping[str, Any], folder: Path) -> Section:
    draws = f" {cross['draws']} draws a cell." if cross.get("draws") else ""
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
                caption="Share of first chunks that commit to one way." + draws,
                alt="Commitment by source of video and of actions",
            ),
        ),
    )


def format_table(rows: Sequence[Row]) -> str:
    """The comparison in a few lines of plain text, for a terminal."""
    teacher = full_teacher(rows)
    head = ("model", "success", "95 % interval", "commitment", "ms a chunk", "speed-up")
    body = []
    for row in (r for r in rows if r.final):
        share, milliseconds = row.share(), row.latency.get("chunk_ms")
        full = teacher.latency.get("chunk_ms") if teacher is not None else None
        body.append(
            (
                row.label,
                f"{share.rate:.2f}",
                f"{share.interval[0]:.2f} to {share.interval[1]:.2f}",
                "-" if share.commitment is None else f"{share.commitment:.2f}",
                "-" if milliseconds is None else f"{milliseconds:.3g}",
                "-" if not (milliseconds and full) else f"{full / milliseconds:.1f}x",
            )
        )
    widths = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in (head, *body)
    ]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])
