# SPDX-License-Identifier: Apache-2.0
"""Data of other shapes than a model takes are refused in words, before the folder of a run is begun."""

import pytest
from lerobot_sets import write_set

from flashwam import pipeline
from flashwam.recipe.load import load_recipe

TINY = {
    "patch_size": "[1,2,2]",
    "num_attention_heads": 2,
    "attention_head_dim": 20,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 1,
    "attention": "sdpa",
    "chunk_frames": 2,
    "in_channels": 4,
    "out_channels": 4,
    "latent_size": "[6,6]",
    "actions_per_frame": 16,
}


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A set whose text is 6 wide."""
    root = tmp_path_factory.mktemp("released")
    write_set(root, "robotwin", {"clean/a": [(130, [(0, 130, 0, 3)])] * 3})
    return root


def recipe(root, **config):
    values = {
        "data.root": root,
        "data.tasks": "[clean]",
        "data.norm": "teacher",
        "data.window_frames": 4,
        "wam.pretrained": "null",
    }
    values |= {"train.precision": "no", "train.strategy": "single", "train.steps": 1, "train.batch_size": 2}
    values |= {f"wam.config.{key}": value for key, value in {**TINY, **config}.items()}
    return load_recipe("robotwin/flash_wam", [f"{key}={value}" for key, value in values.items()])


def test_text_of_another_width_than_the_model_reads_is_refused(released, tmp_path):
    with pytest.raises(ValueError, match=r"text: the data has 6 numbers a token, the model takes 16; .*text_dim"):
        pipeline.train(recipe(released, text_dim=16), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    pipeline.train(recipe(released, text_dim=6), run_dir=tmp_path / "run")


def test_latents_of_another_shape_than_the_model_draws_are_refused(released, tmp_path):
    with pytest.raises(ValueError, match=r"stream 'video': the data has .*\(4, 6, 6\), the model \(4, 8, 8\)"):
        pipeline.train(recipe(released, text_dim=6, latent_size="[8,8]"), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
