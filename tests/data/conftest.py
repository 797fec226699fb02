# SPDX-License-Identifier: Apache-2.0
"""A small repo of made-up episodes whose actions count the rows, so that every window can be checked exactly."""

import shutil

import numpy as np
import pytest
import torch
from lerobot_sets import write_set
from released_sets import PLAN

from flashwam.data.autoencoder import FrameAutoencoder
from flashwam.data.episodes import write_episode, write_meta
from flashwam.data.latents import encode_latents

LENGTHS = {"alpha": (13, 21, 9, 17), "beta": (9, 33)}


@pytest.fixture(scope="session")
def made_up(tmp_path_factory):
    """Root of two repos with 4 rows a picture; action[t] = (t, episode, task, 1) / 40, executed = action + 1 / 80."""
    pytest.importorskip("av")
    root = tmp_path_factory.mktemp("made_up")
    rng = np.random.default_rng(0)
    for number, (task, lengths) in enumerate(LENGTHS.items()):
        for episode, length in enumerate(lengths):
            rows = np.arange(length)
            action = np.stack([rows, np.full(length, episode), np.full(length, number), np.ones(length)], 1) / 40
            pictures = rng.integers(0, 255, (-(-length // 4), 2, 2, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
            write_episode(
                root / task,
                episode,
                columns={"action": action, "executed_action": action + 1 / 80},
                frames=pictures.repeat(4, 0)[:length],
                record={
                    "tasks": [task],
                    "action_config": [{"start_frame": 0, "end_frame": length, "action_text": f"do {task}"}],
                    "way": episode % 2,
                },
                fps=80,
            )
        write_meta(root / task, fps=80, extra={"render_every": 4})
    return root


@pytest.fixture(scope="session")
def autoencoder():
    """Random weights are enough to check where latents go."""
    torch.manual_seed(0)
    return FrameAutoencoder(latent_channels=3, width=16).eval()


@pytest.fixture(scope="session")
def encoded(made_up, autoencoder):
    """The same root with latents."""
    assert encode_latents(made_up, autoencoder, progress=False) == 6
    return made_up


@pytest.fixture(scope="session")
def raw(tmp_path_factory):
    """The same raw episodes as a data set of version 2 and one of version 3."""
    pytest.importorskip("av")
    from raw_sets import write_v2, write_v3

    root = tmp_path_factory.mktemp("raw")
    write_v2(root / "v2" / "towels")
    write_v3(root / "v3" / "towels")
    return root


@pytest.fixture(params=["v2", "v3"])
def repo(raw, request, tmp_path):
    """A raw data set of its own, of either version."""
    shutil.copytree(raw / request.param, tmp_path / "raw")
    return tmp_path / "raw" / "towels"


@pytest.fixture(scope="session")
def roots(tmp_path_factory):
    """A folder of data sets in the released layout, by robot; copy one before you change it."""
    folder = tmp_path_factory.mktemp("released")
    for name, plan in PLAN.items():
        write_set(folder / name, name, plan)
    return folder
