# SPDX-License-Identifier: Apache-2.0
"""The section that says how often the analysis put the better student ahead."""

from collections.abc import Mapping, Sequence
from typing import Any

from flashwam.report.levels import percent
from flashwam.report.page import Section, Table
from flashwam.report.record import split_record, tally
from flashwam.report.together import listed

__all__ = ["record_section", "record_sentence"]


def _all(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [one for found in record.values() for one in found["comparisons"]]


def record_sentence(record: Mapping[str, Any]) -> str:
    """The counts in two sentences, of the studies that the rule was written after and of those made since."""
    known, since = split_record(record)
    sentence = f"{_counts(known)} These outcomes were known when the rule was written."
    return f"{sentence} In studies made since: {_counts(since)}" if _all(since) else sentence


def _counts(record: Mapping[str, Any]) -> str:
    comparisons = _all(record)
    two, one, every = (tally(comparisons, group) for group in ("two-way", "one-way", "all"))
    return (
        f"On the tasks with two ways the student that the numbers put ahead was ahead in {two['right']} of "
        f"{two['all']} comparisons ({two['surely right']} in every seed) and behind in {two['wrong']} "
        f"({two['surely wrong']} in every seed); on those with one way ahead in {one['right']} and behind in "
        f"{one['wrong']}; over all tasks ahead in {every['right']} and behind in {every['wrong']}."
    )


def record_section(record: Mapping[str, Any]) -> Section:
    """The rule, the counts and every comparison, of what was known before it and of what tests it."""
    known, since = split_record(record)
    tested: list[str] = []
    if _all(since):
        tested = [
            f"**What was measured since is the test of it** ({listed(list(since))}). {_counts(since)} "
            f"{_by_criterion(_all(since))}".rstrip(),
        ]
    return Section(
        heading="How often this was right",
        paragraphs=(
            "Of two recipes the numbers put one ahead if it is behind in none of four things at any level of any "
            "stream, and ahead in one at least: a start nearer the data; at least 5% of the training samples near "
            "the level; fewer hops; more steps of the teacher behind a target. Otherwise they say nothing. The "
            f"benchmarks that were there before this rule, {listed(list(known))}, hold {len(_all(known))} comparisons "
            "of that kind, of students of equal budget over the same seeds of training and evaluation.",
            f"**{_counts(known)}** So the numbers say who keeps the choice of a way, and nothing good of the "
            "tasks with one way, where the blurred mean of the untrained single step does well and the order is "
            "rather the reverse.",
            "The rule was written after these outcomes were known: the counts say how far it agrees with them, not "
            "how well it foretells others. The comparisons share students, so they are not independent, and some "
            "recipes differ in more than the numbers read (last column).",
            *([by] if (by := _by_criterion(_all(known))) else []),
            *tested,
            *_warned(record),
        ),
        tables=tuple(_table(part, group) for part in (known, since) if _all(part) for group in ("two-way", "one-way")),
    )


def _settings(comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({one["setting"] for one in comparisons})


def _by_criterion(comparisons: Sequence[Mapping[str, Any]]) -> str:
    alone: dict[str, list[Mapping[str, Any]]] = {}
    for one in comparisons:
        if len(one["by"]) == 1:
            alone.setdefault(one["by"][0], []).append(one)
    parts = []
    for criterion, several in sorted(alone.items()):
        count = tally(several, "two-way")
        wrong = sorted(
            {f"{o['ahead']} over {o['behind']}" for o in several if o["outcomes"]["two-way"]["difference"] < 0}
        )
        missed = f" (wrong: {listed(wrong)})" if wrong else ""
        parts.append(f"by {criterion} alone {count['right']} of {count['all']}{missed}")
    return f"Right on the tasks with two ways, where one thing decides: {'; '.join(parts)}." if parts else ""


def _warned(record: Mapping[str, Any]) -> list[str]:
    parts = [
        f"{one['run']} of the {model} at {one['setting']} ({percent(one['near'])} near its second level): "
        f"{one['success']} of {one['episodes']} episodes, where its {one['fewest']['setting']} has "
        f"{one['fewest']['success']}"
        for model, found in record.items()
        for one in found["warned"]
    ]
    if not parts:
        return []
    return [
        "The warning of few samples near a level has met these students alone, and no stream of these benchmarks has "
        f"few near sigma = 1: {'; '.join(parts)}."
    ]


def _table(record: Mapping[str, Any], group: str) -> Table:
    settings = [(model, setting) for model, found in record.items() for setting in _settings(found["comparisons"])]
    pairs = dict.fromkeys((one["ahead"], one["behind"]) for one in _all(record))
    rows = []
    for ahead, behind in sorted(pairs):
        cells: list[str] = []
        by: dict[str, None] = {}
        beside: dict[str, None] = {}
        for model, setting in settings:
            found = [
                one
                for one in record[model]["comparisons"]
                if (one["ahead"], one["behind"], one["setting"]) == (ahead, behind, setting)
            ]
            cells.append(_cell(found[0]["outcomes"][group]) if found else "-")
            for one in found:
                by |= dict.fromkeys(one["by"])
                beside |= dict.fromkeys(one["beside"])
        rows.append([f"{ahead} over {behind}", ", ".join(by), *cells, ", ".join(beside) or "-"])
    return Table(
        columns=("put ahead", "by", *(f"{model}, {setting}" for model, setting in settings), "differ in too"),
        rows=rows,
        caption=f"{group.capitalize()} tasks: difference in percentage points of success, and in how many of the "
        "seeds it has that sign. A dash: the numbers put neither ahead.",
    )


def _cell(outcome: Mapping[str, Any]) -> str:
    difference, seeds = outcome["difference"], outcome["seeds"]
    if difference == 0:
        return "0"
    same = sum((seed > 0) == (difference > 0) and seed != 0 for seed in seeds)
    return f"{100 * difference / outcome['episodes']:+.1f} ({same}/{len(seeds)})"
