# SPDX-License-Identifier: Apache-2.0
"""Rows of a comparison held against each other and against their teacher."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flashwam.core.pairing import paired_ratio, paired_share_difference
from flashwam.core.stats import difference_interval
from flashwam.report.comparison import Comparison
from flashwam.report.row import GROUPS, Row, Share
from flashwam.report.study import find_study

__all__ = [
    "basis_text",
    "common_teacher",
    "compare_rows",
    "driven_groups",
    "fair_shares",
    "full_teacher",
    "keep_of_teacher",
    "rank",
    "teacher_of",
    "with_ratios",
]


def full_teacher(rows: Sequence[Row]) -> Row | None:
    """The teacher at its most steps, from noise of its own temperature; of one that was driven with guidance and
    without, as it is without."""
    teachers = (r for r in rows if r.kind == "teacher" and r.final)
    return max(teachers, key=lambda r: (r.sampler == "own", r.total_nfe, not r.guided), default=None)


def teacher_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """The full teacher that a row is held against, of those of its family that were driven under its convention: the
    one that its recipe names; else one beside it, that other recipes name, or of a student's own network, where there
    are such."""
    alike = [other for other in rows if other.kind == "teacher" and other.final and other.driven_like(row)]
    own = [other for other in alike if not row.family or other.family in ("", row.family)] or alike
    named = frozenset[str]().union(*(other.taught_by for other in rows))
    places = {*map(_place, row.folders)}
    for likely in (
        lambda other: not row.taught_by.isdisjoint(_names(other)),
        lambda other: not places.isdisjoint(map(_place, other.folders)),
        lambda other: not named.isdisjoint(_names(other)),
        lambda other: row.kind == "student" and bool(row.parameters) and row.parameters == other.parameters,
    ):
        own = [other for other in own if likely(other)] or own
    return full_teacher(own)


def _names(row: Row) -> set[str]:
    return {folder.name for folder in row.folders}


def _place(folder: Path) -> Path:
    """The study, or the folder of runs, that a run lies in."""
    return find_study(folder) or folder.parent


def common_teacher(rows: Sequence[Row]) -> Row | None:
    """The teacher of all rows; None where they have several."""
    found = [teacher_of(row, rows) for row in rows if row.kind != "baseline"]
    return found[0] if found and all(teacher is found[0] for teacher in found) else None


def with_ratios(rows: Sequence[Row], teacher: Row | None = None) -> list[Row]:
    """Fills in, group by group, which part of its teacher's success each driven row keeps.

    Args:
        rows: Of one comparison.
        teacher: What is held against; if None, each one's own, see `teacher_of`.
    """
    driven = [row for row in rows if row.driven]
    goals = [teacher_of(row, driven) if teacher is None else teacher for row in rows]
    return [
        row if goal is None or goal is row else replace(row, kept=_kept(row, goal))
        for row, goal in zip(rows, goals, strict=True)
    ]


def _kept(row: Row, teacher: Row) -> dict[str, Comparison]:
    return {name: found for name in GROUPS if (found := keep_of_teacher(row, teacher, name)) is not None}


def keep_of_teacher(row: Row, teacher: Row, group: str) -> Comparison | None:
    """Success over the teacher's in the same scenes, with its paired interval.

    Where evaluations do not tell each episode's outcome it is that of the shares over common seeds, with no interval;
    None where one of the two was not driven, or both were under different conventions, or the teacher never succeeds.
    """
    if not row.driven_like(teacher):
        return None
    several = GROUPS[group]
    found = paired_ratio(row.pairs(teacher, multimodal=several))
    if found is not None:
        return Comparison.of_pairs(found)
    ours, theirs = row.beside(teacher).share(multimodal=several), teacher.beside(row).share(multimodal=several)
    if not ours.episodes or not theirs.successes:
        return None
    return Comparison(
        value=ours.rate / theirs.rate,
        low=None,
        high=None,
        paired=False,
        trainings=row.trainings,
        episodes=ours.episodes,
    )


def compare_rows(first: Row, second: Row, *, multimodal: bool | None = None) -> Comparison | None:
    """Share of successes of the first less that of the second.

    Episodes are paired by scene and training where both tell them; else the shares over common seeds have Newcombe's
    interval, which knows of no pairs and of no trainings. None where one of the two was not driven, or both were under
    different conventions.

    Args:
        first: A row.
        second: Another.
        multimodal: Over the tasks with several ways (True) or one (False) alone.
    """
    if not first.driven_like(second):
        return None
    pairs = first.pairs(second, multimodal=multimodal)
    if pairs:
        return Comparison.of_pairs(paired_share_difference(pairs))
    ours, theirs = (a.beside(b).share(multimodal=multimodal) for a, b in ((first, second), (second, first)))
    if not ours.episodes or not theirs.episodes:
        return None
    low, high = difference_interval((ours.successes, ours.episodes), (theirs.successes, theirs.episodes))
    return Comparison(
        value=ours.rate - theirs.rate,
        low=low,
        high=high,
        paired=False,
        trainings=min(first.trainings, second.trainings),
        episodes=ours.episodes,
    )


def basis_text(found: Comparison) -> str:
    """Says in a sentence what an interval rests on: trainings, episodes, pairing."""
    trainings = f"{found.trainings} training{'s' * (found.trainings > 1)}"
    over = f"{trainings}, {found.episodes:,} episodes"
    if not found.paired:
        return (
            f"{over}, not paired: these evaluations do not tell the outcome of each episode, so no interval holds the "
            "spread of trainings."
        )
    held = "the spread of trainings is not in the intervals" if found.trainings == 1 else "intervals hold both"
    return f"{over}, each paired with the other's in the same scene; {held}."


def driven_groups(row: Row) -> list[str]:
    """Names of the groups of tasks that a row was driven on."""
    return [name for name, several in GROUPS.items() if row.share(multimodal=several).episodes]


def fair_shares(row: Row, other: Row, group: str) -> tuple[Share, Share]:
    """Success of both on a group of tasks: in the scenes that both have, or, where nothing is paired, over the seeds
    and the tasks that both have."""
    several = GROUPS[group]
    counts = row.pairs(other, multimodal=several).counts
    if counts:
        ours, theirs, episodes = (sum(numbers) for numbers in zip(*counts, strict=True))
        return Share(successes=ours, episodes=episodes), Share(successes=theirs, episodes=episodes)
    return row.beside(other).share(multimodal=several), other.beside(row).share(multimodal=several)


def rank(row: Row, teacher: Row | None) -> tuple[float, ...]:
    """A key that sorts the best first: by the weaker group of tasks, since what helps the one often costs the other,
    then by all."""
    shares = {name: row.share(multimodal=several) for name, several in GROUPS.items()}
    goals = {name: 1.0 if teacher is None else teacher.share(multimodal=GROUPS[name]).rate or 1.0 for name in shares}
    weakest = min(share.rate / goals[name] for name, share in shares.items() if share.episodes)
    return -weakest, -row.share().rate, -(row.share().commitment or 0.0)
