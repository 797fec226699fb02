# SPDX-License-Identifier: Apache-2.0
"""Two made-up episodes with states, encoded, and a tiny geometry transformer."""

import numpy as np
import pytest
import torch

from flashwam.data.autoencoder import FrameAutoencoder
from flashwam.data.episodes import write_episode, write_meta
from flashwam.data.latents import encode_latents
from flashwam.swiftvla.geometry import GeometryConfig, GeometryTransformer

LENGTHS = (21, 33)


@pytest.fixture(scope="session")
def told(tmp_path_factory):
    """Root of a repo with 4 rows a picture; state[t] = (t, 2 t, episode, 0)."""
    pytest.importorskip("av")
    root = tmp_path_factory.mktemp("told")
    rng = np.random.default_rng(0)
    for episode, length in enumerate(LENGTHS):
        rows = np.arange(length)
        pictures = rng.integers(0, 255, (-(-length // 4), 2, 2, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
        state = np.stack([rows, 2 * rows, np.full(length, episode), np.zeros(length)], 1)
        write_episode(
            root / "alpha",
            episode,
            columns={"action": np.zeros((length, 4)), "observation.state": state},
            frames=pictures.repeat(4, 0)[:length],
            record={
                "tasks": ["alpha"],
                "action_config": [{"start_frame": 0, "end_frame": length, "action_text": "do alpha"}],
            },
            fps=80,
        )
    write_meta(root / "alpha", fps=80, extra={"render_every": 4})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encode_latents(root, FrameAutoencoder(latent_channels=3, width=16).eval(), progress=False)
    return root


@pytest.fixture
def geometry():
    """16 pixels, patches of 4, 32 channels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GeometryTransformer(GeometryConfig(size=16, patch=4, width=16, depth=1, heads=2))
