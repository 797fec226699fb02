# SPDX-License-Identifier: Apache-2.0
"""A verdict gives no numbers for tasks that one of two models was never driven on."""

import pytest
from synthetic import write

from flashwam.report.against import compare_rows
from flashwam.report.compare import gather
from flashwam.report.verdict import verdict

ONE, SEVERAL = "button-press", "reach-wall"


def driven(run, *, nfe=1, kind="student", **won):
    """An evaluation of twenty episodes a task, of which so many are won."""
    tasks = {}
    for name, count in ((name.replace("_", "-"), count) for name, count in won.items()):
        outcomes = [int(k < count) for k in range(20)]
        scenes = [1_000_000 + k for k in range(20)]
        tasks[name] = {"episodes": 20, "success": count, "outcomes": outcomes, "scenes": scenes}
        tasks[name] |= {"multimodal": name == SEVERAL, "commitment": 0.9 if name == SEVERAL else None}
    told = {"run": run, "kind": kind, "step": 9, "nfe": {"video": nfe, "action": nfe}, "tasks": tasks}
    return {**told, "label": f"{run} {nfe}", "seed": 0, "training_seed": 0}


def told(folder, *results):
    rows, *_ = gather([write(folder / str(number), result) for number, result in enumerate(results)], folder / "out")
    return rows, " ".join(verdict(rows))


@pytest.fixture
def teacher():
    return driven("teacher", nfe=10, kind="teacher", button_press=20, reach_wall=20)


def test_students_are_compared_on_what_both_were_driven_on(tmp_path, teacher):
    here = [teacher, driven("pairs", button_press=19, reach_wall=18), driven("naive", button_press=16)]
    rows, text = told(tmp_path, *here)
    assert "on the one-way tasks, pairs is " in text
    assert "on the two-way tasks, pairs is " not in text
    first, second = (row for row in rows if row.kind == "student")
    assert compare_rows(first, second, multimodal=True) is None
    assert compare_rows(first, second, multimodal=False) is not None


def test_so_are_the_untrained_teacher_and_its_student(tmp_path, teacher):
    control = driven("teacher", kind="teacher", button_press=20)
    _, text = told(tmp_path, teacher, control, driven("pairs", button_press=19, reach_wall=18))
    assert "reaches 100% on the one-way tasks" in text
    assert "0% on the two-way tasks" not in text
    nothing_common = driven("pairs", reach_wall=18)
    _, text = told(tmp_path / "apart", teacher, control, nothing_common)
    assert "The control" not in text


def test_a_teacher_that_was_not_driven_there_is_not_said_to_fail(tmp_path):
    one_way = driven("teacher", nfe=10, kind="teacher", button_press=20)
    _, text = told(tmp_path, one_way, driven("pairs", button_press=19, reach_wall=18))
    assert "on the two-way tasks in 90%, where the teacher was not driven" in text
    assert "teacher 10v/10a in 0%" not in text
