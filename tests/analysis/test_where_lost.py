# SPDX-License-Identifier: Apache-2.0
"""Two policies at one robot, first chunks beside the teacher, and the tables of what came of them."""

import first_chunks
import numpy as np
import pytest
import where_lost
from handover import Handover

from flashwam.sim.closed_loop import drive
from flashwam.sim.random_policy import RandomPolicy
from flashwam.sim.tasks import get_task
from flashwam.sim.ways import chosen_ways


class Told:
    """A policy that gives its own number, and remembers what it was told."""

    batch, per_frame = None, 4

    def __init__(self, number):
        self.number, self.draws, self.told = number, 0, []

    def reset(self, prompt, frames, *, seed, state=None):
        self.told.append(("reset", seed))

    def controls(self):
        self.draws += 1
        return np.full((1, 4, 4), self.number)

    def observe(self, pictures, controls, *, state=None, under_way=0):
        self.told.append(("observe", controls[0, 0, 0]))


def test_the_first_chunk_is_one_policys_and_all_others_the_others():
    first, then = Told(1), Told(2)
    both = Handover(first, then)
    for seed in (5, 6):
        both.reset("go", np.zeros((1, 2, 2, 3)), seed=seed)
        given = []
        for _ in range(3):
            given.append(both.controls())
            both.observe(np.zeros((1, 1, 2, 2, 3)), given[-1])
        assert [chunk[0, 0, 0] for chunk in given] == [1, 2, 2]
    # The one that goes on has spent its noise of every chunk, and knows what the other one did.
    assert (first.draws, then.draws) == (2, 6)
    assert first.told == [("reset", 5), ("reset", 6)]
    assert then.told[:4] == [("reset", 5), ("observe", 1), ("observe", 2), ("observe", 2)]


def test_a_policy_that_hands_over_to_itself_drives_as_it_does_alone():
    task = get_task("reach-wall")
    alone, both = (
        drive(policy, task, episodes=2, seed=3) for policy in (RandomPolicy(), Handover(RandomPolicy(), RandomPolicy()))
    )
    assert (both.success, both.ways, both.steps) == (alone.success, alone.ways, alone.steps)


def test_a_chunk_chooses_where_it_clearly_leaves_to_one_side():
    task = get_task("reach-wall")
    controls = np.zeros((3, 16, 4))
    controls[0, :8, 0], controls[1, :8, 0], controls[2, 8:, 0] = -1, 1, 1
    assert chosen_ways(controls, task).tolist() == [0, 1, -1]


def driven(won, way):
    return {"wall": {"outcomes": won, "taken": way}}


def test_the_tables_hold_each_order_against_the_teacher():
    orders = {
        "teacher": driven([1, 1, 1, 0], [0, 1, 1, -1]),
        where_lost.TEACHER_FIRST: driven([1, 1, 1, 0], [0, 1, 1, -1]),
        where_lost.STUDENT_FIRST: driven([1, 1, 0, 0], [0, 1, -1, -1]),
        "student": driven([1, 0, 0, 0], [0, -1, -1, -1]),
    }
    told = {"handover": {"0 1v/1a": orders, "1 1v/1a": orders}}
    lines = list(where_lost.handover_lines(told))[2:]
    assert [line.split(" | ")[2] for line in lines] == ["6 of 8", "6 of 8", "4 of 8", "2 of 8"]
    assert [line.split(" | ")[3][:5] for line in lines] == ["-", "1.000", "0.667", "0.333"]
    assert lines[3].endswith("| 2/0/6 | 2 |")


def test_shares_are_means_over_tasks_and_trainings():
    shares = {"teacher chooses": 1.0, "same": 1.0, "error": 0.5}
    rows = [
        {"scenes": "new", "task": task, "training": seed, "nfe": "1v/1a", "chooses": share, "hesitates": 1 - share}
        | shares
        for seed, share in enumerate((0.9, 0.8))
        for task in ("wall", "other wall")
    ]
    assert list(where_lost.share_lines(rows, "scenes"))[2:] == [
        "| new | 1v/1a | 0.850 | 1.000 | 0.150 | 1.000 | 0.500 | 1,000 | 2 |"
    ]


def test_a_first_chunk_is_held_against_the_teachers():
    task = get_task("reach-wall")
    teachers, own = np.zeros((4, 16, 4)), np.zeros((4, 16, 4))
    teachers[:3, :8, 0], own[:2, :8, 0] = 1, [[1], [-1]]
    assert first_chunks.beside(own, teachers, task) == {
        "chooses": 0.5,
        "teacher chooses": 0.75,
        "hesitates": pytest.approx(1 / 3),
        "same": 0.5,
        "error": pytest.approx((2 + 1) * 8 / (4 * 16 * 4)),
    }


def test_what_was_not_evaluated_is_asked_for(tmp_path):
    with pytest.raises(SystemExit, match=r"was not evaluated at 1v/1a with seed 0: run analysis/one_step\.py first"):
        where_lost.alone(tmp_path, 0, "1v/1a", ["wall"])
