# SPDX-License-Identifier: Apache-2.0
"""The `flashwam.json` of a model: the recipe that it was made with, as any version wrote it."""

import json
from dataclasses import replace

import pytest

from flashwam.recipe.build import plain
from flashwam.recipe.load import load_recipe
from flashwam.run.model_info import ModelInfo
from flashwam.student import WamInfo
from flashwam.system.paths import ASSETS

RECIPE = load_recipe("metaworld/flash_wam", ["evaluate.episodes=7", "distill.lora={rank: 4}"])


def info(told) -> ModelInfo:
    return ModelInfo(kind="student", streams=RECIPE.streams, extra={"recipe": told})


def test_a_saved_models_recipe_is_the_one_it_was_made_with():
    found = info(json.loads(json.dumps(plain(RECIPE))))
    assert found.recipe == RECIPE
    assert (found.tasks, found.episodes) == (RECIPE.data.tasks, 7)


def test_the_shipped_teacher_says_where_it_comes_from():
    found = ModelInfo.read(ASSETS / "teacher")
    assert (found.name, found.role, found.teacher, found.steps) == ("teacher", "teacher", None, 5000)
    assert found.recipe.data.window_frames == 8
    assert found.tasks == ("button-press", "drawer-open", "window-open", "reach-wall", "button-wall")


def test_the_shipped_teacher_of_libero_is_of_its_recipe():
    found, recipe = ModelInfo.read(ASSETS / "libero_teacher"), load_recipe("libero_small/teacher")
    assert (found.name, found.role, found.teacher, found.steps) == ("teacher", "teacher", None, 16_000)
    assert (found.tasks, found.recipe.wam.config) == (recipe.data.tasks, recipe.wam.config)
    assert (found.recipe.train, found.recipe.autoencoder) == (
        replace(recipe.train, strategy="ddp", save_every=1000),
        recipe.autoencoder,
    )


def test_tasks_that_are_evaluated_come_before_those_that_were_learnt():
    told = replace(RECIPE, evaluate=replace(RECIPE.evaluate, tasks=("reach-wall",)))
    assert info(plain(told)).tasks == told.tasks == ("reach-wall",)


def test_fields_and_names_of_another_version_are_no_hindrance():
    told = plain(RECIPE)
    told |= {"colour": "red", "data": {**told["data"], "tasks": ["gone"], "horizon": 3}}
    told["distill"] = {**told["distill"], "method": "gone", "lora": {**told["distill"]["lora"], "dropout": 0.1}}
    del told["autoencoder"], told["evaluate"]["nfe"]
    found = info(told)
    assert found.tasks == ("gone",)
    assert found.recipe.distill.lora.rank == 4
    assert found.recipe.autoencoder.width == 64


def test_an_older_version_held_no_recordings_out():
    told = plain(RECIPE)
    assert info(told).recipe.data.held_out_every == 20
    del told["data"]["held_out_every"]
    assert info(told).recipe.data.held_out_every is None


@pytest.mark.parametrize("told", [None, "flash_wam", {}, {"evaluate": {"episodes": 3}}, {"data": {"tasks": ["reach"]}}])
def test_a_model_that_does_not_say_what_it_learnt_from_has_no_recipe(told):
    assert (info(told).recipe, info(told).tasks, info(told).episodes) == (None, (), None)


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("data", [3], r"flashwam\.json: recipe\.data must be a mapping; got \[3\]"),
        ("data", {"root": 3}, r"flashwam\.json: recipe\.data\.root: expected a path"),
        ("evaluate", {"episodes": 0}, r"flashwam\.json: recipe\.evaluate\.episodes must be at least 1; got 0"),
        ("evaluate", {"nfe": ["1x"]}, r"flashwam\.json: recipe: steps must read like"),
    ],
)
def test_a_value_that_no_recipe_has_is_named(section, value, message):
    with pytest.raises(ValueError, match=message):
        _ = info({**plain(RECIPE), section: value}).recipe


def test_it_still_goes_by_its_old_name():
    assert WamInfo is ModelInfo
