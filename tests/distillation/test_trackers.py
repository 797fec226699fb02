# SPDX-License-Identifier: Apache-2.0
"""The numbers of a training in trackers beside TensorBoard."""

import hashlib
import importlib.util
import json
from typing import ClassVar

import pytest
from accelerate.tracking import GeneralTracker
from distill_toys import GaussianTeacher, ToyJudge, ToySource, ToyWam

from flashwam.core.streams import StreamSpec
from flashwam.distillation import trackers
from flashwam.distillation.methods import make_method
from flashwam.distillation.trackers import check_trackers
from flashwam.distillation.trainer import train
from flashwam.recipe.load import load_recipe
from flashwam.recipe.sections import JudgeConfig, LoopConfig
from flashwam.run.folder import RunFolder
from flashwam.run.inputs import check_inputs
from flashwam.system.files import write_whole

STREAMS = {name: StreamSpec.from_config(name, {"shift": 5.0}) for name in ("video", "action")}


class Notebook(GeneralTracker):
    """Keeps what it is told."""

    name = "notebook"
    requires_logging_directory = True
    made: ClassVar[list] = []

    def __init__(self, project, folder):
        super().__init__()
        self.project, self.folder, self.lines, self.pictures, self.config = project, folder, [], [], None
        self.state = "made"
        self.made.append(self)

    @property
    def tracker(self):
        return self

    def start(self):
        self.state = "started"

    def store_init_configuration(self, values):
        self.config = values

    def log(self, values, step=None, **kwargs):
        self.lines.append({"step": step, **values})

    def log_images(self, values, step=None, **kwargs):
        self.pictures += [(step, name, picture.shape) for name, (picture,) in values.items()]

    def finish(self):
        self.state = "finished"


def run(folder, *names):
    config = LoopConfig(
        method="on_policy", steps=4, batch_size=2, log_every=2, trackers=names, judge=JudgeConfig(every=4)
    )
    method = make_method(config, STREAMS, ToyWam.create(seed=1), teacher=GaussianTeacher())
    info = {"recipe": {"distill": {"lr": 1e-4, "init": None}}}
    return train(method, ToySource(), config, run_dir=folder, seed=3, judge=ToyJudge(), info=info)


def test_a_tracker_of_ones_own_gets_every_number_and_picture(tmp_path):
    run(tmp_path / "first", "test_trackers:Notebook")
    tracker = Notebook.made.pop()
    assert (tracker.project, tracker.state, tracker.config) == ("flashwam", "finished", {"distill.lr": 1e-4})
    assert tracker.folder == str(tmp_path / "first" / "notebook")
    assert tracker.lines == [
        json.loads(line) for line in (tmp_path / "first" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in tracker.lines] == [0, 1, 2, 4, 4]
    assert tracker.pictures == [(step, "judged/noise", (4, 6, 3)) for step in (0, 4)]


def test_a_tracker_that_there_is_not_is_said_before_anything_is_made(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"unknown tracker 'wandbb'; expected one of .*wandb"):
        run(tmp_path / "run", "wandbb")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"the tracker comet_ml needs its package: pip install comet-ml"):
        check_trackers(["comet_ml"])
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_recipe_names_trackers_in_a_line():
    recipe = load_recipe("metaworld/flash_wam", ["distill.trackers=[wandb,trackio]"])
    assert recipe.distill.trackers == ("wandb", "trackio")
    assert recipe.train.trackers == ()


def test_weights_and_biases_goes_on_with_its_run_when_changed_inputs_are_accepted(tmp_path, monkeypatch):
    class Wandb(Notebook):
        requires_logging_directory = False

        def __init__(self, project, **given):
            super().__init__(project, None)
            self.given = given

    monkeypatch.setattr(trackers, "_tracker_class", lambda name: Wandb)
    run = RunFolder(tmp_path / "run")
    write_whole(run.provenance, json.dumps({"time": "now", "cores": 2}, indent=2) + "\n")
    known = hashlib.sha256(run.provenance.read_bytes()).hexdigest()[:16]
    ids = []
    for data in ("1", "2", "3"):
        check_inputs(run.path, {"data": data}, accept=True)
        (made,) = trackers.make_trackers(["wandb"], run, {})
        ids.append(made.given["id"])
    Notebook.made.clear()
    assert ids == [known] * 3
