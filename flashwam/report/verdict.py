# SPDX-License-Identifier: Apache-2.0
"""The verdict of a comparison, in sentences computed from its numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flashwam.core.sampler_name import sampler_options
from flashwam.core.temperature import noise_text
from flashwam.report.against import (
    basis_text,
    compare_rows,
    driven_groups,
    fair_shares,
    full_teacher,
    keep_of_teacher,
    rank,
    teacher_of,
)
from flashwam.report.beside import run_name
from flashwam.report.columns import sharpness_ratios
from flashwam.report.comparison import SURE, Comparison, signed_points
from flashwam.report.controls import against_controls
from flashwam.report.cross_losses import cross_losses
from flashwam.report.motion import correlation_text, motion_link
from flashwam.report.recipes import row_recipes
from flashwam.report.row import GROUPS, Row, Share, milliseconds_text

__all__ = ["best_student", "verdict"]

COLLAPSED = 0.5
"""A stream whose draws vary less than this share of the teacher's has collapsed."""
BLURRED = 0.7
"""Decoded video with less than this share of the teacher's gradients is blurred."""
_BASELINES = {
    "random": "Random actions succeed in {}: what a task is worth without a model.",
    "expert": "The scripted expert of the demonstrations, undisturbed, succeeds in {}: what there was to learn.",
}


def best_student(rows: Sequence[Row]) -> Row | None:
    """The student at the fewest steps, sampled with its own function, whose weaker group of tasks fares best."""
    return next(iter(_students(rows)), None)


def _students(rows: Sequence[Row]) -> list[Row]:
    finals = [r for r in rows if r.kind == "student" and r.final and r.sampler == "own" and r.driven]
    fewest = min((r.total_nfe for r in finals), default=0)
    return sorted((r for r in finals if r.total_nfe == fewest), key=lambda row: rank(row, teacher_of(row, rows)))


def _percent(share: Share) -> str:
    low, high = share.interval
    return f"{share.rate:.0%} of {share.episodes} episodes (95 % interval {low:.0%} to {high:.0%})"


def _against_teacher(best: Row, teacher: Row) -> list[str]:
    parts, rests = [], []
    for group in driven_groups(best):
        ours, theirs = fair_shares(best, teacher, group)
        if not ours.episodes or not theirs.episodes:
            share = best.share(multimodal=GROUPS[group])
            parts.append(f"on the {group} tasks in {share.rate:.0%}, where the teacher was not driven")
            continue
        found = keep_of_teacher(best, teacher, group)
        text = f"on the {group} tasks in {ours.rate:.0%}, {teacher.label} in {theirs.rate:.0%}"
        if found is None:
            parts.append(text)
            continue
        rests.append((group, found))
        text += f", so it keeps {found.value:.2f} of its teacher's success"
        if found.paired:
            text += f" (95 % interval {found.low:.2f} to {found.high:.2f})"
            parts.append(f"{text}, {found.how_surely(1)} {'less' if found.value <= 1 else 'more'} than all of it")
        else:
            difference = compare_rows(best, teacher, multimodal=GROUPS[group])
            parts.append(text if difference is None else f"{text} ({difference.points_text})")
    sentences = [f"**{best.label}** succeeds {'; '.join(parts)}."]
    bases: dict[tuple[int, bool], list[tuple[str, Comparison]]] = {}
    for group, found in rests:
        bases.setdefault((found.trainings, found.paired), []).append((group, found))
    for told in bases.values():
        over = replace(told[0][1], episodes=sum(found.episodes for _, found in told))
        which = "This" if len(bases) == 1 else f"What is said of {' and '.join(group for group, _ in told)} tasks"
        sentences.append(f"{which} rests on {basis_text(over)}")
    fast, slow = best.latency.get("chunk_ms"), teacher.latency.get("chunk_ms")
    if fast and slow:
        sentences.append(
            f"{best.label} is {slow / fast:.1f} times as fast as {teacher.label} ("
            f"{milliseconds_text(fast)} against {milliseconds_text(slow)} ms a chunk)."
        )
    return sentences


