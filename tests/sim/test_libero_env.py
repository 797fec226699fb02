# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from contracts import held_to_the_contract
from libero_here import needs_libero, skip_without_rendering
from scipy.spatial.transform import Rotation

from flashwam.sim.libero import CONVENTIONS, LiberoEnv, get_convention, suite_tasks
from flashwam.sim.libero.conventions import ACTION_SCALE, CAMERAS, Convention
from flashwam.sim.libero.rendering import SceneCameras
from flashwam.sim.metaworld import MetaWorldEnv


@pytest.fixture(scope="module")
def env():
    skip_without_rendering()
    env = LiberoEnv(suite_tasks("libero_object")[0], convention=get_convention("lingbot_va").changed(max_steps=12))
    yield env
    env.close()


def played(env, scene, controls):
    env.reset(scene, render=False)
    for control in controls:
        env.step(control)
    return env.proprioception, env.look()


@pytest.mark.usefixtures("simulator")
def test_metaworld_is_held_to_the_contract():
    held_to_the_contract(MetaWorldEnv("button-press"), scene=3, controls=4)


def test_conventions_are_named_and_told():
    common, published = CONVENTIONS["common"], get_convention("lingbot_va")
    assert [common.steps(suite) for suite in ("libero_spatial", "libero_10")] == [220, 520]
    assert (published.steps("libero_spatial"), published.idle_steps, published.idle_gripper) == (800, 5, 0.0)
    assert published.changed(size=128, max_steps=None) is published
    changed = published.changed(max_steps=20).changed(shading="plain")
    assert (changed.name, changed.steps("libero_10"), changed.idle_steps) == ("lingbot_va*", 20, 5)
    told = common.to_json("libero_goal")
    assert (told["max_steps"], told["size"], told["cameras"]) == (300, 256, CAMERAS)
    assert told["action_scale"] == {"translation_m": 0.05, "rotation_rad": 0.5}
    assert told["rotation"] == "rotation vector about the world's axes, from where the hand is"


@pytest.mark.parametrize(
    "wrong", [{"shading": "dark"}, {"instruction": "ear"}, {"max_steps": 0}, {"size": 0}, {"idle_steps": -1}]
)
def test_a_convention_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Convention(name="own", **wrong)
    with pytest.raises(ValueError, match="did you mean 'common'"):
        get_convention("comon")


@needs_libero
def test_libero_is_held_to_the_contract(env):
    held_to_the_contract(env, scene=3, controls=7)
    assert env.prompt == "Pick the alphabet soup and place it in the basket"
    assert env.cameras == tuple(CAMERAS)


@needs_libero
def test_an_episode_depends_on_its_scene_alone(env):
    controls = np.random.default_rng(0).uniform(-1, 1, (8, 7))
    np.random.seed(1)
    expected = np.random.get_state()[1].copy()
    felt, seen = played(env, 5, controls)
    assert np.array_equal(np.random.get_state()[1], expected)
    played(env, 6, controls[:3])
    np.random.seed(2)
    again, seen_again = played(env, 5, controls)
    assert np.array_equal(felt, again)
    assert all(np.array_equal(seen[key], seen_again[key]) for key in CAMERAS)
    assert not np.array_equal(played(env, 6, controls)[1][env.cameras[0]], seen[env.cameras[0]])


@needs_libero
def test_resets_that_keep_the_model_are_those_of_the_benchmark(env):
    """The benchmark builds its model anew for every episode; what was done before leaves no trace here either."""
    from libero.libero.envs.env_wrapper import ControlEnv

    controls = np.random.default_rng(1).uniform(-1, 1, (6, 7))
    played(env, 2, [np.full(7, 0.9)] * 8)
    played(env, 9, controls)
    ours = env.domain.sim.get_state().flatten()
    other = ControlEnv(bddl_file_name=str(env.task.bddl_file), use_camera_obs=False, has_offscreen_renderer=False)
    np.random.seed(9)
    other.env.reset()
    other.set_init_state(env.task.states[9])
    for control in [*np.zeros((env.convention.idle_steps, 7)), *controls]:
        other.step(control)
    # Its solver was warm from other places of the objects, before the initial state was set.
    np.testing.assert_allclose(other.env.sim.get_state().flatten(), ours, rtol=0, atol=1e-9)
    other.close()


@needs_libero
def test_controls_are_those_of_the_benchmark_bit_for_bit(env):
    controls = np.random.default_rng(2).uniform(-1, 1, (12, 7))
    sim = env.domain.sim
    faster = sim.forward, sim.step

    def states():
        env.reset(4, render=False)
        for control in controls:
            env.step(control)
            yield np.concatenate([sim.get_state().flatten(), sim.data.qacc_warmstart, sim.data.sensordata])

    ours = list(states())
    del sim.forward, sim.step
    try:
        own = list(states())
    finally:
        sim.forward, sim.step = faster
    assert np.array_equal(ours, own)
    assert np.abs(np.diff(ours, axis=0)).max() > 1e-3


