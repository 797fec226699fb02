# SPDX-License-Identifier: Apache-2.0
"""A saved model is the one that the recipe which loads it describes, or it is refused."""

from pathlib import Path
from typing import Any

import pytest
from tiny_models import TINY, save_tiny_student
from toy_families import Minimal

from flashwam.recipe.load import load_recipe
from flashwam.recipe.sections import WamConfig
from flashwam.student import load_pretrained
from flashwam.swiftvla.policy import FusionPolicy

JOINT: dict[str, Any] = {"latent_size": [8, 8], "chunk_frames": 4, "actions_per_frame": 4, "action_dim": 4}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_student(tmp_path_factory.mktemp("one") / "student")


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_student(tmp_path_factory.mktemp("joint") / "student", joint=True)


def wam(family: str, config: dict[str, Any]) -> WamConfig:
    return WamConfig(family=family, config=config)


def test_a_model_of_another_family_is_refused_by_both_names(one: Path, joint: Path) -> None:
    with pytest.raises(ValueError, match=r"holds a model of family 'lingbot_va', .*wam\.family is 'cogvideox'"):
        load_pretrained(one, load_recipe("videovla/metaworld/flash_wam").wam)
    with pytest.raises(ValueError, match=r"holds a model of family 'cogvideox', .*wam\.family is 'lingbot_va'"):
        load_pretrained(joint, load_recipe("metaworld/flash_wam", ["wam.config.attention=flex"]).wam)
    # Nothing but a folder was named.
    assert load_pretrained(joint, WamConfig(pretrained=str(joint))).chunk_frames == 4


def test_what_a_recipe_says_of_a_saved_model_is_so(one: Path, joint: Path) -> None:
    assert load_pretrained(one, wam("lingbot_va", TINY)).chunk_frames == 2
    for changed in ({"window_chunks": 1}, {"eviction": "permanent"}, {"used_channels": [1, 0]}, {"num_layers": 3}):
        ((key, value),) = changed.items()
        with pytest.raises(ValueError, match=rf"describes another model .*{key} .*instead of .*wam\.config\.{key}="):
            load_pretrained(one, wam("lingbot_va", {**TINY, key: value}))
    assert load_pretrained(joint, wam("cogvideox", JOINT)).chunk_frames == 4
    for changed in ({"snr_shift": 3.0}, {"rope_mode": "resize_crop"}, {"chunk_frames": 5}, {"execute_frames": None}):
        ((key, _),) = changed.items()
        with pytest.raises(ValueError, match=rf"describes another model .*{key} "):
            load_pretrained(joint, wam("cogvideox", {**JOINT, **changed}))


def test_the_way_in_which_it_computes_is_the_recipes_to_say(one: Path, joint: Path) -> None:
    told = {**TINY, "rollout": "static", "attention": "sdpa", "attn_mode": "flex", "gradient_checkpointing": True}
    model = load_pretrained(one, wam("lingbot_va", told))
    assert (model.config.rollout, model.transformer.gradient_checkpointing) == ("static", True)
    # A network's input follows the observation, whatever a released one had.
    again = load_pretrained(joint, wam("cogvideox", {**JOINT, "rollout": "graphed", "in_channels": 3}))
    assert again.config.rollout == "graphed"


def test_a_plain_model_is_told_from_another_by_its_settings() -> None:
    kept = Minimal.create(gain=2.0)
    assert kept.differences({"gain": 2}) == {}
    assert kept.differences({"gain": 3.0, "unheard_of": 1}) == {"gain": (3.0, 2.0)}


def test_a_folder_that_weights_were_read_from_may_have_moved() -> None:
    trunk = {"width": 16, "layers": 1, "heads": 2, "key_heads": 1}
    sizes = {"latent": [3, 8, 8], "chunk_frames": 2, "actions_per_frame": 2, "action_dim": 4, "text_dim": 8}
    policy = FusionPolicy.create(primary={"name": "patches"}, trunk=trunk, **sizes, expert_width=16)
    assert policy.differences({"primary": {"name": "patches", "pretrained": "elsewhere"}, "trunk": trunk}) == {}
    assert policy.differences({"primary": {"name": "wam"}, "fusion_tokens": 3}) == {
        "primary": ({"name": "wam"}, {"name": "patches"}),
        "fusion_tokens": (3, 0),
    }
    assert policy.differences({"trunk": {"layers": 2}})["trunk"][0] == {"layers": 2}
