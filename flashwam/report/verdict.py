# SPDX-License-Identifier: Apache-2.0
"""The verdict of a comparison, in sentences computed from its numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from flashwam.core.stats import difference_interval
from flashwam.report.motion import correlation_text, motion_link
from flashwam.report.results import Row, Share

__all__ = ["best_student", "compare_shares", "cross_losses", "full_teacher", "verdict"]

COLLAPSED = 0.5
"""A stream whose draws vary less than this share of the teacher's has collapsed."""
BLURRED = 0.7
"""Decoded video with less than this share of the teacher's gradients is blurred."""


def full_teacher(rows: Sequence[Row]) -> Row | None:
    """The teacher at its most steps."""
    return max((r for r in rows if r.kind == "teacher" and r.final), key=lambda r: r.total_nfe, default=None)


def _rank(row: Row) -> tuple[float, float]:
    return -row.share().rate, -(row.share().commitment or 0.0)


def _students(rows: Sequence[Row]) -> list[Row]:
    finals = [r for r in rows if r.kind == "student" and r.final and r.sampler == "own"]
    finals = [r for r in finals if r.driven]
    fewest = min((r.total_nfe for r in finals), default=0)
    return sorted((r for r in finals if r.total_nfe == fewest), key=_rank)


def best_student(rows: Sequence[Row]) -> Row | None:
    """The most successful student at the fewest steps, sampled with its own function."""
    return next(iter(_students(rows)), None)


def compare_shares(first: Share, second: Share) -> dict[str, Any]:
    """first - second with its 95 % interval, and whether that interval leaves out 0."""
    low, high = difference_interval((first.successes, first.episodes), (second.successes, second.episodes))
    return {"difference": first.rate - second.rate, "low": low, "high": high, "distinct": low > 0 or high < 0}


def _percent(share: Share) -> str:
    low, high = share.interval
    return f"{share.rate:.0%} of {share.episodes} episodes (95 % interval {low:.0%} to {high:.0%})"


def _signed(share: float) -> str:
    points = 100 * share
    return f"{points:+.1f}" if abs(points) < 1.5 else f"{points:+.0f}"


def _points(comparison: Mapping[str, Any]) -> str:
    low, high = _signed(comparison["low"]), _signed(comparison["high"])
    return f"{_signed(comparison['difference'])} points (95 % interval {low} to {high})"


def _fairly(row: Row, other: Row, *, multimodal: bool | None = None) -> tuple[Share, Share]:
    """Both over the seeds that both have."""
    return row.beside(other).share(multimodal=multimodal), other.beside(row).share(multimodal=multimodal)


def _against_teacher(best: Row, teacher: Row) -> str:
    ours, theirs = _fairly(best, teacher)
    comparison = compare_shares(ours, theirs)
    kept = ours.rate / theirs.rate if theirs.rate else float("nan")
    text = f"**{best.label}** succeeds in {_percent(ours)}; {teacher.label} in {_percent(theirs)}"
    if len(best.seeds) != len(teacher.seeds):
        text += " of the same seeds"
    if theirs.rate:
        text += f", so it keeps {kept:.2f} of its teacher's success"
    fast, slow = best.latency.get("chunk_ms"), teacher.latency.get("chunk_ms")
    if fast and slow:
        text += f", {slow / fast:.1f} times as fast ({fast:.3g} against {slow:.3g} ms a chunk)"
    if comparison["distinct"]:
        return f"{text}. The difference, {_points(comparison)}, is outside what chance explains."
    return f"{text}. The difference, {_points(comparison)}, is within what this many episodes can tell."


def _among_students(students: Sequence[Row]) -> str:
    best = students[0]
    groups: dict[bool, list[str]] = {}
    for other in students[1:]:
        ours, theirs = _fairly(best, other)
        comparison = compare_shares(ours, theirs)
        points, low, high = (_signed(comparison[key]) for key in ("difference", "low", "high"))
        text = f"{other.run} ({theirs.rate:.0%}; {points} points, {low} to {high})"
        groups.setdefault(comparison["distinct"], []).append(text)
    parts = [
        f"{'surely' if sure else 'not surely'} ahead of {', '.join(groups[sure])}"
        for sure in (True, False)
        if sure in groups
    ]
    return f"At {best.steps_text} {best.run} is {'; '.join(parts)}."


def _against_untrained(best: Row, rows: Sequence[Row]) -> str | None:
    control = next((r for r in rows if r.kind == "teacher" and dict(r.nfe) == dict(best.nfe)), None)
    if control is None:
        return None
    ours, theirs = _fairly(best, control)
    comparison = compare_shares(ours, theirs)
    text = f"The control, the teacher without any distillation at {control.steps_text}, reaches {theirs.rate:.0%}"
    if comparison["distinct"] and comparison["difference"] > 0:
        return f"{text}: distillation gains {_points(comparison)}."
    if comparison["distinct"]:
        return f"{text}: distillation costs {_points(comparison)}. Something is wrong with these students."
    return f"{text}, {_points(comparison)}: on these tasks success alone cannot tell distillation from none."


def _commitment(best: Row, teacher: Row | None, rows: Sequence[Row]) -> str | None:
    several = best.share(multimodal=True)
    if not several.episodes or several.commitment is None:
        return None
    text = (
        f"On the tasks with several ways {best.label} commits to one in {several.commitment:.0%} of the "
        f"episodes and succeeds in {several.rate:.0%}"
    )
    if teacher is not None and (goal := teacher.beside(best).share(multimodal=True)).commitment is not None:
        text += f"; the teacher in {goal.commitment:.0%} and {goal.rate:.0%}"
    shares = [(r.share(multimodal=True).commitment, r.run) for r in _students(rows)[1:]]
    others = [(share, run) for share, run in shares if share is not None]
    if others:
        most, run = max(others, key=lambda other: other[0])
        if most > several.commitment:
            text += f". {run} commits more often, in {most:.0%}"
    return text + "."


