# SPDX-License-Identifier: Apache-2.0
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from flashwam.data.episodes import episode_path, read_episode_list, read_frames, read_table, video_path
from flashwam.sim.collect import NoiseBursts, collect
from flashwam.sim.simulators import get_task, pooled_envs
from flashwam.system.files import in_use

pytestmark = pytest.mark.usefixtures("simulator")
TASKS = ["faucet-turn", "button-press"]


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def collected(tmp_path_factory, simulator):
    root = tmp_path_factory.mktemp("demos")
    return root, collect(root, TASKS, episodes=4, processes=1, progress=False)


def test_layout_and_counts(collected):
    root, summary = collected
    assert summary.episodes == {"faucet-turn": 4, "button-press": 4}
    assert summary.ways["faucet-turn"] == {0: 2, 1: 2}
    assert summary.ways["button-press"] == {-1: 4}
    names = {p.name for p in (root / "faucet-turn" / "meta").iterdir()}
    assert names == {"info.json", "episodes.jsonl", "episodes_stats.jsonl", "tasks.jsonl"}
    offset = 0
    for episode in read_episode_list(root / "faucet-turn"):
        index, length = episode["episode_index"], episode["length"]
        table = read_table(episode_path(root / "faucet-turn", index))
        assert length % 4 == 1
        assert table["action"].shape == table["executed_action"].shape == (length, 4)
        assert (table["index"] == offset + np.arange(length)).all()
        offset += length
        frames = read_frames(video_path(root / "faucet-turn", index))
        assert frames.shape == (length, 64, 64, 3)


def test_executed_is_label_plus_noise_in_bursts(collected):
    root, _ = collected
    tables = [read_table(episode_path(root / "button-press", i)) for i in range(4)]
    label = np.concatenate([t["action"] for t in tables])
    executed = np.concatenate([t["executed_action"] for t in tables])
    disturbed = (label != executed).any(axis=1)
    assert 0.05 < disturbed.mean() < 0.6
    assert (label[:, 3] == executed[:, 3]).all()
    assert np.abs(executed).max() <= 1.0


def test_without_noise_label_and_execution_agree(tmp_path):
    collect(tmp_path, ["faucet-turn"], episodes=1, processes=1, noise=NoiseBursts(probability=0.0), progress=False)
    table = read_table(episode_path(tmp_path / "faucet-turn", 0))
    assert (table["action"] == table["executed_action"]).all()


