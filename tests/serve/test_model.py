# SPDX-License-Identifier: Apache-2.0
"""A model is served in the numbers that are asked for, or that its recipe names."""

import json
from dataclasses import replace

import pytest
from tiny_models import tiny_codec, tiny_wam

from flashwam.core.streams import StreamSpec
from flashwam.evaluation.policy import load_model
from flashwam.evaluation.served_model import described_by_server, served_how
from flashwam.serve.model import load_served
from flashwam.student import save_wam
from flashwam.wam.rounded_linear import Float8Linear


@pytest.fixture
def wide(tmp_path):
    """A student whose layers' sides are multiples of 16, with a recipe that rounds them."""
    streams = {name: StreamSpec.from_config(name, {"shift": 1.0}) for name in ("video", "action")}
    recipe = {"data": {"root": "nowhere", "tasks": ["faucet-turn"]}, "rollout": {"precision": "fp8"}}
    save_wam(tmp_path, tiny_wam(attention_head_dim=32), streams, kind="student", info={"recipe": recipe})
    tiny_codec().save(tmp_path)
    return tmp_path


def test_a_recipe_or_whoever_serves_says_the_precision(wide):
    rounded, exact = load_served(wide, dtype="bfloat16"), load_served(wide, precision="own")
    assert [model.metadata["precision"] for model in (rounded, exact)] == ["fp8", "own"]
    layers = [module for module in rounded.wam.modules() if isinstance(module, Float8Linear)]
    assert len(layers) == 10
    assert rounded.metadata["dtype"] == "bfloat16"
    assert not any(isinstance(module, Float8Linear) for module in exact.wam.modules())


def test_a_served_model_is_told_as_an_evaluation_of_it_would(wide):
    """By its run's name, role and weights, whatever they are rounded to."""
    loaded, told = load_model(wide), load_served(wide).metadata
    assert (told["name"], told["kind"], told["weights"]) == (wide.name, "student", loaded.fingerprint)
    assert load_served(wide, precision="own").metadata["weights"] == loaded.fingerprint
    result = wide.rename(wide.parent / "student")
    assert load_served(result).metadata["name"] == load_model(result).name == result.parent.name
    info = json.loads((result / "flashwam.json").read_text())
    (result / "flashwam.json").write_text(json.dumps({**info, "kind": "teacher", "teacher": "runs/teacher"}))
    assert load_served(result).metadata["kind"] == load_model(result).info.role == "student"


def test_one_that_is_loaded_is_drawn_in_other_steps_too(wide):
    loaded = load_served(wide, temperature=0.5)
    for nfe in ("2v/3a", None):
        at, anew = loaded.at(nfe), load_served(wide, nfe=nfe, temperature=0.5)
        assert at.wam is loaded.wam
        assert at.metadata == anew.metadata
        assert [one.steps for one in at.samplers.values()] == [one.steps for one in anew.samplers.values()]
    assert loaded.at("2v/3a").metadata["nfe"] == {"video": 2, "action": 3}
    with pytest.raises(ValueError, match="1w/1a"):
        loaded.at("1w/1a")
    with pytest.raises(ValueError, match="its own steps alone"):
        replace(loaded, sampled=None).at("1v/1a")


def test_a_model_or_whoever_serves_says_the_temperature(wide):
    info = json.loads((wide / "flashwam.json").read_text())
    info["streams"]["action"]["temperature"] = 0.25
    (wide / "flashwam.json").write_text(json.dumps(info))
    told, asked = load_served(wide), load_served(wide, temperature=0.5)
    one = load_served(wide, temperature={"video": 0.5})
    for model, expected in ((told, [1.0, 0.25]), (asked, [0.5, 0.5]), (one, [0.5, 0.25])):
        assert [one.temperature for one in model.samplers.values()] == expected
        assert [stream["temperature"] for stream in model.metadata["streams"].values()] == expected
    assert [(each.metadata["sampler"], served_how(each.metadata)) for each in (told, asked, one)] == [
        ("own", "served"),
        ("t0.5", "served_t0.5"),
        ("video-t0.5", "served_video-t0.5"),
    ]
    assert described_by_server(asked.metadata)["sampler"] == "t0.5"


def test_a_precision_that_nobody_knows_is_refused(wide):
    with pytest.raises(ValueError, match="precision must be one of own, fp8; got 'fp16'"):
        load_served(wide, precision="fp16")
    info = json.loads((wide / "flashwam.json").read_text())
    info["recipe"]["rollout"]["precision"] = "fp16"
    (wide / "flashwam.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match=r"recipe.rollout.precision: expected one of own, fp8; got 'fp16'"):
        load_served(wide)