def _among_students(students: Sequence[Row]) -> list[str]:
    best, sentences, named = students[0], [], _names(students)
    alike = all(row.steps_text == best.steps_text for row in students)
    at = best.steps_text if alike else f"{best.total_nfe} network evaluations a chunk"
    for group in driven_groups(best):
        order: dict[str, list[str]] = {}
        compared = {row.label: compare_rows(best, row, multimodal=GROUPS[group]) for row in students[1:]}
        found = {label: one for label, one in compared.items() if one is not None}
        if not found:
            continue
        for label, one in found.items():
            word = f"{one.how_surely(0)} {'ahead of' if one.value >= 0 else 'behind'}"
            order.setdefault(word, []).append(f"{named[label]} {signed_points(one.value)} ({one.span_text})")
        parts = "; ".join(f"{word} {', '.join(runs)}" for word, runs in sorted(order.items(), key=_surest))
        sentences.append(
            f"At {at}, on the {group} tasks, {named[best.label]} is {parts}. In percentage points, with 95 % "
            f"intervals, over {_rests_on({named[label]: one for label, one in found.items()})}."
        )
    return sentences


def _rests_on(found: Mapping[str, Comparison]) -> str:
    """Counts the trainings that comparisons with some runs are over, and names those that are not paired."""
    fewest, most = (choose(one.trainings for one in found.values()) for choose in (min, max))
    over = f"{most if fewest == most else f'{fewest} to {most}'} training{'s' * (most > 1)}"
    unpaired = [run for run, one in found.items() if not one.paired]
    if unpaired:
        which = "intervals" if len(unpaired) == len(found) else f"that of {', '.join(unpaired)}"
        return f"{over}, {which} not paired: other trainings may come out in another order"
    return f"{over} each: others may come out in another order" if most == 1 else over


def _names(rows: Sequence[Row]) -> dict[str, str]:
    """Label -> the run's name, or all of the label where rows are not told apart by that."""
    return {row.label: row.run if len({row.run for row in rows}) == len(rows) else row.label for row in rows}


def _surest(words: tuple[str, list[str]]) -> tuple[int, str]:
    return next(number for number, word in enumerate(SURE) if words[0].startswith(word)), words[0]


def _baselines(rows: Sequence[Row]) -> list[str]:
    sentences = []
    for baseline in (r for r in rows if r.final and r.kind == "baseline"):
        told_of = _BASELINES.get(run_name(baseline), f"{baseline.run} succeeds in {{}}, without a model.")
        shares = [(group, baseline.share(multimodal=GROUPS[group])) for group in driven_groups(baseline)]
        told = "; ".join(f"{share.rate:.0%} on the {group} tasks" for group, share in shares)
        sentences.append(told_of.format(told))
    return sentences


def _commitment(best: Row, teacher: Row | None, rows: Sequence[Row]) -> str | None:
    several = best.share(multimodal=True)
    if not several.episodes or several.commitment is None:
        return None
    text = f"On the two-way tasks {best.label} commits to a way in {several.commitment:.0%} of the episodes"
    text += _sides(several)
    if teacher is not None and (goal := teacher.beside(best).share(multimodal=True)).commitment is not None:
        text += f"; the teacher in {goal.commitment:.0%}{_sides(goal)}"
    students = _students(rows)
    named = _names(students)
    shares = [(r.share(multimodal=True).commitment, named[r.label]) for r in students[1:]]
    others = [(share, run) for share, run in shares if share is not None]
    if others:
        most, run = max(others, key=lambda other: other[0])
        if most > several.commitment:
            text += f". {run} commits more often, in {most:.0%}"
    return text + "."


def _sides(share: Share) -> str:
    return f" (left/right/none {share.ways_text})" if share.ways_text else ""


def _other_samplers(rows: Sequence[Row]) -> list[str]:
    """Success of students under other samplers than their own; Euler beside f brought to unit amplitude, less noise."""
    students = [r for r in rows if r.kind == "student" and r.final]
    own = {(r.run, r.steps_text): r for r in students if r.sampler == "own"}
    sentences = []
    for sampler in sorted({r.sampler for r in students} - {"own"}):
        found = []
        for row in (r for r in students if r.sampler == sampler):
            match = own.get((row.run, row.steps_text))
            if match is None:
                continue
            for group in driven_groups(row):
                difference = compare_rows(row, match, multimodal=GROUPS[group])
                if difference is None:
                    continue
                chance = "" if difference.leaves_out(0) else ", within chance"
                change = f"{signed_points(difference.value)} ({difference.span_text}{chance})"
                found.append(f"{row.run} {row.steps_text}, {group} {change}")
        if found:
            told = f"Sampling {_sampled(sampler)}, in percentage points with 95 % intervals: "
            sentences.append(told + "; ".join(found) + ".")
    return sentences