def test_killed_collection_ends_with_the_same_bytes(collected, tmp_path):
    root, _ = collected
    code = (
        "from flashwam.sim.collect import collect\n"
        f"collect({str(tmp_path)!r}, {TASKS!r}, episodes=4, processes=1, progress=False)\n"
    )
    env = dict(os.environ, OMP_NUM_THREADS="1")
    process = subprocess.Popen([sys.executable, "-c", code], env=env, cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 120
    while not episode_path(tmp_path / "faucet-turn", 1).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = len(list(tmp_path.rglob("*.parquet")))
    assert 2 <= there < 8
    collect(tmp_path, TASKS, episodes=4, processes=1, progress=False)
    left = {name for name in contents(tmp_path) if ".tmp" in name}
    assert {k: v for k, v in contents(tmp_path).items() if k not in left} == contents(root)


def test_a_second_call_rewrites_nothing_and_reads_what_was_changed_since(collected, tmp_path):
    root, summary = collected
    shutil.copytree(root, tmp_path / "demos", copy_function=shutil.copy2)
    info = tmp_path / "demos" / "faucet-turn" / "meta" / "info.json"
    written = info.stat().st_mtime_ns
    again = partial(collect, tmp_path / "demos", TASKS, episodes=4, processes=1, progress=False)
    assert again() == summary
    assert info.stat().st_mtime_ns == written
    (info.parent / "episodes.jsonl").write_text("")
    assert again() == summary
    assert contents(tmp_path / "demos") == contents(root)
    torn = episode_path(tmp_path / "demos" / "faucet-turn", 2)
    torn.write_bytes(torn.read_bytes()[:-40])
    with pytest.raises(ValueError, match=torn.name):
        again()


def test_collect_refuses_nonsense(tmp_path):
    with pytest.raises(ValueError, match="unknown task"):
        collect(tmp_path, ["reach-the-moon"], episodes=1)
    with pytest.raises(ValueError, match="episodes"):
        collect(tmp_path, TASKS, episodes=0)
    with pytest.raises(ValueError, match="seed"):
        collect(tmp_path, TASKS, episodes=1, seed=10)


def test_pictures_are_kept_whole_where_that_is_asked_for(collected, tmp_path):
    collect(tmp_path, ["faucet-turn"], episodes=1, processes=1, lossless=True, progress=False)
    seed = read_episode_list(tmp_path / "faucet-turn")[0]["seed"]
    (env,) = pooled_envs(get_task("faucet-turn"), 1, size=64)
    seen = env.reset(seed)
    kept, lossy = (
        read_frames(video_path(root / "faucet-turn", 0), [0])[0].astype(float) for root in (tmp_path, collected[0])
    )
    assert (kept == seen).all()
    # As a recording of a robot is: near, and not the same.
    assert 0.5 < np.sqrt(((lossy - seen) ** 2).mean()) < 12


def changed(root, **settings):
    return collect(root, ["faucet-turn"], **{"episodes": 1, "processes": 1, "progress": False, **settings})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"seed": 4}, "seed: 0 there, 4 now"),
        ({"noise": NoiseBursts(scale=0.0)}, r"noise: .*0\.7.* there, .*0\.0.* now"),
        ({"image_size": 32}, "image_size: 64 there, 32 now"),
        ({"render_every": 2}, "render_every: 4 there, 2 now"),
        ({"max_steps": 90}, "max_steps: None there, 90 now"),
        ({"lossless": True}, "lossless: False there, True now"),
    ],
)
def test_episodes_that_were_collected_otherwise_are_refused(tmp_path, settings, told):
    changed(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=f"faucet-turn holds .* collected otherwise \\({told}\\): .*another folder"):
        changed(tmp_path, **settings)
    assert contents(tmp_path) == before
    # Other tasks of the folder, more episodes and more processes are no change.
    collect(tmp_path, ["button-press"], episodes=1, seed=1, progress=False)
    assert changed(tmp_path, episodes=2, processes=2).episodes == {"faucet-turn": 2}


def test_a_folder_from_before_settings_were_kept_goes_on_where_nothing_tells_otherwise(collected, tmp_path):
    shutil.copytree(collected[0], tmp_path / "demos")
    note = tmp_path / "demos" / "faucet-turn" / "collection.json"
    note.unlink()
    assert changed(tmp_path / "demos", seed=4).episodes == {"faucet-turn": 4}
    assert not note.exists()
    with pytest.raises(ValueError, match="image_size: 64 there, 32 now"):
        changed(tmp_path / "demos", image_size=32)
    with pytest.raises(ValueError, match="render_every: 4 there, 8 now"):
        changed(tmp_path / "demos", render_every=8)
    with pytest.raises(ValueError, match="lossless: False there, True now"):
        changed(tmp_path / "demos", lossless=True)


def test_what_was_asked_for_and_never_made_binds_nobody(tmp_path):
    with pytest.raises(RuntimeError, match="the expert failed"):
        changed(tmp_path, max_steps=8)
    assert changed(tmp_path).episodes == {"faucet-turn": 1}


def test_an_expert_that_always_fails_is_reported(tmp_path):
    with pytest.raises(RuntimeError, match="the expert failed"):
        collect(tmp_path, ["faucet-turn"], episodes=1, processes=1, max_steps=8, progress=False)


def test_of_two_that_begin_at_once_the_first_says_how(tmp_path):
    """No episode is there yet."""
    changed(tmp_path)
    shutil.rmtree(tmp_path / "faucet-turn/data")
    with (
        in_use(tmp_path / ".collecting"),
        pytest.raises(ValueError, match=r"is being filled .* otherwise \(seed: 0 there, 4 now\)"),
    ):
        changed(tmp_path, seed=4)
    assert changed(tmp_path, seed=4).episodes == {"faucet-turn": 1}
