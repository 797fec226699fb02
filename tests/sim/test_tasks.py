# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from flashwam.sim.collect import NoiseBursts
from flashwam.sim.tasks import TASKS, get_task
from flashwam.sim.ways import toss_way


def test_suite_has_ordinary_and_multimodal_tasks_with_whole_latent_frames():
    kinds = [task.multimodal for task in TASKS.values()]
    assert kinds.count(True) >= 2
    assert kinds.count(False) >= 3
    assert all(task.max_steps % 4 == 0 for task in TASKS.values())
    standing = [task.prompt for task in TASKS.values() if not task.moving]
    assert len(set(standing)) == len(standing)


def test_a_moving_task_is_a_standing_one_to_a_policy_that_knows_that():
    """Same scene, words and first picture; nothing but time tells them apart."""
    moving = [task for task in TASKS.values() if task.moving]
    assert moving
    for task in moving:
        (known,) = (other for other in TASKS.values() if not other.moving and other.prompt == task.prompt)
        assert (known.env, known.hand, known.low, known.camera) == (task.env, task.hand, task.low, task.camera)


def test_unknown_task_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'reach-wall'"):
        get_task("reach-wal")


def test_ways_are_balanced_and_differ_between_tasks_and_seeds():
    wall, faucet = get_task("reach-wall"), get_task("faucet-turn")
    tosses = [toss_way(wall, i, 0) for i in range(200)]
    assert all(tosses[i] + tosses[i + 1] == 1 for i in range(0, 200, 2))
    assert tosses != [toss_way(faucet, i, 0) for i in range(200)]
    assert tosses != [toss_way(wall, i, 1) for i in range(200)]
    assert toss_way(get_task("drawer-open"), 3, 0) == -1


def test_noise_bursts_leave_the_gripper_alone_and_hold_their_push():
    noise = NoiseBursts(probability=0.2, shortest=3, longest=3).draw(400, np.random.default_rng(0))
    assert not noise[:, 3].any()
    pushed = np.abs(noise[:, 0]) > 0
    assert 0.2 < pushed.mean() < 0.6
    starts = np.flatnonzero(pushed[1:-3] & ~pushed[:-4]) + 1
    assert all((noise[s] == noise[s + 2]).all() for s in starts)
    assert not NoiseBursts(probability=0.0).draw(50, np.random.default_rng(0)).any()


def test_noise_refuses_nonsense():
    with pytest.raises(ValueError, match="probability"):
        NoiseBursts(probability=2.0)