def _sampled(sampler: str) -> str:
    options = sampler_options(sampler)
    parts = ["with plain Euler instead of the student's own function"] * options["plain_euler"]
    parts += ["with the student's own function brought to unit amplitude"] * options["unit_amplitude"]
    if options["temperature"] is not None:
        parts.append(f"from {noise_text(options['temperature'])}")
    return " and ".join(parts)


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


def _losing_stream(rows: Sequence[Row], cross: Mapping[str, Any] | None) -> list[str]:
    sentences = []
    for loss in cross_losses(cross) if cross else []:
        name = loss["student"]
        name += "" if loss["column"] == name else f" with {loss['column']}"
        action, video = (round(100 * loss[stream]) for stream in ("action", "video"))
        if max(action, video) <= 0:
            worse = "neither its actions nor its video lose commitment"
        else:
            worse = f"its {'actions lose' if loss['action'] > loss['video'] else 'video loses'} more commitment"
        sentences.append(
            f"{name}: {worse}. In percentage points, its actions lose {action} to the teacher's on its own video, and "
            f"its video {video} to the teacher's under the teacher's actions."
        )
    if sentences:
        return sentences
    for row in _students(rows):
        teacher = teacher_of(row, rows)
        if teacher is None:
            continue
        found = [compare_rows(row, teacher, multimodal=GROUPS[group]) for group in driven_groups(row)]
        if not any(one is not None and one.leaves_out(0) and one.value < 0 for one in found):
            continue
        varied = {
            key.removesuffix("_variance_ratio"): value
            for key, value in row.open_loop.items()
            if key.endswith("_variance_ratio")
        }
        cooler = _learnt_cooler(row)
        collapsed = [
            f"the {name} stream has collapsed, its draws vary {value:.2f} times the teacher's"
            for name, value in varied.items()
            if value < COLLAPSED and name not in cooler
        ]
        blurred = [
            f"the {name} is blurred, {value:.2f} times the teacher's sharpness"
            for name, value in sharpness_ratios(row.open_loop).items()
            if value < BLURRED
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


def _learnt_cooler(row: Row) -> set[str]:
    """The streams of a student that were to vary less: learnt from less noise than the teacher begins with."""
    streams = [recipe.get("streams") for recipe in row_recipes(row)]
    return {
        name
        for told in streams
        if isinstance(told, Mapping)
        for name, stream in told.items()
        if isinstance(stream, Mapping) and stream.get("teacher_temperature", 1.0) < 1
    }


def verdict(rows: Sequence[Row], cross: Mapping[str, Any] | None = None) -> list[str]:
    """The findings, most important first; each sentence follows from the rows alone.

    Rows of several conventions have a verdict each: success under one is none under another.

    Args:
        rows: Every row of the comparison.
        cross: The cross table, where it was made.
    """
    rows = [row for row in rows if row.driven]
    conventions = dict.fromkeys(row.convention for row in rows if row.convention)
    if not conventions:
        return _verdict(rows, cross)
    sentences = []
    for name in conventions:
        alike = [row for row in rows if row.convention in (name, "")]
        sentences += [f"Driven under the convention {name}:", *_verdict(alike, cross)]
    return sentences


def _verdict(rows: Sequence[Row], cross: Mapping[str, Any] | None) -> list[str]:
    best = best_student(rows)
    teacher = full_teacher(rows) if best is None else teacher_of(best, rows)
    sentences: list[str] = []
    if best is not None and teacher is not None:
        sentences += _against_teacher(best, teacher)
    elif best is not None:
        sentences.append(f"**{best.label}** succeeds in {_percent(best.share())}. No teacher was evaluated beside it.")
    elif teacher is not None:
        sentences.append(f"{teacher.label} succeeds in {_percent(teacher.share())}. No student was evaluated yet.")
    if best is not None:
        if len(_students(rows)) > 1:
            sentences += _among_students(_students(rows))
        sentences += against_controls(best, rows)
        sentences += [text for text in (_commitment(best, teacher, rows),) if text]
    sentences += _baselines(rows)
    return sentences + _imagination(best, teacher) + _other_samplers(rows) + _losing_stream(rows, cross)
