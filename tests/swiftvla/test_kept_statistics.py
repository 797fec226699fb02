# SPDX-License-Identifier: Apache-2.0
"""A policy standardises tokens as it was trained to, whoever else trains on its data."""

import json
import shutil

import policy_toys
import pytest

from flashwam.data.dataset import EpisodeDataset
from flashwam.distillation.setup import Setup
from flashwam.swiftvla.method import MaskedReconstruction
from flashwam.swiftvla.sense import StreamedSense
from flashwam.swiftvla.streaming_tokens import StreamingTokens
from flashwam.swiftvla.tokens import TokenStore

BOTH = ["alpha", "beta"]


@pytest.fixture
def place(told, geometry, tmp_path):
    """Root of two tasks, of which the second is darker, and the settings of tokens of a trained network."""
    root = tmp_path / "data"
    shutil.copytree(told, root, ignore=shutil.ignore_patterns("targets"))
    shutil.copytree(told / "alpha", root / "beta", ignore=shutil.ignore_patterns("targets", "episode_000001*"))
    listed = root / "beta" / "meta" / "episodes.jsonl"
    listed.write_text(listed.read_text().splitlines(keepends=True)[0])
    geometry.save_pretrained(tmp_path / "network")
    return root, {"pretrained": str(tmp_path / "network"), "side": 2}


def test_a_policy_keeps_the_statistics_that_it_was_trained_with(place, tmp_path):
    root, provider = place
    method = MaskedReconstruction(
        policy_toys.specs(),
        policy_toys.policy(latent=[3, 2, 2], primary={"name": "patches", "patch": 1}, text_dim=4),
        keep_target=True,
        auxiliary={"tokens": 4, "channels": 32},
        provider=provider,
    )
    dataset = EpisodeDataset(root, window_frames=3, split="all", senses=("state",))
    trained = method.source(dataset, Setup(data=root, streams=method.streams, seed=0)).tokens
    for name, model in (("student", method.roles.model), ("target", method.roles.target)):
        model.save_pretrained(tmp_path / name)
        assert TokenStore.of_policy(tmp_path / name) == trained
    tokens = StreamingTokens(**provider)
    assert tokens.prepare(root, BOTH[1:]).mean != trained.mean
    network, store = tokens.found(root, BOTH, capacity=6, store=TokenStore.of_policy(tmp_path / "student"))
    StreamedSense(network, store)
    assert store == trained


def test_a_policy_of_earlier_versions_has_them_measured_again(place, tmp_path):
    root, provider = place
    assert TokenStore.of_policy(tmp_path) is None
    tokens = StreamingTokens(**provider)
    trained = tokens.prepare(root, BOTH)
    assert tokens.found(root, BOTH, capacity=6)[1] == trained
    tokens.prepare(root, BOTH[1:])
    assert tokens.found(root, BOTH, capacity=6)[1] == trained
    StreamingTokens(**provider, capacities=(1,)).prepare(root, BOTH)
    assert tokens.found(root, BOTH, capacity=6)[1] == trained
    note = root / "targets" / "geometry.json"
    told = json.loads(note.read_text())
    del told["tasks"]
    note.write_text(json.dumps({**told, "mean": [0.0] * 32}))
    assert tokens.found(root, BOTH, capacity=6)[1].mean == (0.0,) * 32
