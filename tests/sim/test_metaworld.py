# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import numpy as np
import pytest

from flashwam.core.scenes import EVAL_SEED_BASE
from flashwam.sim.experts import make_expert
from flashwam.sim.metaworld import MetaWorldEnv
from flashwam.sim.simulators import get_task, pooled_envs
from flashwam.sim.tasks import BUTTON_DRIFT, TASKS

pytestmark = pytest.mark.usefixtures("simulator")
MULTIMODAL = [name for name, task in TASKS.items() if task.multimodal]


def play(env, experts, seed, *, replan_every=1):
    """Executes the mean of the experts' actions, asked anew every `replan_every` steps."""
    env.reset(seed, render=False)
    done = success = False
    while not done:
        if env.steps % replan_every == 0:
            action = np.mean([expert(env.state) for expert in experts], axis=0)
        done, success, _ = env.step(action)
    return success


@pytest.mark.parametrize("name", [name for name in TASKS if name not in MULTIMODAL])
def test_expert_solves_the_ordinary_task(name):
    env = MetaWorldEnv(name)
    expert = make_expert(env.task, env.env)
    assert all(play(env, [expert], EVAL_SEED_BASE + seed) for seed in range(3))


@pytest.mark.parametrize("name", MULTIMODAL)
def test_each_way_succeeds_and_their_average_never_does(name):
    env = MetaWorldEnv(name)
    experts = [make_expert(env.task, env.env, way) for way in range(len(env.task.ways))]
    for way, expert in enumerate(experts):
        for seed in range(4):
            assert play(env, [expert], seed)
            assert env.way() == way
    for seed in range(6):
        assert not play(env, experts, seed)
        assert env.way() == -1


@pytest.mark.parametrize("name", MULTIMODAL)
def test_average_of_the_ways_fails_when_replanned_every_chunk(name):
    env = MetaWorldEnv(name)
    experts = [make_expert(env.task, env.env, way) for way in range(len(env.task.ways))]
    assert not any(play(env, experts, seed, replan_every=8) for seed in range(6))


def test_an_episode_depends_on_its_seed_alone():
    env = MetaWorldEnv("faucet-turn")
    expert = make_expert(env.task, env.env, 0)
    first = env.reset(5)
    for _ in range(20):
        env.step(expert(env.state))
    path, picture = env.hand_path, env.render()
    env.reset(6)
    for _ in range(7):
        env.step(np.ones(4))
    assert (env.reset(5) == first).all()
    for _ in range(20):
        env.step(expert(env.state))
    assert (env.hand_path == path).all()
    assert (env.render() == picture).all()
    assert not (env.reset(6) == first).all()


def test_a_moving_button_is_carried_through_the_middle_and_comes_back_at_a_reset_alone():
    env, still = MetaWorldEnv("button-moving"), MetaWorldEnv("button-press")
    for seed in (3, 4):
        assert (env.reset(seed) == still.reset(seed)).all()
        at = env.state[4:7].copy()
        for _ in range(40):
            env.step(np.zeros(4))
            still.step(np.zeros(4))
        assert np.abs(still.state[4:7] - at).max() < 1e-6
        carried = env.state[4:7] - at
        assert carried[0] == pytest.approx(-np.sign(at[0]) * 40 * BUTTON_DRIFT, abs=1e-6)
        assert np.abs(carried[1:]).max() < 1e-3
        assert not (env.render() == still.render()).all()


@pytest.mark.parametrize(("name", "pressed"), [("button-press", True), ("button-moving", False)])
def test_one_who_looks_and_waits_finds_the_button_where_it_stands_still_alone(name, pressed):
    """The scripted expert, sixty controls after its only look at how far to the side the button is."""
    env = MetaWorldEnv(replace(get_task(name), max_steps=160))
    expert = make_expert(env.task, env.env)
    for seed in range(2):
        env.reset(seed, render=False)
        seen, done = env.state[4], False
        while not done:
            told = env.state.copy()
            told[4] = seen
            done, success, _ = env.step(np.zeros(4) if env.steps < 60 else expert(told))
        assert success == pressed


def test_an_episode_may_last_longer_than_metaworld_allows_by_itself():
    env = MetaWorldEnv(replace(get_task("drawer-open"), max_steps=510))
    env.reset(0, render=False)
    assert [env.step(np.zeros(4))[0] for _ in range(510)].index(True) == 509


def test_first_picture_shows_where_the_scene_is():
    # The picture must follow the seed's positions, not those of the reset before.
    env = MetaWorldEnv("button-press")
    alone = MetaWorldEnv("button-press").reset(3)
    env.reset(9)
    assert (env.reset(3) == alone).all()
    assert (env.render() == alone).all()


def test_touching_the_wall_ends_the_episode_without_success():
    env = MetaWorldEnv("reach-wall")
    env.reset(0, render=False)
    done = False
    while not done:
        done, success, info = env.step(np.array([0.0, 1.0, 0.0, 1.0]))
    assert info.touched
    assert not success
    assert env.steps < env.task.max_steps


def test_expert_refuses_a_way_the_task_does_not_have():
    env = MetaWorldEnv("reach-wall")
    with pytest.raises(ValueError, match="expected a way"):
        make_expert(env.task, env.env)


def test_pooled_environments_are_kept_and_independent():
    task = get_task("faucet-turn")
    pair = pooled_envs(task, 2)
    assert pooled_envs(task, 2) == pair
    assert pooled_envs(task, 1) == pair[:1]
    first, second = (env.reset(seed) for env, seed in zip(pair, (1, 2), strict=True))
    pair[0].step(np.ones(4))
    assert (pair[1].render() == second).all()
    assert (pair[0].reset(1) == first).all()
    assert not (first == second).all()


@pytest.mark.parametrize("name", TASKS)
def test_the_hand_starts_where_the_task_says(name):
    env = MetaWorldEnv(name)
    for seed in (0, 1):
        env.reset(seed, render=False)
        assert np.abs(env.state[:3] - env.task.hand).max() < 0.02


def test_pictures_may_be_larger_than_the_scenes_own_buffer():
    env = MetaWorldEnv("reach-wall", size=518)
    assert env.reset(EVAL_SEED_BASE).shape == (518, 518, 3)
