# SPDX-License-Identifier: Apache-2.0
import shutil
from collections import Counter
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from flashwam.data.dataset import EpisodeDataset
from flashwam.data.episodes import episode_path, read_frames, read_record, read_table, video_path, write_episode
from flashwam.swiftvla.source import PrivilegedSource
from flashwam.swiftvla.streaming import StreamingGeometry
from flashwam.swiftvla.tokens import encode_tokens
from flashwam.swiftvla.trajectories import Trajectories

CAPACITIES = (1, 3)


@pytest.fixture
def dataset(told):
    return EpisodeDataset(told, window_frames=3, split="all", senses=("state",))


@pytest.fixture
def provider(geometry):
    return StreamingGeometry(geometry, side=2)


@pytest.fixture
def store(told, provider):
    return encode_tokens(told, provider, capacities=CAPACITIES, progress=False)


def test_the_state_is_told_of_every_frame(dataset):
    batch = dataset.batch(range(40))
    state = batch.history["state"]
    assert state.shape == (40, 4, 3, 1, 1)
    assert set(batch.clean) == {"video", "action"}
    for index in range(40):
        window = dataset.locate(index)
        rows = state[index, :, :, 0, 0].T.tolist()
        assert rows[0] == [window.row, 2 * window.row, window.episode, 0]
        assert window.row == 4 * window.frame
        steps = [later[0] - earlier[0] for earlier, later in zip(rows, rows[1:], strict=False)]
        assert set(steps) <= {4, 0}  # 0 where the episode's last frame is repeated


def test_a_sense_that_is_not_there_is_named(told):
    with pytest.raises(ValueError, match=r"no column 'observation.touch'"):
        EpisodeDataset(told, window_frames=3, senses=("touch",))


def test_tokens_are_the_streams_own(told, dataset, provider, store):
    frames = read_frames(video_path(told / "alpha", 1), range(0, 33, 4))[:, None]
    begins = torch.arange(len(frames)) == 0
    for capacity in CAPACITIES:
        tokens = provider.at_capacity(capacity).stream(frames, begins)
        row = store.read(told / "alpha", 1, 5, capacity)
        expected = (tokens[5].half().float() - torch.tensor(store.mean)) / torch.tensor(store.std)
        torch.testing.assert_close(row, expected)


def test_tokens_are_standardised(told, store):
    rows = [store.read(told / "alpha", e, f, k) for e, n in ((0, 6), (1, 9)) for f in range(n) for k in CAPACITIES]
    every = torch.cat(rows)
    torch.testing.assert_close(every.mean(0), torch.zeros(store.channels), atol=1e-2, rtol=0)
    torch.testing.assert_close(every.std(0), torch.ones(store.channels), atol=2e-2, rtol=0)


def test_made_tokens_are_kept_and_others_are_made_anew(told, provider, store, geometry):
    path = store.path(told / "alpha", 0)
    before = path.stat().st_mtime_ns
    assert encode_tokens(told, provider, capacities=CAPACITIES, progress=False) == store
    assert path.stat().st_mtime_ns == before
    path.write_bytes(path.read_bytes()[:100])
    assert encode_tokens(told, provider, capacities=CAPACITIES, progress=False) == store
    geometry.camera_token.data.neg_()
    changed = encode_tokens(told, provider, capacities=CAPACITIES, progress=False)
    assert changed.fingerprint != store.fingerprint
    assert changed.mean != store.mean


def test_another_networks_tokens_lie_beside_those_that_a_run_reads(told, provider, geometry, tmp_path):
    shutil.copytree(told, tmp_path / "copy")
    root = tmp_path / "copy"
    store = encode_tokens(root, provider, capacities=CAPACITIES, progress=False)
    before = store.read(root / "alpha", 0, 3, 3)
    geometry.camera_token.data.neg_()
    other = encode_tokens(root, provider, capacities=CAPACITIES, progress=False)
    encode_tokens(root, provider, capacities=(3,), progress=False)
    assert torch.equal(store.read(root / "alpha", 0, 3, 3), before)
    assert not torch.equal(other.read(root / "alpha", 0, 3, 3), before)
    assert other.read(root / "alpha", 0, 3, 1).isfinite().all()


def _as_earlier_versions(root, store):
    """Moves an episode's tokens to where earlier versions kept them, whoever made them."""
    path = root / "alpha" / "targets" / "geometry" / "chunk-000" / "episode_000000.safetensors"
    path.parent.mkdir(parents=True)
    store.path(root / "alpha", 0).rename(path)
    return path


