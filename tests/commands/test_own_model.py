# SPDX-License-Identifier: Apache-2.0
"""A model of one's own by the command line alone: the page's class, trained, distilled and evaluated."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from flashwam.cli import main

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
SMALL = [
    "data.tasks=[faucet-turn]",
    "data.multimodal_episodes=20",
    "data.processes=1",
    "autoencoder.steps=2",
    "autoencoder.width=16",
    "train.steps=2",
    "train.batch_size=4",
    "distill.steps=2",
    "distill.batch_size=4",
    "evaluate.episodes=1",
    "evaluate.open_loop_samples=8",
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with the notebook's module and recipes in it; a console script finds nothing else there."""
    for name in ("my_wam.py", "my_wam.yaml", "my_wam_metaworld.yaml"):
        shutil.copy(NOTEBOOKS / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(NOTEBOOKS))])
    monkeypatch.delitem(sys.modules, "my_wam", raising=False)
    yield tmp_path
    sys.modules.pop("my_wam", None)


def test_the_pages_model_is_trained_distilled_and_evaluated_by_command(folder, two_way_episodes, capsys):
    recipe = ["my_wam_metaworld.yaml", *SMALL, f"data.root={two_way_episodes}"]
    assert main(["train", *recipe]) == 0
    assert main(["distill", *recipe, "name=my_student", "wam.pretrained=runs/my_wam_metaworld/teacher"]) == 0
    assert main(["evaluate", "runs/my_student"]) == 2
    assert "--trust" in capsys.readouterr().err
    assert main(["evaluate", "runs/my_student", "--trust"]) == 0
    saved = json.loads((folder / "runs/my_student/student/wam.json").read_text())
    assert saved["family"] == "my_wam:MyWAM"
    (result,) = (folder / "runs/my_student/evaluations").glob("*.json")
    assert json.loads(result.read_text())["overall"]["episodes"] == 1
