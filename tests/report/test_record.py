# SPDX-License-Identifier: Apache-2.0
"""The record of the analysis, counted anew from the committed results."""

import json
from pathlib import Path

import pytest

from flashwam.core.streams import StreamSpec
from flashwam.distillation.methods import ConsistencyDistillation, OnPolicy
from flashwam.report.levels import stream_levels
from flashwam.report.order import better_at, standing
from flashwam.report.record import judge_study, judge_warnings, read_record, tally
from flashwam.report.results import pool_evaluations, read_evaluations

RESULTS = Path(__file__).resolve().parents[2] / "analysis" / "results"


def place(kind=ConsistencyDistillation, options=None, **changes):
    """One action stream's place: shift 1, lcm, 2 anchors and 1 sub-step unless changed."""
    spec = StreamSpec.from_config("action", {"shift": 1.0, "consistency": "lcm", **changes})
    return standing({"action": stream_levels(spec, lambda s, level: kind.lesson(s, level, options or {}))})


def test_the_record_is_what_the_committed_results_give():
    record = read_record()
    assert {found["study"] for found in record.values()} == {"full", "cogvideox_full"}
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


def test_readme_results_and_notebook_quote_the_record():
    root = RESULTS.parents[1]
    comparisons = [one for found in read_record().values() for one in found["comparisons"]]
    two, one, every = (tally(comparisons, group) for group in ("two-way", "one-way", "all"))
    readme, results = (" ".join((root / name).read_text().split()) for name in ("README.md", "docs/results.md"))
    notebook = (root / "notebooks" / "schedule_analysis.ipynb").read_text()
    assert f"in {two['right']} of {two['all']} comparisons on the two-way tasks, and in {one['right']} of" in readme
    assert f"in {two['right']} of {two['all']}" in notebook
    assert f"in {one['right']} of {one['all']} on tasks with one" in notebook
    for group, count in {"two-way": two, "one-way": one, "all": every}.items():
        cells = (f"{count['right']} of {count['all']}", *(count[k] for k in ("surely right", "level", "wrong")))
        assert f"| {group} | {' | '.join(map(str, cells))} | {count['surely wrong']} |" in results
    start = [o for o in comparisons if o["by"] == ["start"] and (o["ahead"], o["behind"]) != ("flash_wam", "naive_lcm")]
    assert (tally(start, "two-way")["right"], tally(start, "two-way")["level"], len(start)) == (7, 1, 8)
    assert "the start alone was right in 7 of 8 comparisons, and level in one" in results
    flash = [o for o in comparisons if (o["ahead"], o["behind"]) == ("flash_wam", "naive_lcm")]
    assert tally(flash, "two-way")["wrong"] == len(flash) == 4


def test_results_tell_of_the_comparisons_made_since():
    """Their outcomes were not known when the rule was written."""
    results = " ".join((RESULTS.parents[1] / "docs" / "results.md").read_text().split())
    found = judge_study(RESULTS / "one_step")
    assert {(one["ahead"], one["behind"]) for one in found} == {("flash_wam_400", "naive_lcm_400")}
    two = [one["outcomes"]["two-way"] for one in found]
    lost = [-outcome["difference"] for outcome in two]
    assert f"behind on the two-way tasks by {lost[0]} and {lost[1]} of {two[0]['episodes']} episodes" in results
    assert [sum(seed < 0 for seed in outcome["seeds"]) for outcome in two] == [2, 1]


def test_the_students_that_the_warning_met_are_those_the_results_tell_of():
    (lingbot,), (cogvideox,) = (found["warned"] for found in read_record().values())
    assert (cogvideox["run"], cogvideox["setting"], lingbot["run"], lingbot["setting"]) == (
        "on_policy",
        "2v/2a",
        "on_policy",
        "1v/2a",
    )
    assert (cogvideox["fewest"]["success"], cogvideox["success"] - cogvideox["fewest"]["success"]) == (631, -55)
    assert (lingbot["fewest"]["success"], lingbot["success"] - lingbot["fewest"]["success"]) == (597, 11)
    results = " ".join((RESULTS.parents[1] / "docs" / "results.md").read_text().split())
    assert (
        "On CogVideoX the second pass costs it 55 of 631 successes; on LingBot-VA a second action step gains 11"
        in results
    )
