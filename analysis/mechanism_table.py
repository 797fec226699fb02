# SPDX-License-Identifier: Apache-2.0
"""Tables and figure of the mechanism's study."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cells import TEACHER
from mechanism_cells import FOUR, HORIZONS, SEARCHED, TINY, Cell, Extent, Place
from mechanism_rows import Gap, Row, read_rows, take_apart

from flashwam.core.pairing import Paired
from flashwam.report.figures import INK, PALETTE, new_figure, plain_ticks, save_figure, tidy
from flashwam.system.errors import MissingFileError
from flashwam.system.files import write_whole

WEIGHTS = {"linear": "sigma", "lcm": "b of lcm"}
PARTS = {"all": "lcm - linear", "weight": "weight alone", "start": "start and reach alone", "together": "only together"}
COLOURS = dict(zip(("linear", "lcm"), PALETTE, strict=False))
KINDS = (TINY, SEARCHED)


def write_comparison(place: Place, extent: Extent, out: Path) -> None:
    """Writes `mechanism.md`, `mechanism.json` and `mechanism.png` of what there is.

    Raises:
        FileNotFoundError: There is nothing.
    """
    rows = read_rows(place, extent)
    if not rows:
        raise MissingFileError(f"{place.out} has no evaluations to compare; run python analysis/mechanism.py first")
    gaps, teacher = take_apart(rows), _teacher(rows)
    content = {"rows": [row.to_json(teacher) for row in rows], "gaps": [gap.to_json() for gap in gaps]}
    write_whole(out / "mechanism.json", json.dumps(content, indent=1) + "\n")
    write_whole(out / "mechanism.md", "\n\n".join([cells_table(rows), gaps_table(gaps)]) + "\n")
    if any(row.cell is not None for row in rows):
        draw_mechanism(rows, out / "mechanism.png")


def _teacher(rows: Sequence[Row]) -> Row | None:
    return next((row for row in rows if row.kind == TEACHER), None)


def cells_table(rows: Sequence[Row]) -> str:
    """One line a row: success by groups of tasks, each with its ratio to the teacher over the same scenes."""
    teacher, extent = _teacher(rows), _extent(row.cell for row in rows)
    heads = [*extent, "start and reach", "gradient weight", "learning rate", "sampler", "trainings"]
    heads += ["action error", "two-way", "of the teacher's", "left/right/none", "commitment"]
    heads += ["one-way", "of the teacher's"]
    lines = []
    for row in rows:
        two, one = (_success(row, several) for several in (True, False))
        committed = "" if row.commitment is None else f"{row.commitment:.2f}"
        error = f"{sum(row.errors) / len(row.errors):.4f}" if row.errors else ""
        ways = "/".join(map(str, row.ways))
        ratios = [_interval(row.ratio(teacher, several)) for several in (True, False)]
        named = [*_named(row, extent), str(row.trainings)]
        lines.append([*named, error, two, ratios[0], ways, committed, one, ratios[1]])
    return _table(heads, lines, text=len(extent) + 4)


def _named(row: Row, extent: Sequence[str]) -> list[str]:
    cell = row.cell
    if cell is None:
        return [*("" for _ in extent), row.kind, "", "", row.evaluations[0].setting]
    rate = f"{row.rate:g} ({_rate(cell, row.kind)})"
    return [*_block(cell, extent), cell.start, WEIGHTS[cell.weight], rate, row.sampler]


def _extent(cells: Iterable[Cell | None]) -> list[str]:
    """Names of what tells blocks apart; which streams vary is among it where there are several answers."""
    several = len({cell.varied for cell in cells if cell is not None}) > 1
    return [*(["varied"] if several else []), "anchors", "steps", "horizons"]


def _block(cell: Cell, extent: Sequence[str]) -> list[str]:
    return [str(getattr(cell, name)) for name in extent]


def gaps_table(gaps: Sequence[Gap]) -> str:
    """One line a gap: the difference between `lcm` and `linear`, and which part of it each change makes alone."""
    extent = _extent(gap.cell for gap in gaps)
    heads = [*extent, "learning rate", "trainings"]
    heads += [f"action error, {told}" for told in PARTS.values()]
    heads += [f"two-way points, {PARTS[part]}" for part in ("all", "weight", "start")]
    lines = []
    for gap in gaps:
        line = [*_block(gap.cell, extent), _rate(gap.cell, gap.kind), str(gap.trainings)]
        shares = gap.error and _has_shares(gap.error)
        for part in PARTS:
            share = f" ({gap.error[part] / gap.error['all']:.0%})" if shares and part != "all" else ""
            line.append(f"{gap.error[part]:+.4f}{share}" if gap.error else "")
        line += [_interval(gap.two_way.get(part), 100) for part in ("all", "weight", "start")]
        lines.append(line)
    return _table(heads, lines, text=len(extent) + 1)


def _rate(cell: Cell, kind: str) -> str:
    """The kind of a learning rate: a cell may take over what was searched for another budget."""
    return "taken over" if kind == SEARCHED and cell.searched != cell else kind


def _has_shares(error: Mapping[str, float]) -> bool:
    """Tells whether a gap is large enough beside its parts that these are shares of anything."""
    return 3 * abs(error["all"]) >= max(abs(value) for part, value in error.items() if part != "all")


def _success(row: Row, several: bool) -> str:
    won, episodes = row.successes(several)
    return f"{won}/{episodes}" if episodes else ""


def _interval(paired: Paired | None, scale: float = 1.0) -> str:
    """The value and its 95 % interval: a ratio, or points with their sign."""
    if paired is None:
        return ""
    form = "{:.2f} [{:.2f}, {:.2f}]" if scale == 1 else "{:+.0f} [{:+.0f}, {:+.0f}]"
    return form.format(*(scale * value for value in (paired.value, paired.low, paired.high)))


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]], *, text: int) -> str:
    rule = ["---"] * text + ["---:"] * (len(heads) - text)
    return "\n".join("| " + " | ".join(line) + " |" for line in (heads, rule, *lines))


def draw_mechanism(rows: Sequence[Row], path: Path) -> Path:
    """Draws action error and success on the two-way tasks of every cell, a column for each block."""
    blocks: dict[str, Cell] = {}
    for row in rows:
        if row.cell is not None:
            blocks.setdefault(row.cell.block, row.cell)
    several = "varied" in _extent(blocks.values())
    with new_figure(max(6.4, 1.0 + 2.3 * len(blocks)), 6.0) as figure:
        grid = figure.subplots(2, len(blocks), sharey="row", squeeze=False)
        for (top, bottom), (block, cell) in zip(grid.T, blocks.items(), strict=True):
            title = f"{cell.anchors} anchors,\n{cell.steps:,} steps" + (f", {cell.varied}" if several else "")
            if cell.horizons != HORIZONS:
                title += f",\nEMA over 1/{cell.horizons}"
            top.set_title(title, fontsize=9.5)
            own = [r for r in rows if r.cell is not None and r.cell.block == block and r.sampler == "own"]
            for row in own:
                _draw_row(top, row, row.errors)
                _draw_row(bottom, row, _shares(row))
            for axes in (top, bottom):
                axes.set_xticks(range(len(KINDS)), [f"rate\n{_rate(cell, kind)}" for kind in KINDS])
                axes.set_xlim(-0.5, len(KINDS) - 0.5)
                tidy(axes)
            teacher = _teacher(rows)
            if teacher is not None:
                won, episodes = teacher.successes(True)
                bottom.axhline(won / max(1, episodes), color=INK, lw=0.9, ls=(0, (2, 2)))
        grid[0, 0].set_yscale("log")
        grid[0, 0].minorticks_off()
        for axes in grid[0]:
            axes.set_yticks(*plain_ticks(*grid[0, 0].get_ylim()))
        grid[0, 0].set_ylabel("action error\nto the teacher's draws")
        grid[1, 0].set_ylabel("success,\ntwo-way tasks")
        grid[1, 0].set_ylim(-0.03, 1.03)
        marks = [
            grid[0, 0].plot([], [], ls="", marker="o", ms=7, mew=1.6, color=COLOURS[start], mfc=_fill(start, weight))[0]
            for start, weight in FOUR
        ]
        (dashed,) = grid[0, 0].plot([], [], color=INK, lw=0.9, ls=(0, (2, 2)))
        labels = [f"function {start}, weight {WEIGHTS[weight]}" for start, weight in FOUR]
        figure.legend(
            [*marks, dashed],
            [*labels, "teacher, 10 + 10 steps"],
            loc="outside lower center",
            ncols=2,
            frameon=False,
            fontsize=9,
            title="small dots: single trainings",
            title_fontsize=9,
        )
        return save_figure(figure, path)


def _shares(row: Row) -> list[float]:
    """Success on the two-way tasks, a share for every seed."""
    counts = [row.of_seeds({one.seed}).successes(True) for one in row.evaluations]
    return [won / episodes for won, episodes in counts if episodes]


def _fill(start: str, weight: str) -> str:
    """Filled where the levels weigh as the start's own function has them."""
    return COLOURS[start] if start == weight else "white"


def _draw_row(axes: Any, row: Row, values: Sequence[float]) -> None:
    assert row.cell is not None
    if not values:
        return
    place = KINDS.index(row.kind) + (FOUR.index((row.cell.start, row.cell.weight)) - 1.5) * 0.16
    colour, fill = COLOURS[row.cell.start], _fill(row.cell.start, row.cell.weight)
    axes.plot([place] * len(values), values, ".", ms=3.5, color=colour, alpha=0.7)
    axes.plot([place], [sum(values) / len(values)], "o", ms=7, color=colour, mfc=fill, mew=1.6)
