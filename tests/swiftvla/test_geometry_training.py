# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from flashwam.sim.collect import collect
from flashwam.sim.privileged import replay_episodes
from flashwam.swiftvla.geometry import GeometryConfig
from flashwam.swiftvla.geometry_training import GeometryReader, _Episodes, train_geometry

pytestmark = pytest.mark.usefixtures("simulator")
CONFIG = GeometryConfig(size=64, patch=16, width=16, depth=1, heads=2, registers=0)


@pytest.fixture(scope="module")
def root(tmp_path_factory, simulator):
    root = tmp_path_factory.mktemp("demos")
    collect(root, ["faucet-turn"], episodes=2, processes=1, progress=False)
    replay_episodes(root, processes=1, progress=False)
    return root


def options(**changes):
    values = {"config": CONFIG, "steps": 6, "batch_size": 2, "checkpoint_every": 2, "progress": False}
    return {**values, **changes}


def test_a_killed_training_goes_on_to_the_same_weights(root, tmp_path, monkeypatch):
    whole = train_geometry(root, tmp_path / "a", **options())
    windows, calls = _Episodes.windows, []

    def dies(self, which, starts):
        calls.append(which)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return windows(self, which, starts)

    monkeypatch.setattr(_Episodes, "windows", dies)
    with pytest.raises(KeyboardInterrupt):
        train_geometry(root, tmp_path / "b", **options())
    monkeypatch.setattr(_Episodes, "windows", windows)
    again = train_geometry(root, tmp_path / "b", **options())
    assert all(torch.equal(x, again.state_dict()[key]) for key, x in whole.state_dict().items())
    assert not any(p.requires_grad for p in again.parameters())
    found = train_geometry(root, tmp_path / "b", **options(steps=99))
    assert torch.equal(found.camera_token, again.camera_token)


def test_depth_and_hand_are_learnt(root, tmp_path):
    torch.manual_seed(0)
    reader, episodes = GeometryReader(CONFIG), _Episodes(root, None, 2)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=3e-3)
    pictures, depth, hand = episodes.windows([0, 1], [0.2, 0.6])
    losses = []
    for _ in range(25):
        drawn_depth, drawn_hand = reader(pictures)
        assert drawn_depth.shape == depth.shape
        losses.append(((drawn_depth - depth).abs().mean(), (drawn_hand - hand).abs().mean()))
        optimizer.zero_grad()
        sum(losses[-1]).backward()
        optimizer.step()
    for first, last in zip(losses[0], losses[-1], strict=True):
        assert last < 0.6 * first


def test_cells_of_depth_lie_where_their_patches_are():
    reader = GeometryReader(CONFIG)
    with torch.no_grad():
        reader.depth.weight.zero_()
        reader.depth.bias.copy_(torch.arange(256.0))
        depth, _ = reader(torch.rand(1, 1, 3, 64, 64))
    expected = torch.arange(256.0).view(16, 16).repeat(4, 4)
    assert torch.equal(depth[0, 0], expected)
