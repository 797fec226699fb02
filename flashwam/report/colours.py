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
    "#0b6fb8": ("#2b1dda", "#180292"),
    "#d9730d": ("#714320", "#603e36"),
    "#00896b": ("#10403f", "#6a8d79"),
    "#b8558f": ("#e850f6", "#832a8c"),
    "#7a5195": ("#5b12a0", "#464070"),
    "#8c6d1f": ("#8f8f6c", "#b17434"),
    "#3aa0c9": ("#435a73", "#3098f9"),
    "#c0392b": ("#520401", "#3e1f1a"),
    "#1c2f73": ("#783afa", "#2c0d67"),
    "#8fa31e": ("#476c40", "#4d5434"),
    "#e2604a": ("#a4685d", "#7f4545"),
    "#005f4b": ("#0f6e6e", "#18a750"),
    "#6f86d6": ("#374ab5", "#7a8dab"),
    "#6e1423": ("#ce778a", "#730e43"),
    "#2fa79a": ("#224f55", "#5d9c7e"),
    "#5b2a0c": ("#835f54", "#782a26"),
    "#ee5fb7": ("#49164f", "#bc3ea9"),
    "#3d3d00": ("#6a9148", "#627039"),
    "#a06fd0": ("#ae3ad1", "#4609bb"),
    "#b98f00": ("#6c6126", "#5a4403"),
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
