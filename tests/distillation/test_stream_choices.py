# SPDX-License-Identifier: Apache-2.0
"""Choices of streams are read by the method, or the recipe is refused before anything is made of it."""

from pathlib import Path

import pytest

from flashwam.distillation.methods import check_streams
from flashwam.plan import check_names
from flashwam.recipe.load import load_recipe

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.mark.parametrize(
    ("name", "override", "told"),
    [
        ("on_policy", "streams.action.regulariser=5", r"streams\.action\.regulariser 5.*regulariser=0\.0"),
        ("on_policy", "streams.video.teacher_substeps=4", r"teacher_substeps 4.*teacher_substeps=1"),
        ("pairs", "streams.action.regulariser=0.2", r"method 'pairs' reads none of streams\.action\.regulariser 0\.2"),
        ("pairs", "streams.video.guidance=[7,9]", r"guidance \(7\.0, 9\.0\).*guidance=null.*at guidance_scale"),
        ("pairs_dmd2_video", "streams.action.guidance=[7,9]", r"streams\.action\.guidance"),
        ("dmd2_joint", "streams.video.huber_c=0.1", r"huber_c 0\.1.*huber_c=0\.001"),
        ("flash_wam", "streams.action.teacher_temperature=0", r"teacher_temperature 0.*teacher_temperature=1\.0"),
        ("dmd2_joint", "streams.video.teacher_temperature=0.5", r"teacher_temperature 0\.5"),
        ("foresight", "streams.action.anchors=4", r"anchors 4.*anchors=2"),
    ],
)
def test_what_a_method_does_not_read_is_refused(name, override, told):
    recipe = load_recipe(f"metaworld/{name}", [override])
    with pytest.raises(ValueError, match=told):
        check_names(recipe, "distill")
    with pytest.raises(ValueError, match=told):
        check_streams(recipe, recipe.distill)


def test_what_it_reads_is_not():
    matched = ["streams.video.guidance=[7,9]", "streams.video.regulariser=0.5"]
    for name, overrides in (("pairs_dmd2_video", matched), ("on_policy", ["streams.video.guidance=[7,9]"])):
        check_names(load_recipe(f"metaworld/{name}", overrides), "distill")


def test_a_teachers_training_may_hold_what_its_distillation_reads():
    check_names(load_recipe("metaworld/flash_wam"), "train")
    with pytest.raises(ValueError, match=r"method 'flow_matching' reads none of streams\.action\.regulariser"):
        check_names(load_recipe("metaworld/teacher", ["streams.action.regulariser=0.2"]), "train")


@pytest.mark.parametrize(
    ("name", "changes", "warned"),
    [
        ("flash_wam", ["streams.video.guidance=null"], ["video"]),
        ("on_policy", ["streams.action.guidance_scale=5"], ["video", "action"]),
        ("on_policy", ["streams.action.guidance_scale=5", "streams.action.guidance=[5,5]"], ["video"]),
        ("on_policy", ["streams.action.weight=0"], ["video"]),
        ("pairs", [], []),
    ],
)
def test_a_guided_teacher_that_is_distilled_unguided_is_told(name, changes, warned, caplog):
    recipe = load_recipe(f"metaworld/{name}", ["streams.video.guidance_scale=5", *changes])
    check_streams(recipe, recipe.distill)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == len(warned)
    for name, text in zip(warned, told, strict=True):
        assert f"driven at streams.{name}.guidance_scale=5 and distilled without" in text
        assert f"set streams.{name}.guidance=[5,5]" in text


def test_every_shipped_recipe_asks_for_what_is_read():
    for file in sorted(RECIPES.rglob("*.yaml")):
        recipe = load_recipe(file)
        for loop in (recipe.train, recipe.distill):
            if loop is not None:
                check_streams(recipe, loop)