def test_tokens_of_earlier_versions_are_read_where_they_are_these(told, provider, store, geometry, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(told, root)
    expected = store.read(root / "alpha", 0, 3, 3)
    path = _as_earlier_versions(root, store)
    before = path.read_bytes()
    assert torch.equal(store.read(root / "alpha", 0, 3, 3), expected)
    assert encode_tokens(root, provider, capacities=CAPACITIES, progress=False) == store
    assert not store.path(root / "alpha", 0).exists()
    geometry.camera_token.data.mul_(3)
    other = StreamingGeometry(geometry, side=2)
    changed = replace(store, fingerprint=other.fingerprint)
    with pytest.raises(FileNotFoundError, match="encode the episodes' tokens"):
        changed.read(root / "alpha", 0, 3, 3)
    encode_tokens(root, other, capacities=CAPACITIES, progress=False)
    assert path.read_bytes() == before
    assert not torch.equal(changed.read(root / "alpha", 0, 3, 3), expected)


def test_tokens_of_an_episode_with_other_pictures_are_made_anew(told, provider, store, tmp_path):
    shutil.copytree(told, tmp_path / "copy")
    repo = tmp_path / "copy" / "alpha"
    frames = 255 - read_frames(video_path(repo, 0))
    columns = {"action": read_table(episode_path(repo, 0), ["action"])["action"]}
    kept, made = (store.path(repo, index) for index in (1, 0))
    before = {path: path.read_bytes() for path in (kept, made)}
    write_episode(repo, 0, columns=columns, frames=frames, record=read_record(episode_path(repo, 0)), fps=80)
    assert encode_tokens(repo.parent, provider, capacities=CAPACITIES, progress=False).mean != store.mean
    assert made.read_bytes() != before[made]
    assert kept.read_bytes() == before[kept]


def test_tokens_that_do_not_say_of_which_pictures_they_are_stay(told, provider, store, tmp_path):
    shutil.copytree(told, tmp_path / "copy")
    path = store.path(tmp_path / "copy" / "alpha", 0)
    with safe_open(path, framework="pt") as file:
        made_by, tensors = file.metadata()["made_by"], {key: file.get_tensor(key) for key in file.keys()}
    save_file(tensors, path, metadata={"made_by": made_by})
    before = path.read_bytes()
    assert encode_tokens(tmp_path / "copy", provider, capacities=CAPACITIES, progress=False) == store
    assert path.read_bytes() == before


def test_a_sample_draws_its_own_cache_size(told, dataset, store):
    source = PrivilegedSource(dataset, tokens=store, seed=3)
    batch, again = source.batch(range(60)), source.batch(range(30, 60))
    assert batch.extra["auxiliary"].shape == (60, 4, 32)
    assert torch.equal(batch.extra["auxiliary"][30:], again.extra["auxiliary"])
    drawn = Counter()
    for index, tokens in enumerate(batch.extra["auxiliary"]):
        window = dataset.locate(index)
        fits = [k for k in CAPACITIES if torch.equal(store.read(window.repo, window.episode, window.frame, k), tokens)]
        # Before the third frame both caches hold the same.
        drawn.update(fits if len(fits) == 1 else [])
    assert set(drawn) == set(CAPACITIES)
    fixed = PrivilegedSource(dataset, tokens=store, capacities=(3,)).batch(range(8)).extra["auxiliary"]
    for index, tokens in enumerate(fixed):
        window = dataset.locate(index)
        assert torch.equal(store.read(window.repo, window.episode, window.frame, 3), tokens)
    with pytest.raises(ValueError, match="asked for"):
        PrivilegedSource(dataset, tokens=store, capacities=(6,))


def test_a_trajectory_is_the_hands_path_ahead(dataset):
    trajectories = Trajectories(dataset, points=4, horizon=8)
    batch = PrivilegedSource(dataset, trajectories=trajectories).batch(range(40))
    states = torch.cat([torch.arange(21.0), torch.arange(33.0)])
    for index in range(40):
        window = dataset.locate(index)
        rows = window.row + torch.tensor([2, 4, 6, 8])
        last = (20, 32)[window.episode]
        assert batch.extra["trajectory_mask"][index].tolist() == (rows <= last).tolist()
        expected = (rows.clamp(max=last) - states.mean()) / states.std()
        torch.testing.assert_close(batch.extra["trajectory"][index, :, 0], expected)
    assert not batch.extra["trajectory_mask"].all()
    with pytest.raises(ValueError, match=r"1\.\.8"):
        Trajectories(dataset, points=9, horizon=8)


def test_missing_tokens_say_what_to_do(told, store, dataset):
    with pytest.raises(FileNotFoundError, match="encode the episodes' tokens"):
        store.read(told / "alpha", 7, 0, 3)
    with pytest.raises(ValueError, match="cache of 6"):
        store.read(told / "alpha", 0, 0, 6)
    with pytest.raises(ValueError, match="frame 99"):
        store.read(told / "alpha", 0, 99, 3)
