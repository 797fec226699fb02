# SPDX-License-Identifier: Apache-2.0
"""Sections of a comparison's page: findings, speed and fidelity, curves, cross table, pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flashwam.report.compare_figures import draw_budget, draw_cross, draw_forest, draw_latency, draw_training
from flashwam.report.motion_page import motion_section
from flashwam.report.page import Callout, Figure, Section, Table
from flashwam.report.results import Row
from flashwam.report.verdict import best_student, verdict

__all__ = ["compare_sections"]

_OPEN_LOOP = {
    "action_error_teacher": "action error to teacher",
    "action_error_expert": "action error to expert",
    "action_variance_ratio": "action variance ratio",
    "video_error_teacher": "video error to teacher",
    "video_sharpness_ratio": "video sharpness ratio",
}
_LATENCY = {
    "video_ms": "video ms",
    "action_ms": "action ms",
    "video+action_ms": "joint ms",
    "chunk_ms": "ms a chunk",
}


def compare_sections(
    rows: Sequence[Row],
    folder: Path,
    *,
    metrics: Mapping[str, Sequence[Sequence[dict[str, Any]]]] | None = None,
    cross: Mapping[str, Any] | None = None,
) -> list[Section]:
    """Draws the figures into `folder` and returns the sections of the page, for this page and for the demo's.

    Args:
        rows: Every row, final or not, in the order to show them.
        folder: For the PNGs.
        metrics: Student -> rows of `metrics.jsonl`, one list per seed.
        cross: The cross table, where it was made.
    """
    finals = [row for row in rows if row.final]
    found = [
        _outcome(rows, cross, folder),
        _speed_and_fidelity(finals, folder),
        _budget(rows, metrics or {}, folder),
        _cross(cross, folder) if cross else None,
        motion_section(finals, folder),
        _pictures(finals),
    ]
    return [section for section in found if section is not None]


def _outcome(rows: Sequence[Row], cross: Mapping[str, Any] | None, folder: Path) -> Section | None:
    driven = [row for row in rows if row.final and row.driven]
    if not driven:
        return None
    first, *rest = verdict(rows, cross)
    return Section(
        heading="What came out",
        callouts=(Callout(text=first, points=rest, kind="verdict"),),
        figures=(
            Figure(
                path=draw_forest(driven, folder / "success.png"),
                caption="Dots: share of successful episodes; bars: Wilson's 95 % interval; dashed: the "
                "teacher at full steps. Hollow: sampled with plain Euler. Commitment: share of episodes that "
                "clearly take one of the demonstrated ways.",
                alt="Success with intervals of every run",
            ),
        ),
        tables=(_success_table(driven),),
    )


def _speed_and_fidelity(finals: Sequence[Row], folder: Path) -> Section | None:
    table = _fidelity_table(finals)
    speed = draw_latency([row for row in finals if row.driven], folder / "latency.png")
    if table is None and speed is None:
        return None
    return Section(
        heading="How fast, how faithful",
        paragraphs=(
            "Errors are squared differences to what the many-step teacher draws from the same noise: copying "
            "the teacher's draw is the student's job, while being near the expert on average also rewards a "
            "blur of all ways. A variance ratio near 0 means that the draws have collapsed to one; a "
            "sharpness ratio below 1 that the video is blurred.",
        ),
        figures=(Figure(path=speed, caption="Up and to the left is better. Squares: the teacher."),) if speed else (),
        tables=tuple(found for found in (table, _parts_table(finals)) if found is not None),
    )


def _budget(
    rows: Sequence[Row], metrics: Mapping[str, Sequence[Sequence[dict[str, Any]]]], folder: Path
) -> Section | None:
    budget = draw_budget(rows, folder / "budget.png")
    training = draw_training(metrics, rows, _streams(rows), folder / "training.png")
    figures = [Figure(path=budget, caption="Shaded: Wilson's 95 % interval.")] if budget else []
    figures += [Figure(path=training, caption="Running means; logarithmic.")] if training else []
    if not figures:
        return None
    return Section(
        heading="Over the distillation budget",
        paragraphs=(
            "A single budget misleads: a setting that starts badly may catch up. So look at where each curve "
            "starts, how fast it rises and where it ends. Losses of different consistency functions are not "
            "comparable, their course is.",
        ),
        figures=figures,
    )


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
                alt="Commitment by source of video and of actions",
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
        figures=[Figure(path=row.strips[0], caption=row.label, photo=True) for row in shown.values()],
    )


def _streams(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.nfe))


def _success_table(rows: Sequence[Row]) -> Table:
    tasks = list(dict.fromkeys(name for row in rows for name in row.tasks))
    several = {name for row in rows for name, share in row.tasks.items() if share.multimodal}
    committed = any(row.share().commitment is not None for row in rows)
    seeds = any(len(row.seed_rates) > 1 for row in rows)
    best = best_student(rows)
    body = []
    for row in rows:
        low, high = row.share().interval
        cells = [row.label, f"{row.share().rate:.2f} [{low:.2f}, {high:.2f}]"]
        if seeds:
            cells.append(" ".join(f"{rate:.2f}" for rate in row.seed_rates))
        if committed:
            commitment = row.share().commitment
            cells.append("" if commitment is None else f"{commitment:.2f}")
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
            *(["by seed"] if seeds else []),
            *(["commitment"] if committed else []),
            *(f"{t}{' *' if t in several else ''}" for t in tasks),
        ),
        rows=body,
        emphasised=frozenset({rows.index(best)}) if best is not None else frozenset(),
        caption=f"Share of successes with Wilson's 95 % interval, {span} episodes a row."
        + (" * has several ways." if several else "")
        + " v: video steps a chunk, a: action steps.",
    )


def _parts_table(rows: Sequence[Row]) -> Table | None:
    """Parameters part by part, of the models that tell their parts apart."""
    told = {row.run: row.parameters for row in rows if len(row.parameters) > 1}
    if not told:
        return None
    body = [[run, part, f"{count:,}"] for run, parts in told.items() for part, count in parts.items()]
    return Table(columns=("model", "part", "parameters"), rows=body, caption="What stays in the deployed model.")


def _fidelity_table(rows: Sequence[Row]) -> Table | None:
    measures = [(key, name, "open_loop") for key, name in _OPEN_LOOP.items() if any(key in r.open_loop for r in rows)]
    measures += [(key, name, "latency") for key, name in _LATENCY.items() if any(key in r.latency for r in rows)]
    if not measures:
        return None
    parts = sorted({key for row in rows for key in row.latency if key.startswith("part/")})
    measures += [(key, f"{key.removeprefix('part/').removesuffix('_ms')} ms", "latency") for key in parts]
    sized = any(row.parameters for row in rows)
    body = []
    for row in rows:
        values = [getattr(row, place).get(key) for key, _, place in measures]
        numbers = ["" if v is None else f"{v:.3g}" for v in values]
        body.append([row.label, str(row.total_nfe), *numbers, *([row.parameters_text] if sized else [])])
    return Table(
        columns=("model", "NFE", *(name for _, name, _ in measures), *(["parameters"] if sized else [])),
        rows=body,
        caption="NFE: network evaluations a chunk. Milliseconds as measured on the machine that evaluated."
        + (" Parameters: all that stay in the deployed model." if sized else ""),
    )
