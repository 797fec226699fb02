# SPDX-License-Identifier: Apache-2.0
"""Slots of a chunk that a model never puts out, where its draws hold the noise that they began with, count nowhere."""

from types import SimpleNamespace

import pytest
import torch
from tiny_models import tiny_joint_wam
from tiny_windows import Windows

from flashwam.evaluation import local, recordings
from flashwam.pipeline import judge
from flashwam.recipe.load import load_recipe
from flashwam.run.folder import RunFolder
from flashwam.run.recordings import OnRecordings


@pytest.fixture
def wam():
    """Puts out the first 4 of 12 controls."""
    return tiny_joint_wam(action_tokens=4, execute_frames=1).eval()


def counted(batch):
    return batch.loss_mask("action").expand_as(batch.clean["action"])[:, :, :, :, 0]


def check(batch):
    """Two windows of two chunks, of whose four frames the second holds the controls that are drawn."""
    drawn = torch.zeros(2, 4, 8, 4, dtype=torch.bool)
    drawn[:, :, [1, 5]] = True
    assert torch.equal(counted(batch), drawn)


def test_of_recordings(wam, monkeypatch):
    found = SimpleNamespace(source=Windows(wam, chunks=2))
    monkeypatch.setattr(recordings, "recorded_windows", lambda *arguments, **keywords: found)
    on = OnRecordings(windows=2, draws=1)
    check(recordings._Judge(model=SimpleNamespace(wam=wam), recipe=None, on=on, seed=0, teacher={}).batch)


def test_of_the_run_s_own_held_out_windows(wam):
    recipe = load_recipe("videovla/metaworld/flash_wam", [f"evaluate.open_loop_samples={2 * local.DRAWS}"])
    windows = Windows(wam, chunks=2)
    check(local._held_out(SimpleNamespace(info=SimpleNamespace(recipe=recipe), held_out=lambda: windows, wam=wam)))


def test_while_the_model_is_trained(wam, monkeypatch, tmp_path):
    recipe = load_recipe("videovla/robot/teacher", ["train.judge={every: 1, windows: 2, draws: 2, episodes: 0}"])
    found = SimpleNamespace(source=Windows(wam, chunks=2))
    monkeypatch.setattr(judge, "_windows", lambda *arguments: found)
    monkeypatch.setattr(judge, "judged_draws", lambda source, count: range(count))
    monkeypatch.setattr(judge, "_pictures", lambda *arguments: None)
    parts = {"student": wam, "teacher": None, "codec": None, "run": RunFolder(tmp_path)}
    check(judge.make_judge(recipe, recipe.train, result="teacher", **parts).batch)
