# SPDX-License-Identifier: Apache-2.0
"""The record of the analysis, counted anew from the committed results."""

import json
from pathlib import Path

import pytest

from flashwam.core.streams import StreamSpec
from flashwam.distillation.methods import ConsistencyDistillation, OnPolicy
from flashwam.report.levels import stream_levels
from flashwam.report.order import better_at, standing
from flashwam.report.record import GROUPS, judge_study, judge_warnings, read_record, split_record, tally
from flashwam.report.record_page import record_section, record_sentence
from flashwam.report.results import pool_evaluations, read_evaluations

RESULTS = Path(__file__).resolve().parents[2] / "analysis" / "results"


def place(kind=ConsistencyDistillation, options=None, **changes):
    """One action stream's place: shift 1, lcm, 2 anchors and 1 sub-step unless changed."""
    spec = StreamSpec.from_config("action", {"shift": 1.0, "consistency": "lcm", **changes})
    return standing({"action": stream_levels(spec, lambda s, level: kind.lesson(s, level, options or {}))})


def test_the_record_is_what_the_committed_results_give():
    record = read_record()
    known, since = split_record(record)
    assert {found["study"] for found in known.values()} == {"full", "cogvideox_full"}
    assert {found["study"] for found in since.values()} == {"one_step"}
    for found in record.values():
        study = RESULTS / found["study"]
        assert found["comparisons"] == json.loads(json.dumps(judge_study(study)))
        assert found["warned"] == json.loads(json.dumps(judge_warnings(study)))


@pytest.mark.parametrize("study", ["full", "cogvideox_full"])
def test_a_difference_is_that_of_the_successes_counted_by_hand(study):
    lines = [json.loads(line) for line in (RESULTS / study / "evaluations.jsonl").read_text().splitlines()]

    def successes(run, setting, ways):
        return sum(
            task["success"]
            for line in lines
            if (line["run"], line["setting"], line["sampler"], line["step"]) == (run, setting, "own", 400)
            for task in line["tasks"].values()
            if task["multimodal"] in ways
        )

    comparisons = judge_study(RESULTS / study)
    assert len(comparisons) == 15
    for one in comparisons:
        for group, ways in {"two-way": (True,), "one-way": (False,), "all": (True, False)}.items():
            outcome = one["outcomes"][group]
            ours, theirs = (successes(one[side], one["setting"], ways) for side in ("ahead", "behind"))
            assert outcome["difference"] == sum(outcome["seeds"]) == ours - theirs
            assert outcome["episodes"] == {"two-way": 300, "one-way": 450, "all": 750}[group]
            assert len(outcome["seeds"]) == 3


def test_students_of_other_budgets_and_undistilled_streams_are_not_compared():
    named = {one[side] for one in judge_study(RESULTS / "full") for side in ("ahead", "behind")}
    assert named == {"naive_lcm", "flash_wam", "linear_both", "best", "on_policy"}
    assert {row.run for row in pool_evaluations(read_evaluations(RESULTS / "full"))} > named


def test_a_recipe_is_ahead_by_a_criterion_alone_and_never_where_it_is_behind_by_another():
    base = place()
    assert better_at(place(consistency="linear"), base) == ("start",)
    assert better_at(place(teacher_substeps=4), base) == ("teacher steps",)
    assert better_at(place(anchors=1), base) == ()
    assert better_at(base, place(shift=0.05)) == ("samples",)
    on_policy = place(OnPolicy, {"teacher_steps": 6})
    assert better_at(on_policy, base) == ("hops", "teacher steps")
    assert better_at(on_policy, place(teacher_substeps=4)) == ()
    assert better_at(base, base) == ()
    assert better_at(place(OnPolicy, {"start_share": 0.9}, steps=2), place(steps=2)) == ()
    assert better_at(base, None) == better_at(place(weight=0.0), base) == ()


def test_outcomes_are_counted_by_sign_and_by_seed():
    def one(*seeds):
        return {"outcomes": {"all": {"episodes": 9, "difference": sum(seeds), "seeds": list(seeds)}}}

    assert tally([one(1, 2, 3), one(-1, 5, 0), one(1, -1, 0), one(-1, -1, -2)], "all") == {
        "all": 4,
        "right": 2,
        "level": 1,
        "wrong": 1,
        "surely right": 1,
        "surely wrong": 1,
    }


