# SPDX-License-Identifier: Apache-2.0
"""Runs that differ in more than their method: of one name, on other tasks, steps, conventions, families, with other
samplers. None is taken for another, and nothing is compared that is not alike."""

import pytest
from synthetic import TASKS, evaluation, write
from test_against import rows_of, told

from flashwam.report.against import compare_rows, teacher_of
from flashwam.report.budget import budget
from flashwam.report.compare import compare, gather
from flashwam.report.forest_figure import _goal, _spans
from flashwam.report.verdict import verdict


def on(result, *names):
    """The evaluation on some of its tasks alone."""
    return {**result, "tasks": {name: result["tasks"][name] for name in names}}


def gathered(folder, *runs):
    """Rows of runs, each of one evaluation, in folders of their own."""
    for number, result in enumerate(runs):
        write(folder / f"{number}" / result["run"], result)
    rows, *_ = gather([folder / f"{number}" / result["run"] for number, result in enumerate(runs)], folder / "out")
    return rows


def test_runs_of_one_name_in_a_grid_of_folders_have_a_row_each(tmp_path):
    rates = {"lr1/b8": 0.9, "lr1/b16": 0.8, "lr2/b8": 0.1, "lr2/b16": 0.2}
    for place, rate in rates.items():
        write(tmp_path / place / "flash", evaluation("flash", rates=rate, training_seed=0))
    rows, *_ = gather([tmp_path / place / "flash" for place in rates], tmp_path / "out")
    assert {row.run: row.share().rate for row in rows} == {f"{place}/flash": rate for place, rate in rates.items()}


@pytest.mark.parametrize("sampler", ["euler", "unit"])
def test_a_student_without_its_own_sampler_has_a_page(tmp_path, sampler):
    run = write(tmp_path / "flash", evaluation("flash", kind="student", step=400, sampler=sampler))
    compare([run], out=tmp_path / "out")
    assert "None of these was driven with its own function" in (tmp_path / "out" / "compare.html").read_text()


def test_a_teacher_on_some_tasks_is_held_against_these(tmp_path):
    rates = dict.fromkeys(TASKS, 0.5) | {"drawer-open": 1.0, "window-open": 0.3}
    teacher = on(evaluation("teacher", kind="teacher", nfe=(10, 20), rates=0.4), "window-open")
    above, student = gathered(tmp_path, evaluation("flash", kind="student", step=400, rates=rates), teacher)
    found = compare_rows(student, above)
    assert (found.value, found.episodes) == (pytest.approx(-0.1), 50)
    assert student.kept["one-way"].value == pytest.approx(0.75)
    (first, *_) = verdict([student, above])
    assert "on the one-way tasks in 30%, teacher 10v/20a in 40%, so it keeps 0.75" in first
    assert "on the two-way tasks in 50%, where the teacher was not driven" in first


def test_a_control_on_some_tasks_does_not_say_that_distillation_costs(tmp_path):
    rates = dict.fromkeys(TASKS, 0.1) | {"drawer-open": 0.9}
    control = on(evaluation("teacher", kind="teacher", rates=0.9), "drawer-open")
    full = evaluation("teacher", kind="teacher", nfe=(10, 10), rates=0.9)
    rows = gathered(
        tmp_path, evaluation("flash", kind="student", step=400, rates=rates), control | {"run": "one"}, full
    )
    assert not any("Something is wrong" in text for text in verdict(rows))


def test_the_teacher_at_its_own_steps_is_no_control(tmp_path):
    full = evaluation("teacher", kind="teacher", nfe=(10, 20), rates=0.9)
    few, many = (
        evaluation("flash", kind="student", step=400, nfe=n, rates=r) for n, r in (((1, 1), 0.85), ((10, 20), 0.6))
    )
    rows = gathered(tmp_path, full, few | {"run": "flash"}, many | {"run": "slow"})
    assert not any("control" in text for text in verdict(rows))


def test_students_at_other_steps_of_the_same_passes_are_named_with_them(tmp_path):
    made = [
        told(run, rate, seed=seed, training=seed, nfe=nfe, kind="student", step=400)
        for run, nfe, rate in (("flash", (2, 1), 0.9), ("flash", (1, 2), 0.5), ("other", (1, 2), 0.7))
        for seed in range(2)
    ]
    rows = rows_of(tmp_path / "runs", *made)
    (text,) = [text for text in verdict(list(rows.values())) if text.startswith("At ") and "two-way" in text]
    assert text.startswith("At 3 network evaluations a chunk, on the two-way tasks, flash 2v/1a is ")
    assert "flash 1v/2a +" in text
    assert "other 1v/2a +" in text


def test_what_was_not_driven_on_a_group_has_no_course_on_it(tmp_path):
    one_way = [name for name, several in TASKS.items() if not several]
    for run, names in (("whole", TASKS), ("part", one_way)):
        steps = [evaluation(run, kind="student", step=step, rates=0.5) for step in (200, 400)]
        write(tmp_path / run, *(on(one, *names) for one in steps))
    write(tmp_path / "teacher", on(evaluation("teacher", kind="teacher", nfe=(10, 10), rates=0.9), *one_way))
    rows, *_ = gather([tmp_path / name for name in ("whole", "part", "teacher")], tmp_path / "out")
    course = budget(rows)
    assert list(course.success) == ["whole"]
    assert course.teacher is None


def test_a_teacher_that_never_succeeds_is_not_divided_by(tmp_path):
    teacher = evaluation("teacher", kind="teacher", nfe=(10, 10), rates=0.0)
    above, row = gathered(tmp_path, evaluation("flash", kind="student", step=400, rates=0.4), teacher)
    assert _spans(row, "one-way", [above, row]) is None
    assert _goal(above, "one-way") == 0.0


def test_a_teacher_in_open_loop_alone_is_not_held_against(tmp_path):
    undriven = {
        **evaluation("teacher", kind="teacher", nfe=(10, 20)),
        "tasks": {},
        "open_loop": {"action_error_teacher": 0.1},
    }
    driven = evaluation("teacher", kind="teacher", nfe=(5, 5), rates=0.8)
    write(tmp_path / "teacher", undriven, driven)
    run = write(tmp_path / "flash", evaluation("flash", kind="student", step=400, rates=0.4))
    rows, *_ = gather([tmp_path / "teacher", run], tmp_path / "out")
    (student,) = [row for row in rows if row.kind == "student"]
    assert student.kept["two-way"].value == pytest.approx(0.5)


def test_a_teacher_is_of_the_students_family(tmp_path):
    other = evaluation("first", kind="teacher", family="a", nfe=(10, 20), rates=0.9)
    own = evaluation("second", kind="teacher", family="b", nfe=(10, 10), rates=0.5)
    rows = gathered(tmp_path, other, own, evaluation("flash", kind="student", step=400, family="b", rates=0.5))
    student = next(row for row in rows if row.kind == "student")
    assert teacher_of(student, rows).run == "second"
    assert student.kept["two-way"].value == 1.0
    assert "first" not in verdict(rows)[0]


def test_a_training_that_ended_sooner_is_named(tmp_path, caplog):
    for number, step in enumerate((400, 390)):
        write(tmp_path / f"{number}", evaluation("flash", kind="student", step=step, seed=number, training_seed=number))
    gather([tmp_path / "0", tmp_path / "1"], tmp_path / "out")
    (text,) = [one.getMessage() for one in caplog.records if "fewer alone" in one.getMessage()]
    assert text.startswith("flash is compared after 400 steps")
    assert text.endswith("1 (390)")
