# SPDX-License-Identifier: Apache-2.0
"""A student is held against the teacher that it learnt from, whatever else is compared beside it."""

import json
import re

import pytest
from synthetic import TASKS, evaluation, latency, write

from flashwam.report.against import common_teacher, fair_shares, teacher_of
from flashwam.report.compare import compare, gather
from flashwam.report.study import write_study_evaluations
from flashwam.report.table import format_table
from flashwam.report.verdict import verdict


def teacher(run, rate, milliseconds=100.0, nfe=(10, 10), **more):
    timed = {"chunk_ms": milliseconds}
    return evaluation(run, kind="teacher", nfe=nfe, rates=rate, latency=timed, **more)


def student(run, rate, milliseconds=10.0, **more):
    return evaluation(run, kind="student", step=400, rates=rate, latency={"chunk_ms": milliseconds}, **more)


def beside(folder, results, taught_by=None):
    """Rows of runs in one folder; `taught_by` tells the teacher of some in their recipes."""
    for result in results:
        run = write(folder / result["run"], result)
        if result["run"] in (taught_by or {}):
            path = folder / taught_by[result["run"]] / "teacher"
            (run / "recipe.yaml").write_text(f"wam: {{family: lingbot_va, pretrained: {path}}}\n")
    rows, *_ = gather([folder / result["run"] for result in results], folder / "out")
    return {row.run: row for row in rows}, rows


def test_a_student_is_held_against_the_teacher_that_its_recipe_names(tmp_path):
    large, little = ({"parameters": {"model": size}} for size in (9, 1))
    results = [
        teacher("teacher", 0.9, **large),
        teacher("teacher_small", 0.4, 20, **little),
        student("big", 0.9, **large),
        student("small", 0.4, **little),
    ]
    by_name, rows = beside(tmp_path, results, {"big": "teacher", "small": "teacher_small"})
    assert teacher_of(by_name["small"], rows).run == "teacher_small"
    assert teacher_of(by_name["big"], rows).run == "teacher"
    for run in ("big", "small"):
        assert {found.value for found in by_name[run].kept.values()} == {1.0}
    assert common_teacher(rows) is None
    told = verdict(rows)
    assert not any("falls short" in sentence for sentence in told)
    speed_ups = dict(re.findall(r"^(\S+) 1v/1a.* ([\d.]+)x", format_table(rows), flags=re.M))
    assert speed_ups == {"big": "10.0", "small": "2.0"}


def test_a_policy_of_more_steps_is_not_taken_for_the_teacher(tmp_path):
    """The network tells where recipes are missing."""
    policy = {**teacher("policy", 0.9, nfe=(1, 30), parameters={"model": 3}), "label": "policy"}
    results = [policy, teacher("teacher", 0.5, parameters={"model": 1}), student("a", 0.5, parameters={"model": 1})]
    by_name, rows = beside(tmp_path / "untold", results)
    assert teacher_of(by_name["a"], rows).run == "teacher"
    results.append(student("b", 0.5, parameters={"model": 2}))
    by_name, rows = beside(tmp_path / "told", results, {"a": "teacher"})
    assert {teacher_of(row, rows).run for row in rows} == {"teacher"}


def test_a_study_is_held_against_its_own_teacher(tmp_path):
    for study, rate in (("first", 0.8), ("second", 0.4)):
        results = [teacher("teacher", rate, nfe=(10, 20) if study == "first" else (10, 10)), student("pairs", rate)]
        files = {f"runs/{one['run']}/evaluations/one.json": one for one in results}
        write_study_evaluations(tmp_path / study, files.items())
    rows, *_ = gather([tmp_path / "first", tmp_path / "second"], tmp_path / "out")
    kept = {row.run: row.kept["two-way"].value for row in rows if row.kind == "student"}
    assert kept == {"first/pairs": 1.0, "second/pairs": 1.0}


def test_only_a_student_that_falls_short_of_its_own_teacher_is_said_to(tmp_path):
    results = [
        teacher("teacher_a", 0.9, family="a"),
        student("pairs_a", 0.9, family="a"),
        teacher("teacher_b", 0.3, family="b"),
        student("pairs_b", 0.3, family="b"),
    ]
    _, rows = beside(tmp_path, results)
    assert not any("falls short" in sentence for sentence in verdict(rows))