def counted(part):
    """Group -> tally of a part of the record."""
    comparisons = [one for found in part.values() for one in found["comparisons"]]
    return comparisons, {group: tally(comparisons, group) for group in GROUPS}


def told_row(group, count):
    cells = (f"{count['right']} of {count['all']}", *(count[k] for k in ("surely right", "level", "wrong")))
    return f"| {group} | {' | '.join(map(str, cells))} | {count['surely wrong']} |"


def test_readme_results_and_notebook_quote_the_record():
    root = RESULTS.parents[1]
    known, since = split_record(read_record())
    comparisons, counts = counted(known)
    _, later = counted(since)
    readme, results = (
        " ".join((root / name).read_text().split()) for name in ("README.md", "docs/results/consistency.md")
    )
    notebook = " ".join((root / "notebooks" / "schedule_analysis.ipynb").read_text().split())
    two, one = counts["two-way"], counts["one-way"]
    assert f"in {two['right']} of {two['all']} comparisons on the two-way tasks, and in {one['right']} of" in readme
    assert f"in {two['right']} of {two['all']}" in notebook
    assert f"in {one['right']} of {one['all']} on tasks with one" in notebook
    for text in (readme, notebook):
        assert f"{later['two-way']['right']} of {later['two-way']['all']} made since" in text
    for part in (counts, later):
        for group, count in part.items():
            assert told_row(group, count) in results
    start = [o for o in comparisons if o["by"] == ["start"] and (o["ahead"], o["behind"]) != ("flash_wam", "naive_lcm")]
    assert (tally(start, "two-way")["right"], tally(start, "two-way")["level"], len(start)) == (7, 1, 8)
    assert "the start alone was right in 7 of 8 comparisons, and level in one" in results
    flash = [o for o in comparisons if (o["ahead"], o["behind"]) == ("flash_wam", "naive_lcm")]
    assert tally(flash, "two-way")["wrong"] == len(flash) == 4


def test_the_page_tells_what_was_known_apart_from_what_tests_the_rule():
    record = read_record()
    known, since = split_record(record)
    sentence = record_sentence(record)
    two, later = (counted(part)[1]["two-way"] for part in (known, since))
    before, after = sentence.split(" In studies made since: ")
    assert f"ahead in {two['right']} of {two['all']} comparisons" in before
    assert f"ahead in {later['right']} of {later['all']} comparisons" in after
    assert "studies made since" not in record_sentence(known)
    section = record_section(record)
    assert [len(table.rows) > 0 for table in section.tables] == [True] * 4
    assert len(record_section(known).tables) == 2
    rows = {row[0] for table in section.tables[2:] for row in table.rows}
    assert rows == {f"{one['ahead']} over {one['behind']}" for one in counted(since)[0]}


def test_the_students_that_the_warning_met_are_those_the_results_tell_of():
    known, since = split_record(read_record())
    (lingbot,), (cogvideox,) = (found["warned"] for found in known.values())
    later = {one["run"]: one for found in since.values() for one in found["warned"]}
    assert {one["setting"] for one in later.values()} == {"1v/2a"}
    gained = {run: (one["fewest"]["success"], one["success"] - one["fewest"]["success"]) for run, one in later.items()}
    assert gained == {"on_policy_equal_cost": (665, -10), "on_policy_400": (597, 14)}
    assert (cogvideox["run"], cogvideox["setting"], lingbot["run"], lingbot["setting"]) == (
        "on_policy",
        "2v/2a",
        "on_policy",
        "1v/2a",
    )
    assert (cogvideox["fewest"]["success"], cogvideox["success"] - cogvideox["fewest"]["success"]) == (631, -55)
    assert (lingbot["fewest"]["success"], lingbot["success"] - lingbot["fewest"]["success"]) == (597, 11)
    results = " ".join((RESULTS.parents[1] / "docs" / "results" / "consistency.md").read_text().split())
    assert (
        "On CogVideoX the second pass costs it 55 of 631 successes; on LingBot-VA a second action step gains 11 on 597, "
        "and costs the longer training of the later study 10 of 665, which is within chance; there it gains 14 on 597"
    ) in results