def _euler_cost(rows: Sequence[Row]) -> list[str]:
    own = {(r.run, r.steps_text): r for r in rows if r.kind == "student" and r.final and r.sampler == "own"}
    found = []
    for row in rows:
        match = own.get((row.run, row.steps_text))
        if row.kind == "student" and row.final and row.sampler == "euler" and match is not None:
            comparison = compare_shares(*_fairly(row, match))
            sure = "" if comparison["distinct"] else ", within chance"
            found.append(f"{row.run} {row.steps_text}: {_points(comparison)}{sure}")
    return (
        ["Sampling with plain Euler instead of the student's own function: " + "; ".join(found) + "."] if found else []
    )


def _imagination(best: Row | None, teacher: Row | None) -> list[str]:
    found = []
    for row in (teacher, best):
        link = motion_link(row) if row is not None else None
        if row is not None and link is not None and link.correlation is not None:
            _, low, high = link.correlation
            tie = "goes with" if low > 0 else "goes against" if high < 0 else "tells nothing of"
            found.append(
                f"{row.label} foresees motion with similarity {link.similarity:.2f}, and within tasks that {tie} "
                f"success (r {correlation_text(link.correlation)}"
                + (f", in the first chunk alone {correlation_text(link.foretold)})" if link.foretold else ")")
            )
    return ["; ".join(found) + "."] if found else []


def cross_losses(cross: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Measures how much commitment each stream of each student loses, from the cross table.

    Rows are video sources, columns action sources; labels that begin with "teacher" are the teacher's, and among
    these the one with most steps is the reference.

    Returns:
        Per student row: {"student", "column", "action": lost by its actions on its own video, "video": lost by its
        video under the teacher's actions}.
    """

    def steps(label: str) -> int:
        digits = "".join(c if c.isdigit() else " " for c in label).split()
        return 10**9 if "full" in label else max((int(d) for d in digits), default=0)

    def reference(labels: Sequence[str]) -> int | None:
        return max(
            (i for i, label in enumerate(labels) if label.startswith("teacher")),
            key=lambda i: steps(labels[i]),
            default=None,
        )

    rows, columns, table = cross["rows"], cross["columns"], cross["commitment"]
    row0, column0 = reference(rows), reference(columns)
    if row0 is None or column0 is None:
        return []
    losses = []
    for i, row in enumerate(rows):
        if row.startswith("teacher"):
            continue
        own = [j for j, column in enumerate(columns) if column == row]
        for j in own or [j for j, column in enumerate(columns) if column.split()[0] == row.split()[0]]:
            losses.append(
                {
                    "student": row,
                    "column": columns[j],
                    "action": table[i][column0] - table[i][j],
                    "video": table[row0][column0] - table[i][column0],
                }
            )
    return losses


def _losing_stream(rows: Sequence[Row], teacher: Row | None, cross: Mapping[str, Any] | None) -> list[str]:
    sentences = []
    for loss in cross_losses(cross) if cross else []:
        worse = "actions" if loss["action"] > loss["video"] else "video"
        sentences.append(
            f"{loss['student']} with {loss['column']}: its {worse} lose more. Given its own video, the "
            f"teacher's actions commit {loss['action']:.0%} more often than its own; its video costs the "
            f"teacher's actions {loss['video']:.0%}."
        )
    if sentences or teacher is None:
        return sentences
    for row in _students(rows):
        comparison = compare_shares(*_fairly(row, teacher))
        if not (comparison["distinct"] and comparison["difference"] < 0):
            continue
        collapsed = [
            f"the {key.removesuffix('_variance_ratio')} stream has collapsed, its draws vary {value:.2f} "
            "times the teacher's"
            for key, value in row.open_loop.items()
            if key.endswith("_variance_ratio") and value < COLLAPSED
        ]
        blurred = [
            f"the {key.removesuffix('_sharpness_ratio')} is blurred, {value:.2f} times the teacher's sharpness"
            for key, value in row.open_loop.items()
            if key.endswith("_sharpness_ratio") and value < BLURRED
        ]
        reasons = collapsed + blurred
        sentences.append(
            f"{row.label} falls short of its teacher: "
            + (
                "; ".join(reasons)
                if reasons
                else "its open-loop measures name no stream; cross its streams with the teacher's"
            )
            + "."
        )
    return sentences


def verdict(rows: Sequence[Row], cross: Mapping[str, Any] | None = None) -> list[str]:
    """The findings, most important first; each sentence follows from the rows alone.

    Args:
        rows: Every row of the comparison.
        cross: The cross table, where it was made.
    """
    rows = [row for row in rows if row.driven]
    best, teacher = best_student(rows), full_teacher(rows)
    sentences: list[str] = []
    if best is not None and teacher is not None:
        sentences.append(_against_teacher(best, teacher))
    elif best is not None:
        sentences.append(f"**{best.label}** succeeds in {_percent(best.share())}. No teacher was evaluated beside it.")
    elif teacher is not None:
        sentences.append(f"{teacher.label} succeeds in {_percent(teacher.share())}. No student was evaluated yet.")
    if best is not None:
        if len(_students(rows)) > 1:
            sentences.append(_among_students(_students(rows)))
        sentences += [text for text in (_against_untrained(best, rows), _commitment(best, teacher, rows)) if text]
    return sentences + _imagination(best, teacher) + _euler_cost(rows) + _losing_stream(rows, teacher, cross)