def test_the_control_is_the_teacher_of_the_students_and_is_named_where_there_are_several(tmp_path):
    results = [
        teacher("teacher", 0.9, family="a"),
        {**teacher("teacher", 0.3, nfe=(1, 1), family="a"), "label": "teacher short"},
        teacher("other_policy", 0.95, nfe=(1, 5), family="a"),
        student("pairs", 0.9, family="a"),
    ]
    for number, result in enumerate(results):
        write(tmp_path / result["run"], {**result, "label": f"{result['label']} {number}"})
    rows, *_ = gather([tmp_path / name for name in ("teacher", "other_policy", "pairs")], tmp_path / "out")
    controls = [sentence for sentence in verdict(rows) if sentence.startswith("The control")]
    assert len(controls) == 1
    assert controls[0].startswith("The control, the teacher without any distillation at 1v/1a, reaches 30%")
    assert "distillation gains" in controls[0]
    more = [teacher("teacher_b", 0.2, family="b"), student("pairs_b", 0.2, family="b")]
    more.append({**teacher("teacher_b", 0.1, nfe=(1, 1), family="b"), "label": "short b"})
    for result in more:
        write(tmp_path / result["run"], result)
        if result["kind"] == "student":
            text = f"wam: {{pretrained: {tmp_path / 'teacher_b' / 'teacher'}}}\n"
            (tmp_path / result["run"] / "recipe.yaml").write_text(text)
    rows, *_ = gather([tmp_path / n for n in ("teacher", "pairs", "teacher_b", "pairs_b")], tmp_path / "out")
    named = [re.match(r"The control, (\S+) ", one).group(1) for one in verdict(rows) if one.startswith("The control")]
    assert sorted(named) == ["teacher", "teacher_b"]


def test_shares_beside_a_ratio_are_of_the_scenes_that_it_is_of(tmp_path):
    def played(result, outcomes):
        tasks = {
            "drawer-open": {
                **result["tasks"]["drawer-open"],
                "episodes": len(outcomes),
                "success": sum(outcomes),
                "outcomes": outcomes,
            }
        }
        return {**result, "tasks": tasks, "training_seed": 0}

    long = played(teacher("teacher", 0.5), [1] * 10 + [0] * 25 + [1] * 15)
    short = played(student("pairs", 0.9), [1] * 9 + [0])
    by_name, rows = beside(tmp_path, [long, short])
    ours, theirs = fair_shares(by_name["pairs"], by_name["teacher"], "one-way")
    assert (ours.successes, ours.episodes, theirs.successes, theirs.episodes) == (9, 10, 10, 10)
    assert "in 90%, teacher 10v/10a in 100%, so it keeps 0.90" in verdict(rows)[0]


@pytest.mark.parametrize("other", [{"family": "b"}, {"family": "a", "parameters": {"model": 9}}])
def test_runs_of_one_name_of_another_family_or_size_are_no_trainings_of_one(tmp_path, other):
    told = [{"family": "a", "parameters": {"model": 1}}, {"parameters": {"model": 1}} | other]
    for number, facts in enumerate(told):
        one = student("pairs", 0.9 - 0.5 * number, training_seed=number, seed=number, **facts)
        write(tmp_path / str(number) / "pairs", one)
    rows, *_ = gather([tmp_path / "0" / "pairs", tmp_path / "1" / "pairs"], tmp_path / "out")
    assert {row.run: row.trainings for row in rows} == {"0/pairs": 1, "1/pairs": 1}


def test_what_is_not_paired_is_named_and_trainings_are_those_of_the_fewer(tmp_path):
    def trained(run, number, training, rate):
        result = student(run, rate, training_seed=training, seed=number)
        for name in TASKS:
            won = result["tasks"][name]["success"]
            result["tasks"][name]["outcomes"] = [1] * won + [0] * (50 - won)
        return {**result, "label": f"{run} {number}"}

    for run, trainings, rate in (("pairs", (0, 1, 2), 0.9), ("naive_lcm", (0, 1, 2), 0.5), ("further", (1000,), 0.4)):
        for number, training in enumerate(trainings):
            place = tmp_path / f"{run}_{training}"
            write(place, trained(run, number, training, rate))
    write(tmp_path / "teacher", teacher("teacher", 0.9))
    rows, *_ = gather(sorted(p for p in tmp_path.iterdir() if p.is_dir()), tmp_path / "out")
    (first, *_) = [sentence for sentence in verdict(rows) if sentence.startswith("At 1v/1a")]
    assert "over 1 to 3 trainings, that of further not paired: other trainings may come out in another order." in first


def test_numbers_that_are_none_are_null_in_the_file(tmp_path):
    measured = student("pairs", 0.9, open_loop={"action_error_teacher": float("nan")})
    compare([write(tmp_path / "pairs", {**measured, "latency": latency(1, 1)})], out=tmp_path / "out")

    def refuse(name):
        raise AssertionError(name)

    told = json.loads((tmp_path / "out" / "compare.json").read_text(), parse_constant=refuse)
    assert told["rows"][0]["open_loop"] == {"action_error_teacher": None}
