# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

import numpy as np
import pytest
from libero_here import needs_libero

from flashwam.sim.libero import LiberoEnv, get_convention, suite_tasks
from flashwam.sim.libero.bddl import parse_problem
from flashwam.sim.libero.expert import PickAndPlace, box_of

TEXT = "(define (problem p) (:language do) (:goal (And {})))"


class Table:
    """A scene without a simulator: cubes of 4 cm, a bowl of 10 cm and a basket; the hand goes where it is sent."""

    def __init__(self, goal):
        self.task = SimpleNamespace(name="do", problem=parse_problem(TEXT.format(goal)))
        places = {"cube_1": [0.1, 0.0, 0.02], "bowl_1": [0.0, 0.2, 0.03], "basket_1": [0.0, -0.2, 0.05]}
        sizes = {"cube_1": [0.02, 0.02, 0.02], "bowl_1": [0.05, 0.05, 0.03], "basket_1": [0.08, 0.08, 0.05]}
        names = list(places)
        self.model = SimpleNamespace(
            nbody=4,
            ngeom=3,
            body_parentid=np.zeros(4, int),
            geom_bodyid=np.arange(1, 4),
            geom_group=np.zeros(3, int),
            geom_aabb=np.array([[0.0, 0, 0, *sizes[name]] for name in names]),
        )
        place = np.array([places[name] for name in names])
        data = SimpleNamespace(geom_xpos=place, geom_xmat=np.tile(np.eye(3).ravel(), (3, 1)))
        data.body_xpos = np.concatenate([np.zeros((1, 3)), place])
        ids = {name: i + 1 for i, name in enumerate(names)}
        sim = SimpleNamespace(model=self.model, data=data)
        self.domain = SimpleNamespace(sim=sim, obj_body_id=ids, objects_dict=dict.fromkeys(names))
        self.hand = np.array([0.0, 0.0, 0.3])

    def play(self, steps=200):
        """Plays an episode: places where the gripper closed and opened again, [3] each, and the greatest height between."""
        expert, hands, efforts = PickAndPlace(self), [], []
        for _ in range(steps):
            control = expert()
            hands.append(self.hand.copy())
            efforts.append(control[-1])
            self.hand = self.hand + 0.05 / 3 * control[:3]
        closed = np.flatnonzero(np.array(efforts) > 0)
        return hands[closed[0]], hands[closed[-1] + 1], max(hand[2] for hand in hands[closed[0] : closed[-1]])


def test_a_thing_is_held_below_its_top_and_carried_over_everything():
    closed, opened, highest = Table("(In cube_1 basket_1_contain_region)").play()
    np.testing.assert_allclose(closed, [0.1, 0.0, 0.012], atol=0.011)
    np.testing.assert_allclose(opened[:2], [0.0, -0.2], atol=0.011)
    assert 0.06 < opened[2] < 0.1
    assert highest > 0.15


def test_what_is_too_wide_for_the_fingers_is_taken_by_its_rim_on_the_free_side():
    closed, opened, _ = Table("(On bowl_1 basket_1)").play()
    assert abs(closed[1] - 0.238) < 0.011
    assert abs(opened[1] - (-0.2 + 0.038)) < 0.011


def test_boxes_are_those_of_what_can_be_touched():
    table = Table("(On cube_1 basket_1)")
    np.testing.assert_allclose(box_of(table, "cube_1"), [[0.08, -0.02, 0.0], [0.12, 0.02, 0.04]])
    table.model.geom_group[0] = 1
    np.testing.assert_allclose(box_of(table, "cube_1"), [[0.1, 0.0, 0.02]] * 2)


@pytest.mark.parametrize(
    ("goal", "fault"),
    [
        ("(Open cube_1)", "asks for open cube_1"),
        ("(In cube_1 basket_1) (In bowl_1 basket_1)", "asks for in cube_1 basket_1 and in bowl_1 basket_1"),
        ("(On cube_1 table_region)", "no such bodies"),
        ("(On tea_1 basket_1)", "no such bodies"),
    ],
)
def test_other_tasks_are_refused(goal, fault):
    with pytest.raises(ValueError, match=fault):
        PickAndPlace(Table(goal))


@needs_libero
@pytest.mark.parametrize(("suite", "index"), [("libero_object", 1), ("libero_spatial", 2)])
def test_the_expert_solves_a_task(suite, index):
    env = LiberoEnv(suite_tasks(suite)[index], convention=get_convention("common"))
    env.reset(0, render=False)
    expert, done = PickAndPlace(env), False
    while not done:
        done, success, _ = env.step(expert())
    env.close()
    assert success
