# SPDX-License-Identifier: Apache-2.0
"""Draws that are made before a distillation: found again, and not made for a run that is finished."""

import json
import shutil

import pytest
from tiny_models import TINY, save_tiny_student
from tiny_windows import Windows

from flashwam.distillation.futures import TeacherFuture
from flashwam.pipeline.training import distill
from flashwam.recipe.load import load_recipe
from flashwam.student import load_wam


@pytest.fixture
def recipe(tmp_path):
    teacher = save_tiny_student(tmp_path / "teacher")
    overrides = (
        f"wam.pretrained={teacher}",
        f"data.root={tmp_path / 'data'}",
        "distill.steps=2",
        "distill.warmup_steps=0",
        "distill.batch_size=4",
        "distill.options.first_share=null",
        "distill.options.reuse=1",
        *(f"wam.config.{key}={json.dumps(value)}" for key, value in TINY.items()),
    )
    return lambda *more: load_recipe("metaworld/pairs", [*overrides, *more])


def test_draws_are_made_once_and_not_for_a_run_that_is_finished(recipe, tmp_path, monkeypatch):
    drawn = []
    draw = TeacherFuture.draw
    monkeypatch.setattr(TeacherFuture, "draw", lambda self, b, noise: drawn.append(b.size) or draw(self, b, noise))
    windows = Windows(load_wam(recipe().wam.pretrained)[0], 2)
    first = distill(recipe(), run_dir=tmp_path / "first", source=windows)
    assert sum(drawn) == 8
    distill(recipe("distill.lr=1e-4"), run_dir=tmp_path / "second", source=windows)
    assert sum(drawn) == 8
    shutil.rmtree(tmp_path / "data" / "rollouts")
    assert distill(recipe(), run_dir=tmp_path / "first", source=windows) == first
    assert sum(drawn) == 8
