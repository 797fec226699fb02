# SPDX-License-Identifier: Apache-2.0
"""Different ways to a cheap student side by side: success over latency by route, and whether published orders hold."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashwam.core.stats import mean_interval, paired_difference
from flashwam.report.against import full_teacher, with_ratios
from flashwam.report.compare import measured_rows
from flashwam.report.figures import (
    INK,
    MUTED,
    PALETTE,
    label_points,
    legend_below,
    new_figure,
    plain_ticks,
    save_figure,
    tidy,
)
from flashwam.report.results import read_evaluations
from flashwam.report.row import GROUPS, Row
from flashwam.report.table import format_table, table_notes
from flashwam.run.evaluation import Evaluation
from flashwam.system.errors import InputError
from flashwam.system.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["AS_FAST", "Order", "best_at_each_latency", "check_orders", "draw_routes", "order_lines", "write_routes"]

AS_FAST = 1.05
"""Times that differ by less than this factor are the same: identical networks differ so from run to run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A paper's claim that one run succeeds more often than another.

    Args:
        better, worse: Names of runs.
        claim: What the paper says, in a few words.
        published: Its two numbers, as text.
    """

    better: str
    worse: str
    claim: str
    published: str


def check_orders(orders: Sequence[Order], results: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Compares runs episode by episode, over the seeds that both have.

    An order holds, or is reversed, where the paired interval leaves out 0, whichever seed is left out of it, and
    Student's t interval over the trainings does too; else it is open. Episodes tell trained models apart; that a recipe
    is better than another must not rest on few trainings that differ by more.

    Args:
        orders: What papers report.
        results: Evaluations as `read_evaluations` gives them, one setting a run.

    Returns:
        Per order with seeds in common: its fields, "difference", "low" and "high" over episodes, "by_seed", "trainings"
        (the interval over them, None for one), "episodes" and "verdict", which is "holds", "reversed" or "open".
    """
    outcomes: dict[str, dict[int | None, list[bool]]] = {}
    for result in results:
        episodes = [bool(o) for task in sorted(result.tasks) for o in result.tasks[task].outcomes or ()]
        if episodes:
            outcomes.setdefault(result.run, {})[result.seed] = episodes
    checked = []
    for order in orders:
        first, second = outcomes.get(order.better, {}), outcomes.get(order.worse, {})
        seeds = sorted(set(first) & set(second), key=lambda seed: -1 if seed is None else seed)
        if not seeds:
            continue
        difference, low, high = _over(first, second, seeds)
        by_seed = [paired_difference(first[seed], second[seed])[0] for seed in seeds]
        fewer = [[seed for seed in seeds if seed != left] for left in seeds] if len(seeds) > 1 else []
        intervals = [(low, high), *(_over(first, second, some)[1:] for some in fewer)]
        over_trainings = mean_interval(by_seed)
        verdict = "open"
        if all(lowest > 0 for lowest, _ in (*intervals, over_trainings)):
            verdict = "holds"
        elif all(highest < 0 for _, highest in (*intervals, over_trainings)):
            verdict = "reversed"
        checked.append(
            {
                **asdict(order),
                "difference": difference,
                "low": low,
                "high": high,
                "by_seed": by_seed,
                "trainings": list(over_trainings) if len(by_seed) > 1 else None,
                "episodes": sum(len(first[seed]) for seed in seeds),
                "verdict": verdict,
            }
        )
    return checked


def _over(
    first: Mapping[int | None, Sequence[bool]],
    second: Mapping[int | None, Sequence[bool]],
    seeds: Sequence[int | None],
) -> tuple[float, float, float]:
    ours, theirs = ([won for seed in seeds for won in run[seed]] for run in (first, second))
    return paired_difference(ours, theirs)