@needs_libero
def test_what_a_camera_cannot_see_is_not_drawn_and_changes_no_picture():
    skip_without_rendering()
    plain = get_convention("small").changed(size=64)
    env = LiberoEnv(suite_tasks("libero_spatial")[2], convention=plain)
    env.reset(1, render=False)
    model, data = env.domain.sim.model._model, env.domain.sim.data._data
    shots = SceneCameras(model, CAMERAS, size=64, shading="plain")
    groups, drawn = model.geom_group.copy(), []
    for control in np.random.default_rng(3).uniform(-1, 1, (9, 7)):
        env.step(control)
        for key in CAMERAS:
            picture = shots.picture(data, key)
            drawn.append(shots._renderer.scene.ngeom)
            shots._left_out, all_but_them = np.zeros_like(shots._left_out), shots._left_out
            assert np.array_equal(shots.picture(data, key), picture)
            shots._left_out = all_but_them
            drawn[-1] /= shots._renderer.scene.ngeom
    assert np.array_equal(model.geom_group, groups)
    assert max(drawn) < 1
    assert min(drawn) < 0.5
    shots.close()
    env.close()


@needs_libero
def test_pictures_are_upright(env):
    """A thing that is painted appears where the camera must see it."""
    env.reset(0, render=False)
    model, data = env.domain.sim.model, env.domain.sim.data
    body = env.domain.obj_body_id["basket_1"]
    painted = [geom for geom in range(model.ngeom) if model.geom_bodyid[geom] == body]
    before = {geom: (model.geom_matid[geom], model.geom_rgba[geom].copy()) for geom in painted}
    for geom in painted:
        model.geom_matid[geom], model.geom_rgba[geom] = -1, [1, 0, 1, model.geom_rgba[geom][3]]
    picture = env.render().astype(int)
    for geom, (material, colour) in before.items():
        model.geom_matid[geom], model.geom_rgba[geom] = material, colour
    rows, columns = np.nonzero(picture[..., [0, 2]].min(-1) > picture[..., 1] + 40)
    camera = model.camera_name2id("agentview")
    right, up, back = data.cam_xmat[camera].reshape(3, 3).T
    seen = data.body_xpos[body] - data.cam_xpos[camera]
    scale = env.size / 2 / np.tan(np.radians(model.cam_fovy[camera] / 2)) / -(seen @ back)
    place = env.size / 2 + scale * np.array([-(seen @ up), seen @ right])
    assert len(rows) > 20
    assert np.abs(place - [rows.mean(), columns.mean()]).max() < env.size / 12


@needs_libero
def test_an_episode_ends_at_its_limit_and_goes_by_clipped_controls(env):
    env.reset(1, render=False)
    ends = [env.step(np.zeros(7))[0] for _ in range(12)]
    assert ends == [False] * 11 + [True]
    one = played(env, 1, [np.full(7, 1.0)] * 3)[0]
    assert np.array_equal(one, played(env, 1, [np.full(7, 9.0)] * 3)[0])


@needs_libero
def test_controls_ask_for_what_the_convention_says(env):
    env.reset(0, render=False)
    env.step(np.zeros(7))
    controller = env.domain.robots[0].controller
    asked = np.array([0.5, -1.0, 0.25, 0.3, -0.2, 0.8])
    controller.set_goal(asked)
    move, turn = ACTION_SCALE["translation_m"] * asked[:3], ACTION_SCALE["rotation_rad"] * asked[3:]
    np.testing.assert_allclose(controller.goal_pos, controller.ee_pos + move, atol=1e-9)
    turned = Rotation.from_rotvec(turn).as_matrix() @ controller.ee_ori_mat
    np.testing.assert_allclose(controller.goal_ori, turned, atol=1e-6)


@needs_libero
def test_what_no_episode_can_begin_or_go_on_with_is_refused(env):
    with pytest.raises(ValueError, match="50 initial states, numbered from 0; scene 50"):
        env.reset(50)
    env.reset(0, render=False)
    with pytest.raises(ValueError, match=r"\[7\]; got \[4\]"):
        env.step(np.zeros(4))


@needs_libero
def test_success_is_what_the_task_says(env):
    """The soup is put into the basket by hand."""
    env.reset(0, render=False)
    sim = env.domain.sim
    basket = np.array(sim.data.body_xpos[env.domain.obj_body_id["basket_1"]])
    joint = env.domain.objects_dict["alphabet_soup_1"].joints[-1]
    sim.data.set_joint_qpos(joint, [*basket[:2], basket[2] + 0.05, 1, 0, 0, 0])
    ends = [env.step(np.array([0, 0, 0, 0, 0, 0, -1.0])) for _ in range(8)]
    assert env.success
    assert ends[-1][:2] == (True, True)
