# SPDX-License-Identifier: Apache-2.0
"""Refusals of what a recipe says by itself: before data are collected, weights read or a run's folder made."""

import importlib.util
from dataclasses import replace
from functools import partial

import pytest

from flashwam.distillation.methods import find_method
from flashwam.distillation.methods.options import keywords_of
from flashwam.pipeline import training
from flashwam.plan import make_plan
from flashwam.recipe.load import load_recipe
from flashwam.system.errors import InputError
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


FORESIGHT, MASKED = ("metaworld/foresight_decouplers", "distill"), ("swiftvla/metaworld/full", "train")
NESTED = {
    "targets=groundtruth": r"targets must be one of .*'ground_truth'.*; got 'groundtruth'",
    "stage=decoupler": r"stage must be one of \('decouplers', 'expert'\)",
    "pool=0": "pool must be at least 1, a number of windows",
    "rollout_batch=many": "rollout_batch must be at least 1, a number of windows drawn at once; got 'many'",
    "change_weight=-1": "change_weight must be at least 0",
    "looks=4": "looks must be at least 1, in stage expert",
    "weights.semantic=-1": r"options\.weights\.semantic must be a number of at least 0",
    "weights.sematic=1": r"options\.weights names \['sematic'\]; the providers are",
    "providers=null": "providers is empty",
    "providers.semantic.nam=scene": r"options\.providers\.semantic: a scene provider takes labels, .*'nam'",
    "providers.semantic.name=scenes": r"options\.providers\.semantic: unknown target provider 'scenes'",
    "providers.semantic.labels=normals": r"options\.providers\.semantic: labels must be one of",
    "providers.semantic=scene": r"options\.providers\.semantic must be a mapping of names to values; got 'scene'",
    "policy.poolling=mean": r"options\.policy\.poolling: unknown key; did you mean 'pooling'",
    "policy.pooling=max": r"options\.policy\.pooling must be one of \('perceiver', 'mean'\); got 'max'",
    "policy.use=[depth]": r"options\.policy\.use names \['depth'\]",
    "policy.blocks=[2,1]": r"options\.policy\.blocks must be whole numbers from 0, ascending; got \[2, 1\]",
    "policy.blocks=1": r"options\.policy\.blocks must be whole numbers from 0, ascending; got 1",
    "policy.grid=[4]": r"options\.policy\.grid must be two whole numbers",
    "policy.blocks=null": r"options\.policy\.blocks missing",
    "policy.decoupler.widht=3": r"options\.policy\.decoupler\.widht: unknown key; did you mean 'width'",
    "policy.decoupler.heads=5": r"options\.policy\.decoupler: .*64 and 5 heads",
    "policy.decoupler.width=wide": r"options\.policy\.decoupler: a value is missing, or of another kind",
    "policy.resampler.querys=3": r"options\.policy\.resampler\.querys: unknown key; did you mean 'queries'",
    "policy.expert.text=3": r"options\.policy\.expert\.text: unknown key",
    "teacher_streams.video.shfit=3": "shfit",
}
MASKS = {
    "mask.auxilary=0.5": r"options\.mask\.auxilary: unknown key; did you mean 'auxiliary'\?; it takes auxiliary, primary",
    "mask.auxiliary=often": r"options\.mask: a value is missing, or of another kind",
    "mask.auxiliary=2": "options.mask: mask: auxiliary and primary are probabilities",
    "provider.sides=4": r"options\.provider\.sides: unknown key; did you mean 'side'",
    "provider.capacities=[0]": r"options\.provider: capacities must name sizes",
    "path.colum=action": r"options\.path\.colum: unknown key; did you mean 'column'",
    "path=action": r"options\.path must be a mapping of names to values; got 'action'",
    "auxiliary.token=3": r"options\.auxiliary\.token: unknown key; did you mean 'tokens'",
    "reconstruct.primari=1": r"options\.reconstruct\.primari: unknown key; did you mean 'primary'",
    "trajectory=-1": r"options\.trajectory is a weight",
    "fusion_tokens=some": r"options\.fusion_tokens must be a whole number of at least 0",
    "weighting=steep": "weighting must be",
}
FLOW, CONSISTENCY, ON_POLICY, PAIRS, DMD2 = (
    ("metaworld/teacher", "train"),
    *((f"metaworld/{name}", "distill") for name in ("flash_wam", "on_policy", "pairs", "dmd2_joint")),
)
VALUES = {
    FLOW: {
        "text_dropout=2": r"options\.text_dropout must be a number from 0 to 1; got 2",
        "text_dropout=null": r"options\.text_dropout must be a number from 0 to 1; got None",
        "noisy_history=0.5": r"options\.noisy_history must be a mapping",
        "noisy_history.video=2": r"options\.noisy_history\.video must be a number from 0 to 1; got 2",
        "weighting.action=steep": r"options\.weighting\.action must be 'schedule' or 'flat'; got 'steep'",
        "chunk_frames=[4,2]": r"options\.chunk_frames must be two whole numbers \[low, high\].*got \[4, 2\]",
        "chunk_frames=2": r"options\.chunk_frames must be two whole numbers .*got 2",
        "window_chunks=[0,1]": r"options\.window_chunks must be two whole numbers",
        "shared_levels=some": r"options\.shared_levels must be true or false; got 'some'",
    },
    CONSISTENCY: {
        "anchor_steps=2.5": r"options\.anchor_steps must be a whole number of at least 1; got 2\.5",
    },
    ON_POLICY: {
        "teacher_steps=2.5": r"options\.teacher_steps must be a whole number of at least 1; got 2\.5",
        "start_share=1.5": r"options\.start_share must be a number from 0 to 1; got 1\.5",
    },
    PAIRS: {
        "reuse='5'": r"options\.reuse must be a finite number of at least 1; got '5'",
        "steps=2.5": r"options\.steps must be a whole number of at least 1; got 2\.5",
        "drawn_at_once=2.5": r"options\.drawn_at_once must be a whole number",
        "several_ways=1.5": r"options\.several_ways must be a whole number",
        "first_share=2": r"options\.first_share must be a number from 0 to 1, or null; got 2",
        "further_share=1": r"options\.further_share must be a number in \[0, 1\); got 1",
        "histories_share=0": r"options\.histories_share must be a number in \(0, 1\]; got 0",
        "dmd.student_every=0": r"options\.dmd\.student_every must be a whole number of at least 1; got 0",
        "dmd.student_evry=5": r"options\.dmd\.student_evry: unknown key; did you mean 'student_every'",
    },
    DMD2: {
        "rollout_steps=2.5": r"options\.rollout_steps must be a whole number of at least 1; got 2\.5",
        "student_every=2.5": r"options\.student_every must be a whole number of at least 1; got 2\.5",
        "student_every=1000000": "it is never the student's turn: raise steps, or lower student_every, which is 1000000",
        "renoise=0.5": r"options\.renoise must be two levels",
        "renoise=[0.9,0.1]": r"options\.renoise must be two levels \[low, high\]",
        "video_slot=both": r"options\.video_slot must be 'data' or 'own'; got 'both'",
    },
}
WRONG = [(*which, *each) for which, changes in VALUES.items() for each in changes.items()]
WRONG += [(*FORESIGHT, *each) for each in NESTED.items()] + [(*MASKED, *each) for each in MASKS.items()]


@pytest.mark.parametrize(("name", "command", "change", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_so_is_an_option_of_an_option_by_run_and_plan(tmp_path, name, command, change, message):
    changes = [f"{command}.options.{change}", f"data.root={tmp_path / 'data'}", f"run_dir={tmp_path / 'run'}"]
    recipe = load_recipe(name, changes)
    if command == "distill":
        recipe = replace(recipe, wam=replace(recipe.wam, pretrained=str(ASSETS / "teacher")))
    for begun in (partial(make_plan, command=command), getattr(training, command)):
        with pytest.raises(InputError, match=message):
            begun(recipe)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["flow_matching", "consistency", "on_policy", "pairs", "distribution_matching"])
def test_every_option_of_the_engines_methods_is_looked_at(name):
    """A new option is not forgotten: those that are mappings of their own are refused elsewhere."""
    method = find_method(name)
    options = set(keywords_of(method, without=("teacher", "keep_target")))
    assert options - set(method.option_values) <= {"weight_as", "dmd"}
    assert set(method.option_values) <= options