def order_lines(checked: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of `check_orders`."""
    lines = ["| claim | published | here, points | by seed | over trainings | |", "|---|---|---:|---:|---:|---|"]
    for one in checked:
        here = f"{_points(one['difference'])} ({_points(one['low'])} to {_points(one['high'])})"
        seeds = ", ".join(map(_points, one["by_seed"]))
        trainings = " to ".join(map(_points, one["trainings"] or ())) or "-"
        lines.append(f"| {one['claim']} | {one['published']} | {here} | {seeds} | {trainings} | {one['verdict']} |")
    return "\n".join(lines)


def _points(share: float) -> str:
    return f"{round(100 * share):+d}"


def best_at_each_latency(rows: Sequence[Row], *, several: bool | None = None) -> list[Row]:
    """Rows that no other is as fast and more successful than, fastest first; see `AS_FAST`.

    Args:
        rows: With "chunk_ms".
        several: Success on the two-way tasks, on the one-way tasks, or where None on all.
    """

    def rate(row: Row) -> float:
        return row.share(multimodal=several).rate

    def beaten(row: Row) -> bool:
        return any(
            other.latency["chunk_ms"] <= AS_FAST * row.latency["chunk_ms"] and rate(other) > rate(row) for other in rows
        )

    front: dict[float, Row] = {}
    for row in sorted(rows, key=lambda r: r.latency["chunk_ms"]):
        if not beaten(row):
            front.setdefault(rate(row), row)
    return list(front.values())


def draw_routes(rows: Sequence[Row], routes: Mapping[str, Sequence[str]], path: Path) -> Path:
    """Success against milliseconds a chunk, a panel a group of tasks and one colour a route; a line through what is
    worth deploying.

    Args:
        rows: Driven rows with "chunk_ms".
        routes: Route -> its runs, in the order of the legend; the first of them that has a row is drawn large and,
            like every run on the line, by name. Rows of other runs are left out.
        path: The PNG.

    Raises:
        ValueError: No row has a latency and a route.
    """
    route_of = {run: route for route, runs in routes.items() for run in runs}
    shown = [row for row in rows if row.run in route_of and row.latency.get("chunk_ms")]
    if not shown:
        raise InputError(f"no evaluated run with a latency belongs to a route; the routes are {dict(routes)}")
    colours = {route: INK if i == 0 else PALETTE[i - 1] for i, route in enumerate(routes)}
    times = [row.latency["chunk_ms"] for row in shown]
    low, high = min(times) / 1.6, max(times) * 2.2
    groups = {
        name: driven
        for name, several in GROUPS.items()
        if (driven := [row for row in shown if row.share(multimodal=several).episodes])
    }
    with new_figure(8.4, 1.0 + 4.0 * len(groups)) as figure:
        panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False)[:, 0]
        labels = []
        for axes, (group, driven) in zip(panels, groups.items(), strict=True):
            axes.set(xscale="log", xlim=(low, high))
            axes.set_xticks(*plain_ticks(low, high))
            axes.minorticks_off()
            axes.set_ylabel(f"success, {group} tasks")
            points = [(row, colours[route_of[row.run]]) for row in driven]
            labels.append(_draw_group(axes, points, GROUPS[group], routes))
            tidy(axes, grid="both")
        dots = [panels[0].plot([], [], "o", ms=7, color=colour)[0] for colour in colours.values()]
        legend_below(figure, dots, list(colours), most=3)
        panels[0].set_title("Success against latency, by the way the student was made")
        panels[-1].set_xlabel("milliseconds a chunk (logarithmic; left is better)")
        # Names find their places once the legend has taken its own.
        for axes, named in zip(panels, labels, strict=True):
            label_points(axes, named)
        return save_figure(figure, path)


def _draw_group(
    axes: "Axes", points: Sequence[tuple[Row, str]], several: bool, routes: Mapping[str, Sequence[str]]
) -> list[tuple[float, float, str, str]]:
    """Draws one group's rows, each in its colour, and the line. The first of every route, and those on the line, are
    large with their interval, and named by what is given back: x, y, name or "", colour."""
    measured = {row.run for row, _ in points}
    heads = {next((run for run in runs if run in measured), None) for runs in routes.values()}
    front = best_at_each_latency([row for row, _ in points], several=several)
    shares = [row.share(multimodal=several) for row in front]
    line = [*(row.latency["chunk_ms"] for row in front), axes.get_xlim()[1]]
    ends = [*(share.rate for share in shares), shares[-1].rate]
    axes.step(line, ends, where="post", color=MUTED, lw=1.2, ls=(0, (3, 2)), zorder=1)
    labels = []
    for row, colour in points:
        share, main = row.share(multimodal=several), row.run in heads or row in front
        at = (row.latency["chunk_ms"], share.rate)
        if main:
            axes.plot([at[0]] * 2, share.interval, color=colour, lw=1.4, alpha=0.5, zorder=2)
        size, alpha = (9, 1) if main else (5.5, 0.55)
        axes.plot(*at, "o", ms=size, color=colour, alpha=alpha, mec="white", mew=0.9, zorder=3)
        labels.append((*at, row.label if main else "", colour))
    rates = [rate for _, rate, _, _ in labels]
    axes.set_ylim(max(-0.02, min(rates) - 0.06), min(1.04, max(rates) + 0.07))
    return labels


def write_routes(
    runs: Sequence[Path | str],
    *,
    out: Path,
    routes: Mapping[str, Sequence[str]],
    orders: Sequence[Order],
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes `students.json`, `students.md` (a table a route, notes, then the published orders) and `routes.png`.

    Args:
        runs: See `flashwam.report.compare.compare`.
        out: Folder to write into; `latency.json` and `costs.json` there are read.
        routes: See `draw_routes`; they order the table too. Speed-ups are against the teacher of the first.
        orders: What papers report.
        notes: Markdown that belongs to the tables.

    Returns:
        What `students.json` holds: "rows" and "orders".
    """
    results = [result for run in runs for result in read_evaluations(run)]
    rows = [row for row in measured_rows(results, out) if row.final and row.sampler == "own" and row.driven]
    checked = check_orders(orders, results)
    first = next(iter(routes.values()))
    rows = with_ratios(rows, full_teacher([row for row in rows if row.run in first]))
    grouped = {route: [r for name in names for r in rows if r.run == name] for route, names in routes.items()}
    teacher = full_teacher(next(iter(grouped.values())))
    parts = [
        f"**{route}**\n\n{format_table(some, markdown=True, teacher=teacher)}"
        for route, some in grouped.items()
        if some
    ]
    parts.append("\n".join(f"- {note}" for note in table_notes(rows)))
    parts += notes
    if checked:
        parts.append(order_lines(checked))
    write_whole(out / "students.md", "\n\n".join(parts) + "\n")
    draw_routes(rows, routes, out / "routes.png")
    result = {"rows": [row.to_json() for some in grouped.values() for row in some], "orders": checked}
    write_whole(out / "students.json", json.dumps(result, indent=1) + "\n")
    return result
