# SPDX-License-Identifier: Apache-2.0
"""The quantiles that a training takes: chosen, said, and then used everywhere."""

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "data"))

from lerobot_sets import write_set

from flashwam import pipeline
from flashwam.data.actions import ActionNorm
from flashwam.data.coverage import coverage
from flashwam.data.quantiles import control_rows
from flashwam.pipeline.norms import choose_norm, refuse_other_norm, say_norm
from flashwam.pipeline.sources import segment_dataset
from flashwam.recipe.load import load_recipe


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Four segments of a robot whose arms move a metre, where RoboTwin's move a tenth."""
    root = tmp_path_factory.mktemp("robot")
    write_set(root, "robotwin", {"clean/a": [(130, [(0, 130, 0, 3)]) for _ in range(4)]})
    return root


@pytest.fixture
def measured(root):
    """The file that a conversion would have left there."""
    rows = control_rows(root, cameras=load_recipe("robotwin/flash_wam").data.cameras, relative=True)
    used = load_recipe("robotwin/flash_wam").data.used_channels
    low, high = np.zeros(30), np.zeros(30)
    low[list(used)], high[list(used)] = rows.min(0) - 0.1, rows.max(0) + 0.1
    norm = ActionNorm(q01=tuple(low.tolist()), q99=tuple(high.tolist()), used=used)
    path = root / "action_norm.json"
    path.write_text(json.dumps(norm.to_dict()))
    yield norm
    path.unlink()


def recipe(root, **more):
    values = {
        "data.root": root,
        "data.tasks": "[clean]",
        "data.window_frames": 4,
        "wam.pretrained": "null",
        "wam.config.latent_size": "[6,6]",
        "wam.config.in_channels": 4,
        "wam.config.out_channels": 4,
        "wam.config.text_dim": 6,
        "wam.config.attention": "sdpa",
        "wam.config.num_attention_heads": 2,
        "wam.config.attention_head_dim": 20,
        "wam.config.freq_dim": 16,
        "wam.config.ffn_dim": 32,
        "wam.config.num_layers": 1,
        "wam.config.window_chunks": 6,
        "train.steps": 1,
        "train.batch_size": 1,
        "train.accumulation": 1,
        "train.precision": "no",
        "train.strategy": "single",
        **more,
    }
    return load_recipe("robotwin/flash_wam", [f"{key}={value}" for key, value in values.items()])


def test_training_on_a_new_robot_asks_whose_quantiles_are_meant(root, measured, tmp_path):
    with pytest.raises(
        ValueError, match=r"data\.q01 and data\.q99 .*rows clipped.*data\.norm=data.*data\.norm=teacher"
    ):
        pipeline.train(recipe(root), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_controls_on_channels_that_the_model_never_sees_are_refused(root, measured, tmp_path):
    """They would be zeros to the network, in training and when it is driven."""
    used = load_recipe("robotwin/flash_wam").data.used_channels
    one = recipe(root, **{"data.norm": "data", "wam.config.used_channels": list(used[:-1])})
    with pytest.raises(
        ValueError, match=rf"channels \[{used[-1]}\], which the model never sees.*wam\.config\.used_cha"
    ):
        pipeline.train(one, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_datas_quantiles_are_used_and_saved_where_they_are_chosen(root, measured, tmp_path):
    one = recipe(root, **{"data.norm": "data"})
    assert segment_dataset(one).space.norm == measured
    teacher = pipeline.train(one, run_dir=tmp_path / "run")
    assert ActionNorm.from_dict(json.loads((teacher / "action_norm.json").read_text())) == measured
    # A model that was trained so is distilled so, though the recipe still has the published numbers.
    again = {"data.norm": "data", "wam.pretrained": teacher}
    assert choose_norm(recipe(root, **again)).norm == measured
    assert choose_norm(recipe(root, **{**again, "data.norm": "teacher"})).norm == measured


def test_the_teachers_are_kept_where_they_are_chosen(root, measured, caplog):
    one = recipe(root, **{"data.norm": "teacher"})
    with caplog.at_level(logging.WARNING):
        fits = say_norm(one, choose=True)
    assert segment_dataset(one).space.norm.q01 == one.data.q01
    assert "normalised by data.q01 and data.q99 of the recipe; against the data: control" in caplog.text
    assert fits[0].outside == max(fit.outside for fit in fits) > 0.5
    assert f"control {fits[0].control}: {fits[0].outside:.1%} of rows clipped" in caplog.text


def test_without_a_conversion_the_data_are_measured(root):
    one = recipe(root, **{"data.norm": "data"})
    choice = choose_norm(one)
    rows = control_rows(root, cameras=one.data.cameras, relative=True)
    assert choice.measured
    assert not any(fit.is_foreign for fit in coverage(rows, choice.norm))
    assert not (root / "action_norm.json").exists()


def test_data_that_fit_the_recipes_quantiles_are_trained_on_without_a_choice(root, measured, caplog):
    quantiles = {key: list(getattr(measured, key)) for key in ("q01", "q99")}
    one = recipe(root, **{f"data.{key}": str(value).replace(" ", "") for key, value in quantiles.items()})
    with caplog.at_level(logging.INFO):
        assert not any(fit.is_foreign for fit in say_norm(one, choose=True))
    assert "against the data" in caplog.text


def test_distilling_a_teacher_by_other_quantiles_is_refused(root, measured, tmp_path):
    other = ActionNorm(q01=(-2.0,) * 30, q99=(2.0,) * 30, used=measured.used)
    (tmp_path / "action_norm.json").write_text(json.dumps(other.to_dict()))
    with pytest.raises(ValueError, match=r"the teacher acts by .*action_norm\.json, which is not"):
        refuse_other_norm(recipe(root, **{"data.norm": "data", "wam.pretrained": tmp_path}))
    refuse_other_norm(recipe(root, **{"data.norm": "teacher", "wam.pretrained": tmp_path}))


def test_a_teachers_quantiles_that_nobody_says_are_missed(root):
    silent = {"data.norm": "teacher", "data.q01": "null", "data.q99": "null"}
    with pytest.raises(FileNotFoundError, match=r"data\.norm is teacher, but neither"):
        choose_norm(recipe(root, **silent))
