# SPDX-License-Identifier: Apache-2.0
"""A model on disk says how it must be sampled, and is refused where that is not known."""

import json
from importlib.metadata import version

import pytest
import torch
from distill_toys import ToyWam

from flashwam.core.streams import StreamSpec
from flashwam.student import load_wam, save_wam
from flashwam.wam import family

STREAMS = {
    "video": StreamSpec.from_config("video", {"shift": 5.0, "consistency": {"name": "lcm", "sigma_data": 0.7}}),
    "action": StreamSpec.from_config("action", {"shift": 1.0, "steps": 2}),
}


@pytest.fixture
def saved(tmp_path):
    save_wam(tmp_path, ToyWam.create(seed=2), STREAMS, kind="student", info={"steps": 7, "teacher": "t"})
    return tmp_path


def edit(folder, change):
    path = folder / "flashwam.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_round_trip(saved):
    model, info = load_wam(saved, trust=True)
    assert dict(info.streams) == STREAMS
    assert list(info.streams) == ["video", "action"]
    assert (info.kind, info.steps, info.extra["teacher"]) == ("student", 7, "t")
    assert info.extra["versions"]["torch"] == version("torch")
    expected = ToyWam.create(seed=2).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


def test_unknown_consistency_function_is_refused(saved):
    edit(saved, lambda c: c["streams"]["video"]["consistency"].update(name="mystery"))
    with pytest.raises(ValueError, match=r"cannot be sampled.*mystery"):
        load_wam(saved, trust=True)


def test_broken_contents_are_named(saved):
    edit(saved, lambda c: c.update(kind="pupil"))
    with pytest.raises(ValueError, match="pupil"):
        load_wam(saved, trust=True)
    (saved / "flashwam.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        load_wam(saved, trust=True)
    (saved / "flashwam.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"flashwam\.json"):
        load_wam(saved, trust=True)


def test_streams_must_be_the_models(saved, tmp_path):
    edit(saved, lambda c: c["streams"].pop("action"))
    with pytest.raises(ValueError, match="not the model's"):
        load_wam(saved, trust=True)
    with pytest.raises(ValueError, match="model's"):
        save_wam(tmp_path, ToyWam.create(seed=2), {"video": STREAMS["video"]}, kind="student")
    with pytest.raises(ValueError, match="kind"):
        save_wam(tmp_path, ToyWam.create(seed=2), STREAMS, kind="pupil")


def test_family_by_name_and_by_path():
    assert family("distill_toys:ToyWam") is ToyWam
    assert family("lingbot_va").__name__ == "LingBotVA"
    with pytest.raises(ValueError, match="unknown model family"):
        family("nothing")
    with pytest.raises(ValueError, match="imported"):
        family("distill_toys:Nothing")
    with pytest.raises(ValueError, match="subclass"):
        family("distill_toys:ToySource")


def test_a_model_that_cannot_be_saved_leaves_the_one_that_was_there(saved, monkeypatch):
    (saved / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr("flashwam.student.renew_card", lambda *arguments, **keywords: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            save_wam(saved, ToyWam.create(seed=3), STREAMS, kind="teacher")
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    save_wam(saved, ToyWam.create(seed=3), STREAMS, kind="teacher")
    assert load_wam(saved, trust=True)[1].kind == "teacher"
    assert (saved / "notes.txt").read_text() == "mine"
