# SPDX-License-Identifier: Apache-2.0
"""No file of a data set runs, whatever is put in its place."""

import shutil

from pickles import run_by

from flashwam.data.dataset import EpisodeDataset
from flashwam.data.latents import encode_latents


def test_no_file_of_a_data_set_is_unpickled(encoded, autoencoder, tmp_path):
    def read(folder):
        try:
            encode_latents(folder, autoencoder, progress=False)
        finally:
            windows = EpisodeDataset(folder, window_frames=3, split="train")
            windows.batch(range(len(windows)))

    root = tmp_path / "root"
    shutil.copytree(encoded / "beta", root / "beta")
    read(root)
    assert run_by(root, read, scratch=tmp_path) == []
