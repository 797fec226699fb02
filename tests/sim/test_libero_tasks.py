# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from libero_here import needs_libero

from flashwam.sim.libero import STANDARD_SUITES, LiberoTask, choose_tasks, horizon_of, suite_names, suite_tasks
from flashwam.sim.libero.bddl import parse_problem

TEXT = """\
(define (problem LIBERO_Tabletop_Manipulation)  ; of a test
  (:domain robosuite)
  (:language put the milk into
     the Basket)
  (:regions (milk_region (:target table) (:ranges ((-0.1 0.2 0.1 0.3)))))
  (:fixtures table - table  shelf_1 shelf_2 - shelf)
  (:objects milk_1 milk_2 - milk basket_1 - basket)
  (:obj_of_interest milk_1 basket_1)
  (:init (On milk_1 table_milk_region))
  (:goal (And (In milk_1 basket_1_contain_region) (And (Open shelf_1))))
)
"""


def made(tmp_path, count=3):
    tasks = []
    for index in range(count):
        name = f"put_the_tea_{index}"
        (tmp_path / f"{name}.bddl").write_text(TEXT)
        files = {"bddl_file": tmp_path / f"{name}.bddl", "states_file": tmp_path / f"{name}.pruned_init.npz"}
        np.savez(files["states_file"], states=np.zeros((50, 9)))
        tasks.append(LiberoTask(suite="libero_tea", index=index, name=name, **files))
    return tasks


def test_a_problem_is_read_from_its_text():
    problem = parse_problem(TEXT)
    assert problem.name == "LIBERO_Tabletop_Manipulation"
    assert problem.language == "put the milk into the Basket"
    assert problem.objects == {"milk_1": "milk", "milk_2": "milk", "basket_1": "basket"}
    assert problem.fixtures == {"table": "table", "shelf_1": "shelf", "shelf_2": "shelf"}
    assert problem.of_interest == ("milk_1", "basket_1")
    assert problem.goal == (("in", "milk_1", "basket_1_contain_region"), ("open", "shelf_1"))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "must be one"),
        ("(defined (problem a))", "must be one"),
        (TEXT[:-3], "leaves 1 bracket"),
        (TEXT + ")", "closes a bracket"),
        (TEXT.replace(":language", ":words"), r"lacks \(:language"),
        (TEXT.replace("(:goal", "(:end"), r"lacks \(:goal"),
    ],
)
def test_what_is_no_problem_is_refused(text, fault):
    with pytest.raises(ValueError, match=f"a.bddl {fault}"):
        parse_problem(text, "a.bddl")


def test_the_instruction_is_the_file_s_content_and_not_its_name(tmp_path):
    task = made(tmp_path)[0]
    assert task.prompt == "put the milk into the Basket"
    assert task.states.shape == (50, 9)
    task.states_file.unlink()
    task.bddl_file.unlink()
    fresh = LiberoTask(suite="s", index=0, name="a", bddl_file=task.bddl_file, states_file=task.states_file)
    with pytest.raises(FileNotFoundError, match="no initial states"):
        _ = fresh.states
    with pytest.raises(FileNotFoundError, match="reinstall LIBERO"):
        _ = fresh.prompt


def test_tasks_are_chosen_by_number_or_name(tmp_path):
    tasks = made(tmp_path)
    assert choose_tasks(tasks, None) == tuple(tasks)
    assert choose_tasks(tasks, ["2", "put_the_tea_0", "0"]) == (tasks[0], tasks[2])
    with pytest.raises(ValueError, match="did you mean 'put_the_tea_1'"):
        choose_tasks(tasks, ["put_the_te_1"])
    with pytest.raises(ValueError, match="numbers from 0 to 2"):
        choose_tasks(tasks, ["3"])


def test_horizons_follow_the_suite_that_was_changed():
    names = ("libero_spatial", "libero_object_task", "libero_goal_with_milk", "libero_10", "libero_90", "libero_mine")
    assert [horizon_of(name) for name in names] == [220, 280, 300, 520, 400, 520]


@needs_libero
def test_every_suite_has_its_tasks_with_words_and_states():
    names = suite_names()
    assert names[:5] == STANDARD_SUITES
    assert {"libero_10_lan", "libero_goal_swap", "libero_object_with_mug"} <= set(names)
    assert [len(suite_tasks(name)) for name in STANDARD_SUITES] == [10, 10, 10, 10, 90]
    for name in names:
        for task in suite_tasks(name):
            assert task.prompt == task.prompt.strip() != "", (name, task.name)
            assert task.problem.goal
    assert all(task.states.shape[0] == 50 for task in suite_tasks("libero_10"))


def test_the_name_has_words_too(tmp_path):
    """Of both kinds of names: those of LIBERO-100 begin with their scene."""
    task = made(tmp_path)[0]
    assert task.instruction("file") == task.prompt
    assert task.instruction("name") == "put the tea 0"
    files = {"bddl_file": task.bddl_file, "states_file": task.states_file}
    scene = LiberoTask(suite="s", index=0, name="LIVING_ROOM_SCENE10_put_it_on", **files)
    assert scene.instruction("name") == "put it on"
    with pytest.raises(ValueError, match="must be one of file, name; got 'mind'"):
        task.instruction("mind")


@needs_libero
def test_long_tasks_are_told_as_they_are_named_and_others_are_not():
    differing = {
        suite: sum(task.prompt != task.instruction("name") for task in suite_tasks(suite)) for suite in STANDARD_SUITES
    }
    assert differing == {
        "libero_spatial": 10,
        "libero_object": 10,
        "libero_goal": 10,
        "libero_10": 0,
        "libero_90": 4,
    }


@needs_libero
def test_a_changed_instruction_reaches_the_policy():
    before, after = (suite_tasks(name)[0] for name in ("libero_10", "libero_10_task"))
    assert before.name == after.name
    assert after.prompt == "put both the cream cheese and the tomato sauce in the basket" != before.prompt


@needs_libero
def test_a_suite_that_is_not_here_is_refused():
    with pytest.raises(ValueError, match="unknown; did you mean 'libero_goal'"):
        suite_tasks("libero_gool")
    with pytest.raises(ValueError, match="listed without its files"):
        suite_tasks("libero_10_env")
