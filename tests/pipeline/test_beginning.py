# SPDX-License-Identifier: Apache-2.0
"""The weights that a training begins with, and what its run notes of them."""

import json

import pytest
import torch
import yaml
from tiny_models import TINY, tiny_wam
from tiny_windows import Windows

from flashwam.core.streams import StreamSpec
from flashwam.pipeline.training import train
from flashwam.plan import check_names, make_plan
from flashwam.plan.sizes import meta_model
from flashwam.recipe.load import load_recipe
from flashwam.student import load_wam, save_wam

SHIFTS = {"video": {"shift": 5.0}, "action": {"shift": 1.0}}
STREAMS = {name: StreamSpec.from_config(name, config) for name, config in SHIFTS.items()}
# So small that a training leaves the weights where they were.
STILL = {"method": "flow_matching", "steps": 1, "batch_size": 2, "lr": 1e-12, "warmup_steps": 0, "diagnose_every": 0}


def save(folder, seed):
    model = tiny_wam(seed=seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    save_wam(folder, model, STREAMS, kind="teacher", info={"name": folder.name})
    return model


def recipe(folder, *, config=True, **overrides):
    wam = {"family": "lingbot_va"}
    if config:
        wam["config"] = {key: list(value) if isinstance(value, tuple) else value for key, value in TINY.items()}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "begun", "streams": SHIFTS, "wam": wam, "train": STILL}, sort_keys=False))
    return load_recipe(path, [f"{key}={value}" for key, value in overrides.items()])


def equal(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.allclose(a, b, rtol=0, atol=1e-6) for a, b in pairs)


def inputs(run):
    return json.loads((run / "inputs.json").read_text())["inputs"]


@pytest.mark.parametrize("pretrained", [False, True])
def test_a_training_begins_with_init_whether_a_pretrained_model_is_named_or_not(tmp_path, pretrained):
    named, other = save(tmp_path / "named", 11), save(tmp_path / "other", 22)
    overrides = {"train.init": tmp_path / "named"}
    if pretrained:
        overrides["wam.pretrained"] = tmp_path / "other"
    result, info = load_wam(train(recipe(tmp_path, **overrides), run_dir=tmp_path / "run", source=Windows(named)))
    assert equal(result, named)
    assert not equal(result, other)
    assert info.extra["init"] == str(tmp_path / "named")
    # Only what was loaded is an input.
    assert list(inputs(tmp_path / "run")) == ["initial weights (init)"]


def test_without_init_a_training_begins_with_the_pretrained_model(tmp_path):
    other = save(tmp_path / "other", 22)
    chosen = recipe(tmp_path, **{"wam.pretrained": tmp_path / "other"})
    result, _ = load_wam(train(chosen, run_dir=tmp_path / "run", source=Windows(other)))
    assert equal(result, other)
    assert list(inputs(tmp_path / "run")) == ["model (wam.pretrained)"]


def test_a_plan_tells_what_a_training_begins_with(tmp_path):
    save(tmp_path / "named", 11)
    lines = make_plan(recipe(tmp_path, **{"train.init": tmp_path / "named"}), "train").lines()
    assert any("starts from" in line and f"{tmp_path / 'named'} (found)" in line for line in lines)
    assert not any("starts from" in line for line in make_plan(recipe(tmp_path), "train").lines())


def test_a_recipe_that_begins_with_init_needs_no_config_beside_it(tmp_path):
    named = save(tmp_path / "named", 11)
    chosen = recipe(tmp_path, config=False, **{"train.init": tmp_path / "named"})
    check_names(chosen, "train")
    assert meta_model(chosen).shapes == named.shapes
    assert equal(load_wam(train(chosen, run_dir=tmp_path / "run", source=Windows(named)))[0], named)
