# SPDX-License-Identifier: Apache-2.0
"""The weights that a training begins with, and what its run notes of them."""

import json

import pytest
import torch
import yaml
from tiny_models import TINY, tiny_wam
from tiny_windows import Windows

from flashwam.core.streams import StreamSpec
from flashwam.distillation import checkpoint
from flashwam.pipeline.training import distill, train
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


class StoppedError(Exception):
    pass


@pytest.fixture
def second_stage(tmp_path, monkeypatch):
    """Starts a distillation with adapters from that of one of two students; it is stopped after a checkpoint."""
    save(tmp_path / "teacher", 3)
    source = Windows(tiny_wam())
    loop = STILL | {"lr": 1e-2, "steps": 3, "save_every": 1, "lora": {"rank": 2, "alpha": 2.0}}

    def start(name, method="consistency", **overrides):
        streams = {**SHIFTS, "video": {**SHIFTS["video"], "weight": float(method != "on_policy")}}
        wam = {"family": "lingbot_va", "pretrained": str(tmp_path / "teacher")}
        content = {"name": name, "streams": streams, "wam": wam, "distill": loop | {"method": method}}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        chosen = load_recipe(path, [f"{key}={value}" for key, value in overrides.items()])
        return distill(chosen, run_dir=tmp_path / name, source=source)

    one, other = start("one"), start("other", seed=7)
    save_checkpoint = checkpoint.Checkpoints.save

    def save_and_stop(self, step):
        save_checkpoint(self, step)
        raise StoppedError

    monkeypatch.setattr(checkpoint.Checkpoints, "save", save_and_stop)
    with pytest.raises(StoppedError):
        start("second", "on_policy", **{"distill.init": one})
    monkeypatch.undo()
    return lambda init: start("second", "on_policy", **{"distill.init": init}), one, other


def test_a_distillation_with_adapters_goes_on_with_no_other_adapter(tmp_path, second_stage):
    """The frozen reference of the method is made of it at every start."""
    go_on, one, other = second_stage
    assert "initial adapter (init)" in inputs(tmp_path / "second")
    with pytest.raises(ValueError, match=r"changed since: initial adapter \(init\)"):
        go_on(other)
    go_on(one.rename(tmp_path / "moved"))


def test_a_distillation_that_noted_no_adapter_goes_on(tmp_path, second_stage):
    go_on, one, _ = second_stage
    path = tmp_path / "second/inputs.json"
    kept = json.loads(path.read_text())
    del kept["inputs"]["initial adapter (init)"]
    path.write_text(json.dumps(kept))
    go_on(one)
    assert "initial adapter (init)" in inputs(tmp_path / "second")
