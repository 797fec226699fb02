# SPDX-License-Identifier: Apache-2.0
"""Refusals of what a recipe says by itself: before data are collected, weights read or a run's folder made."""

import importlib.util
from dataclasses import replace

import pytest

from flashwam.pipeline import training
from flashwam.recipe.load import load_recipe
from flashwam.system.paths import ASSETS

RECIPES = {"distill": "metaworld/flash_wam", "train": "metaworld/teacher"}
ABSENT = {"comet_ml", "deepspeed", "peft"}


@pytest.fixture(autouse=True)
def absent(monkeypatch):
    """An environment without the packages that trackers, ZeRO and adapters need."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ABSENT else find(name))


def refused(command, folder, *changes):
    recipe = load_recipe(RECIPES[command], [f"data.root={folder / 'data'}", f"run_dir={folder / 'run'}", *changes])
    if command == "distill":
        recipe = replace(recipe, wam=replace(recipe.wam, pretrained=str(ASSETS / "teacher")))
    getattr(training, command)(recipe)


@pytest.mark.parametrize("command", ["distill", "train"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["trackers=[comet_ml]"], "the tracker comet_ml needs its package: pip install comet-ml"),
        (["trackers=[wandbb]"], "unknown tracker 'wandbb'"),
        (["strategy=zero2"], "strategy 'zero2' needs deepspeed"),
        (["strategy=fsdp"], "'fsdp' shards over several processes and there is one"),
        (["options.none=1"], r"has no options \['none'\]"),
        (
            ["judge.episodes=0", "keep_best=success"],
            "keep_best is success, which is never measured: judge.episodes is 0",
        ),
    ],
)
def test_a_recipe_is_refused_before_anything_is_made(tmp_path, command, changes, message):
    with pytest.raises((ValueError, ImportError), match=message):
        refused(command, tmp_path, *(f"{command}.{change}" for change in changes))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["distill.lora.rank=2"], r"adapters need peft: pip install 'flashwam\[lora\]'"),
        (["streams.video.loss=dmd"], "streams ask for"),
        (["distill.method=distribution_matching", "distill.strategy=zero3"], "each with an optimiser of its own|zero3"),
    ],
)
def test_so_is_what_a_distillation_cannot_do(tmp_path, changes, message):
    with pytest.raises((ValueError, ImportError), match=message):
        refused("distill", tmp_path, *changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["distill", "train"])
def test_so_are_adapters_for_a_method_that_trains_whole_weights(tmp_path, command):
    method = {"distill": "foresight", "train": "masked_reconstruction"}[command]
    changes = [f"{command}.method={method}", f"{command}.options={{}}", f"{command}.lora.rank=2"]
    changes = [*changes, f"wam.pretrained={ASSETS / 'teacher'}"]
    with pytest.raises(ValueError, match="trains whole weights"):
        refused(command, tmp_path, *changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("strategy", "processes", "message"),
    [
        ("ddp", "3", "batch_size 32 must be a multiple of the 3 processes"),
        ("single", "2", "2 processes were started for strategy 'single'"),
    ],
)
def test_so_is_a_number_of_processes_that_cannot_share_the_work(tmp_path, monkeypatch, strategy, processes, message):
    monkeypatch.setenv("WORLD_SIZE", processes)
    with pytest.raises(ValueError, match=message):
        refused("distill", tmp_path, f"distill.strategy={strategy}", "distill.batch_size=32")
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_of_another_family_is_said_before_data_are_made(tmp_path):
    with pytest.raises(ValueError, match="holds a model of family"):
        refused("train", tmp_path, f"train.init={ASSETS / 'teacher'}", "wam.family=cogvideox", "wam.config={}")
    assert list(tmp_path.iterdir()) == []


def test_recordings_that_are_not_there_leave_no_run_behind(tmp_path):
    data = ["data.source=lerobot", "data.cameras=[a]", "data.tasks=['*']", "data.norm=teacher"]
    with pytest.raises((ValueError, FileNotFoundError), match="data"):
        refused("distill", tmp_path, *data)
    assert list(tmp_path.iterdir()) == []
