# SPDX-License-Identifier: Apache-2.0
"""One colour a method, on every page and in every figure."""

import re
from collections.abc import Iterable, Sequence

from flashwam.report.against import teacher_of
from flashwam.report.beside import run_name
from flashwam.report.figures import INK, PALETTE
from flashwam.report.row import Row

__all__ = ["inked", "run_colours"]

_METHODS = dict(
    zip(
        (
            "pairs",
            "flash_wam",
            "linear_both",
            "naive_lcm",
            "on_policy",
            "best",
            "video_only",
            "video_only_reg",
            "pairs_cooled_actions",
            "pairs_cooled",
            "foresight_teacher_actions",
            "pairs_fresh",
            "pairs_own_pasts",
            "masked_reconstruction",
            "foresight",
            "masked_reconstruction_2d",
            "foresight_one_step",
            "tacd",
            "dmd2_joint",
            "dmd2_video_reg",
        ),
        PALETTE,
        strict=True,
    )
)
_SHADES = {
    "#0b6fb8": ("#394863", "#1a50b5"),
    "#d9730d": ("#8b3c32", "#520401"),
    "#00896b": ("#104040", "#014427"),
    "#b8558f": ("#e154ff", "#861a9a"),
    "#7a5195": ("#5712de", "#923dfc"),
    "#8c6d1f": ("#8c906d", "#725c40"),
    "#3aa0c9": ("#3c696d", "#4296fa"),
    "#c0392b": ("#e57695", "#9e7780"),
    "#1c2f73": ("#1a25c0", "#4c397c"),
    "#8fa31e": ("#666d4c", "#465639"),
    "#e2604a": ("#de0966", "#a85458"),
    "#005f4b": ("#12561f", "#2f7864"),
    "#6f86d6": ("#180292", "#261169"),
    "#6e1423": ("#ee2a14", "#3e1f1a"),
    "#2fa79a": ("#225051", "#4a99a7"),
    "#5b2a0c": ("#f5714f", "#c2827f"),
    "#ee5fb7": ("#471852", "#9b49ae"),
    "#3d3d00": ("#5b9539", "#6d9b56"),
    "#a06fd0": ("#5950d7", "#8061d4"),
    "#b98f00": ("#8a5e36", "#8c4f08"),
}
"""Neighbours of a colour: of nearly its hue, as far from all others as that allows, and as readable on white and on a
dark page."""
_ALL = (*PALETTE, *(shades[i] for i in range(2) for shades in _SHADES.values()))


def run_colours(rows: Sequence[Row], others: Iterable[str] = ()) -> dict[str, str]:
    """Run -> colour: ink for teachers and baselines, its own for a method of a shipped recipe, on every page.

    A run whose name has but a number more, such as naive_lcm_400, has its method's colour, or a neighbour where another
    has that; one whose name says more has a neighbour; others have what is left, in alphabetical order. Up to 60 runs
    of a page differ.

    Args:
        rows: Of the whole page, so that its figures agree.
        others: Names of students that stand in other sections of the page, or labels, which begin with the name.
    """
    ink = inked(rows)
    runs = sorted({*others, *(row.run for row in rows if row.run not in ink)})
    wanted = sorted((*_wanted(run), run) for run in runs)
    colours: dict[str, str] = {}
    free: list[str] = []
    for _, first, run in wanted:
        free = free or list(_ALL)
        colours[run] = next(colour for colour in (*first, *free) if colour in free)
        free.remove(colours[run])
    return dict.fromkeys(ink, INK) | colours


def inked(rows: Sequence[Row]) -> set[str]:
    """Runs that are drawn in ink: baselines, and teachers, but not what was trained to do without one."""
    full = {teacher.run for row in rows if (teacher := teacher_of(row, rows)) is not None}
    teachers = {row.run for row in rows if row.kind == "teacher" and "teacher" in run_name(row).split("_")}
    return {row.run for row in rows if row.kind == "baseline"} | teachers | full


def _wanted(run: str) -> tuple[int, tuple[str, ...]]:
    """(place in the order in which runs choose, colours that it would have, the first above all)."""
    head, *more = run.split(" ", 1)
    name = " ".join([head.rpartition("/")[2], *more])
    begun = [method for method in _METHODS if re.match(f"{method}([_ ]|$)", name)]
    if not begun:
        return 3, ()
    method = max(begun, key=len)
    own, near = _METHODS[method], _SHADES[_METHODS[method]]
    if name == method:
        return 0, (own, *near)
    if re.fullmatch(r"(_(seed)?\d+)?( \d.*)?", name.removeprefix(method)):
        return 2, (own, *reversed(near))
    return 1, (*near, own)
