# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import numpy as np
import pytest
from contracts import held_to_the_contract
from libero_here import needs_libero, skip_without_rendering

from flashwam.core.scenes import JUDGED_SEED, evaluation_scene, recorded_scene
from flashwam.data.episodes import episode_path, read_episode_list, read_frames, read_info, read_table, video_path
from flashwam.recipe.load import load_recipe
from flashwam.sim.closed_loop import drive
from flashwam.sim.collect import NoiseBursts, collect, record_episode
from flashwam.sim.contract import Task
from flashwam.sim.libero.conventions import get_convention
from flashwam.sim.libero.scene_env import SceneEnv, _initial_state
from flashwam.sim.libero.scenes import SceneTask
from flashwam.sim.random_policy import RandomPolicy
from flashwam.sim.simulators import driven_by, get_task, make_env
from flashwam.sim.tasks import TaskSpec


def test_tasks_of_every_simulator_are_found_by_name_without_it():
    assert isinstance(get_task("reach-wall"), TaskSpec)
    milk, bowls = get_task("libero_object_7"), get_task("libero_two_bowls")
    assert (milk.suite, milk.index, milk.multimodal, bowls.multimodal) == ("libero_object", 7, False, True)
    assert len(bowls.ways) == len(bowls.goals)
    assert np.linalg.norm(bowls.axis) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("name", ["libero_object_10", "libero_object_01", "libero_object", "libero_mine_0", "libero_"])
def test_a_task_that_libero_has_not_is_refused(name):
    with pytest.raises(ValueError, match=r"libero_object_0 to _9.*libero_90_0 to _89, libero_two_bowls"):
        get_task(name)


def test_what_is_no_simulator_s_task_is_refused():
    with pytest.raises(ValueError, match="tasks that are int"):
        make_env(3)


def test_a_recipe_of_libero_is_checked_where_libero_is_not():
    recipe = load_recipe("libero_small/teacher")
    assert recipe.data.simulated
    assert sum(get_task(name).multimodal for name in recipe.data.tasks) == 1
    with pytest.raises(ValueError, match=r"data\.tasks: unknown task 'libero_object_99'"):
        load_recipe("libero_small/teacher", ["data.tasks=[libero_object_99]"])


@needs_libero
def test_tasks_of_every_simulator_have_what_is_asked_of_one():
    tasks = [get_task(name) for name in ("drawer-open", "libero_spatial_0", "libero_two_bowls")]
    assert all(isinstance(task, Task) for task in tasks)
    assert [task.prompt.split()[0] for task in tasks] == ["open", "Pick", "put"]
    assert {task.max_steps for task in tasks[1:]} == {get_convention("small").steps("libero_spatial")}


@needs_libero
def test_a_result_tells_the_convention_of_scenes_alone():
    assert driven_by(["drawer-open"]) == {}
    told = driven_by(["drawer-open", "libero_two_bowls", "libero_object_7"])["simulator"]
    assert (told["suite"], told["convention"]["name"]) == ("libero_object, libero_spatial", "small")
    assert told["instructions"]["libero_two_bowls"] == "put a black bowl on the plate"
    assert len(told["instructions"]) == 2


@pytest.fixture(scope="module")
def env():
    skip_without_rendering()
    env = SceneEnv(replace(get_task("libero_two_bowls"), max_steps=160))
    yield env
    env.close()


@needs_libero
def test_a_scene_is_held_to_the_contract_with_its_views_side_by_side(env):
    held_to_the_contract(env, scene=3, controls=7, views=2)


def test_no_two_scenes_of_evaluations_are_one_initial_state_and_a_judge_s_are_none():
    seeds = (0, 1, 2, 3, JUDGED_SEED)
    states = {
        (seed, episode): _initial_state(evaluation_scene(seed, episode), 50) for seed in seeds for episode in range(60)
    }
    used = [state for state in states.values() if state is not None]
    assert sorted(used) == list(range(50))
    assert states[1, 0] == 20
    assert not any(states[JUDGED_SEED, episode] is not None for episode in range(60))
    assert all(_initial_state(scene, 50) is None for scene in (0, 20, recorded_scene(0, 0)))


@needs_libero
def test_evaluations_begin_in_the_benchmark_s_states_and_nothing_else_does(env):
    def begun(scene):
        env.reset(scene, render=False)
        return env._env.domain.sim.get_state().qpos.copy()

    first = begun(evaluation_scene(1, 0))
    env._env.reset(20, render=False)
    np.testing.assert_array_equal(first, env._env.domain.sim.get_state().qpos)
    others = [begun(scene) for scene in (evaluation_scene(0, 20), 20, evaluation_scene(JUDGED_SEED, 0))]
    others += [begun(scene) for scene in (evaluation_scene(1, 1), recorded_scene(0, 20))]
    assert all(np.abs(first - other).max() > 1e-3 for other in others)
    np.testing.assert_array_equal(begun(20), others[1])


@needs_libero
@pytest.mark.parametrize("way", [0, 1])
def test_either_bowl_may_be_put_onto_the_plate_and_tells_the_way(env, way):
    columns, pictures, taken = record_episode(env, 5, noise=NoiseBursts(scale=0.5), way=way)
    assert taken == way
    assert len(pictures) % 4 == 1
    assert pictures.shape[1:] == (64, 128, 3)
    assert columns["action"].shape == (len(pictures), 7)
    assert columns["observation.state"].shape == (len(pictures), 8)
    disturbed = (columns["action"] != columns["executed_action"]).any(0)
    assert disturbed[:3].all()
    assert not disturbed[3:].any()
    with pytest.raises(ValueError, match=r"expected a way of \[0, 1\], got -1"):
        env.expert()


@needs_libero
def test_demonstrations_are_collected_and_a_policy_is_driven(tmp_path):
    skip_without_rendering()
    name = "libero_object_1"
    assert isinstance(get_task(name), SceneTask)
    summary = collect(tmp_path, [name], episodes=1, processes=1, progress=False)
    assert summary.episodes == {name: 1}
    repo = tmp_path / name
    info = read_info(repo)
    assert (info["fps"], info["robot_type"]) == (20, "panda")
    assert info["features"]["observation.images.front"]["shape"] == [64, 128, 3]
    assert read_episode_list(repo)[0]["tasks"] == ["Pick the cream cheese and place it in the basket"]
    rows = len(read_table(episode_path(repo, 0))["action"])
    assert read_frames(video_path(repo, 0)).shape == (rows, 64, 128, 3)
    short = replace(get_task(name), max_steps=8)
    done = drive(RandomPolicy(7), short, episodes=5)
    assert done.steps == (8,) * 5
    assert done.success == (False,) * 5
