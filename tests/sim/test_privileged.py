# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest

from flashwam.core.scenes import EVAL_SEED_BASE
from flashwam.data.episodes import episode_path, read_episode_list, read_frames, read_table, video_path, write_episode
from flashwam.data.privileged import Camera, privileged_path, read_privileged
from flashwam.sim.collect import collect
from flashwam.sim.metaworld import MetaWorldEnv
from flashwam.sim.privileged import replay_episodes
from flashwam.sim.views import CLASSES, PrivilegedView

pytestmark = pytest.mark.usefixtures("simulator")
TASKS = ["reach-wall", "button-press"]


@pytest.fixture(scope="module")
def replayed(tmp_path_factory, simulator):
    root = tmp_path_factory.mktemp("demos")
    collect(root, TASKS, episodes=1, processes=1, progress=False)
    assert replay_episodes(root, processes=1, progress=False) == 2
    return root


def record_of(root: Path, task: str):
    return read_privileged(privileged_path(root / task, 0))


@pytest.mark.parametrize("task", TASKS)
def test_a_record_has_a_view_per_picture_and_a_hand_per_step(replayed, task):
    record, table = record_of(replayed, task), read_table(episode_path(replayed / task, 0))
    length = len(table["action"])
    assert record.rows.tolist() == list(range(0, length, 4))
    assert record.depth.shape == record.segmentation.shape == (len(record.rows), 64, 64)
    assert np.isfinite(record.depth).all()
    assert (record.depth > 0).all()
    np.testing.assert_allclose(record.hand, table["observation.state"][:, :3], atol=1e-6)


def unprojected(camera, depth):
    """Depth along z [..., H, W] -> points of the world at the pixels' middles, [..., H, W, 3]."""
    rows, columns = np.indices(depth.shape[-2:]) + 0.5
    rays = np.stack([columns, rows, np.ones_like(rows)], -1) @ np.linalg.inv(camera.intrinsics).T
    return (rays * depth[..., None]) @ camera.pose[:3, :3].T + camera.pose[:3, 3]


def test_depth_and_camera_put_the_table_on_a_plane(replayed):
    record = record_of(replayed, "reach-wall")
    points = unprojected(record.camera, record.depth[0].astype(np.float64))
    flat = points[record.segmentation[0] == CLASSES.index("background")]
    on_table = flat[(np.abs(flat[:, 0]) < 0.3) & (flat[:, 1] > 0.5) & (flat[:, 1] < 0.9) & (flat[:, 2] > -0.5)]
    assert len(on_table) > 300  # the rest is the floor, seen past the table's edge
    np.testing.assert_allclose(on_table[:, 2], 0.0, atol=3e-3)


def test_the_hand_is_seen_where_it_is(replayed):
    for task in TASKS:
        record = record_of(replayed, task)
        for picture, row in enumerate(record.rows):
            column, line = record.hand_pixels[row] * 64
            near = record.segmentation[picture, int(line) - 3 : int(line) + 4, int(column) - 3 : int(column) + 4]
            assert (near == CLASSES.index("hand")).any()


def test_projecting_inverts_unprojecting():
    camera = PrivilegedView(MetaWorldEnv("reach-wall", size=64)).camera()
    depth = np.random.default_rng(0).uniform(0.5, 2, (64, 64))
    pixels = camera.project(unprojected(camera, depth).reshape(-1, 3)).reshape(64, 64, 2)
    np.testing.assert_allclose(pixels, (np.indices((64, 64)) + 0.5).transpose(1, 2, 0)[..., ::-1], atol=1e-9)
    assert np.isnan(camera.project(camera.pose[None, :3, 3] - camera.pose[None, :3, 2])).all()
    assert np.isfinite(Camera(intrinsics=camera.intrinsics, pose=camera.pose).project(np.zeros((1, 3)))).all()


def test_classes_follow_the_scene():
    env = MetaWorldEnv("reach-wall", size=64)
    env.reset(EVAL_SEED_BASE)
    view = PrivilegedView(env)
    before = env.render()
    seen = view.segmentation()
    assert {CLASSES[number] for number in np.unique(seen)} >= {"background", "hand", "obstacle", "goal"}
    # The post is painted yellow, the goal green: colours tell whether the classes lie where the things are.
    post = before[seen == CLASSES.index("obstacle")].astype(int)
    goal = before[seen == CLASSES.index("goal")].astype(int)
    assert (post[:, 0] > post[:, 2] + 40).mean() > 0.9
    assert (goal[:, 1] > goal[:, 0] + 20).mean() > 0.9
    np.testing.assert_array_equal(env.render(), before)


def test_a_second_call_does_what_is_missing_alone(replayed):
    kept, gone = (privileged_path(replayed / task, 0) for task in TASKS)
    before, time = gone.read_bytes(), kept.stat().st_mtime_ns
    gone.unlink()
    assert replay_episodes(replayed, processes=1, progress=False) == 1
    assert gone.read_bytes() == before
    assert kept.stat().st_mtime_ns == time
    assert replay_episodes(replayed, TASKS[:1], processes=1, progress=False) == 0


def test_an_episode_that_went_otherwise_is_refused(replayed, tmp_path):
    source, copy = replayed / "reach-wall", tmp_path / "reach-wall"
    table, record = read_table(episode_path(source, 0)), read_episode_list(source)[0]
    columns = {name: table[name] for name in ("action", "executed_action", "observation.state")}
    columns["executed_action"] = -columns["executed_action"]
    frames = read_frames(video_path(source, 0))
    write_episode(copy, 0, columns=columns, frames=frames, record=record, fps=80)
    (copy / "meta").mkdir()
    for name in ("info.json", "episodes.jsonl"):
        (copy / "meta" / name).write_bytes((source / "meta" / name).read_bytes())
    with pytest.raises(RuntimeError, match="away from what was recorded"):
        replay_episodes(tmp_path, processes=1, progress=False)
    assert not privileged_path(copy, 0).exists()


def test_damage_and_absence_say_what_to_do(replayed, tmp_path):
    with pytest.raises(FileNotFoundError, match="play the episodes again"):
        read_privileged(tmp_path / "none.npz")
    broken = tmp_path / "broken.npz"
    broken.write_bytes(privileged_path(replayed / "reach-wall", 0).read_bytes()[:-50])
    with pytest.raises(ValueError, match="delete it"):
        read_privileged(broken)
    with pytest.raises(FileNotFoundError, match="faucet-turn"):
        replay_episodes(replayed, ["faucet-turn"])


def test_data_sets_of_one_name_are_refused_and_not_lost(tmp_path):
    for day in ("monday", "tuesday"):
        (tmp_path / day / TASKS[0] / "meta").mkdir(parents=True)
        (tmp_path / day / TASKS[0] / "meta" / "info.json").write_text('{"fps": 80}')
    with pytest.raises(ValueError, match=f"are both called '{TASKS[0]}'"):
        replay_episodes(tmp_path, processes=1, progress=False)
