# SPDX-License-Identifier: Apache-2.0
"""Success and action error of students along their trainings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from flashwam.report.against import common_teacher
from flashwam.report.row import Row, Share

__all__ = ["Budget", "budget"]

T = TypeVar("T")

_ERROR = "action_error_teacher"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Courses of students over distillation steps, at the fewest steps of inference that have one.

    Args:
        steps_text: Those steps, such as "1v/2a".
        tasks: "two-way tasks", or "all tasks" where there are none with several ways.
        success: Run -> (step, share) from the first on; empty where no run was driven at several.
        error: Run -> (step, squared error to the teacher's actions); the same.
        teacher: Its label and success at full steps; None where it was not driven.
        on_the_way: Trainings that points before the last pool, without repeats.
        at_the_end: Those that last points pool.
        convention: Under which all of it was driven, where there are several; else "".
    """

    steps_text: str
    tasks: str
    success: Mapping[str, Sequence[tuple[int, Share]]]
    error: Mapping[str, Sequence[tuple[int, float]]]
    teacher: tuple[str, float] | None
    on_the_way: tuple[int, ...]
    at_the_end: tuple[int, ...]
    convention: str

    @property
    def convention_text(self) -> str:
        """Says in a sentence under which convention, where that must be said."""
        return f" All of it under the convention {self.convention}; no other is shown." if self.convention else ""

    @property
    def trainings_text(self) -> str:
        """Says in a sentence of how many trainings the points are."""
        if self.on_the_way == self.at_the_end == (1,):
            return "Each curve is one training with one schedule."
        before, last = (" or ".join(map(str, counts)) for counts in (self.on_the_way, self.at_the_end))
        if before == last:
            return f"Every point pools {before} trainings of one schedule."
        plural = "s" * (before != "1")
        return f"Points on the way are of {before} training{plural}, those at the end of {last}, all with one schedule."


def budget(rows: Sequence[Row]) -> Budget | None:
    """Finds the courses among rows; None where no run was measured at several of its steps.

    Args:
        rows: Those on the way to a run's last step too; a run with one step alone has no course.
    """
    conventions = dict.fromkeys(row.convention for row in rows)
    courses = (_budget([row for row in rows if row.convention in (name, "")], name) for name in conventions)
    return next((course for course in courses if course is not None), None)


def _budget(rows: Sequence[Row], convention: str) -> Budget | None:
    found_at: dict[tuple[int, str], dict[str, list[tuple[int, Row]]]] = {}
    for row in rows:
        if row.kind == "student" and row.sampler == "own" and row.step is not None:
            found_at.setdefault((row.total_nfe, row.steps_text), {}).setdefault(row.run, []).append((row.step, row))
    several = {key: {run: found for run, found in runs.items() if len(found) > 1} for key, runs in found_at.items()}
    several = {key: runs for key, runs in several.items() if runs}
    if not several:
        return None
    curves = {run: sorted(found, key=lambda at: at[0]) for run, found in several[min(several)].items()}
    chosen = True if any(row.share(multimodal=True).episodes for row in rows) else None
    success = {
        run: [(step, share) for step, row in found if (share := row.share(multimodal=chosen)).episodes]
        for run, found in curves.items()
    }
    error = {
        run: [(step, row.open_loop[_ERROR]) for step, row in found if _ERROR in row.open_loop]
        for run, found in curves.items()
    }
    shares, errors = _courses(success), _courses(error)
    if not shares and not errors:
        return None
    full = common_teacher(rows)
    goal = None if full is None else full.share(multimodal=chosen)
    return Budget(
        steps_text=min(several)[1],
        tasks="all tasks" if chosen is None else "two-way tasks",
        success=shares,
        error=errors,
        teacher=(full.label, goal.rate) if full is not None and goal is not None and goal.episodes else None,
        on_the_way=tuple(sorted({row.trainings for found in curves.values() for _, row in found[:-1]})),
        at_the_end=tuple(sorted({found[-1][1].trainings for found in curves.values()})),
        convention=convention,
    )


def _courses(found: Mapping[str, Sequence[tuple[int, T]]]) -> dict[str, Sequence[tuple[int, T]]]:
    """Those with a point, where any has several."""
    if not any(len(points) > 1 for points in found.values()):
        return {}
    return {run: points for run, points in found.items() if points}
