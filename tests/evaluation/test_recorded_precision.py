# SPDX-License-Identifier: Apache-2.0
"""A model is recorded in the precision that its recipe names, as it is evaluated and served."""

import json

import pytest
from tiny_models import save_tiny_student, tiny_codec, tiny_wam

from flashwam.core.noise import NoiseSchedule
from flashwam.core.streams import StreamSpec
from flashwam.evaluation import recording
from flashwam.recipe.build import plain
from flashwam.recipe.load import load_recipe
from flashwam.student import save_wam
from flashwam.system.errors import InputError


class DrivenError(Exception):
    """Ends a recording when its episodes would begin; tells the precision of what would be driven."""


@pytest.fixture
def recorded_in(monkeypatch):
    """Gives the precision in which a model's episodes would be recorded."""

    def drive(local, *arguments, **options):
        raise DrivenError(local._wam.precision)

    def record(model, out):
        with pytest.raises(DrivenError) as told:
            recording.record(model, out, tasks=["reach-wall"], episodes=1, progress=False)
        return str(told.value)

    monkeypatch.setattr(recording, "drive", drive)
    return record


@pytest.fixture
def rounded(tmp_path):
    streams = {name: StreamSpec(name=name, schedule=NoiseSchedule(1.0)) for name in ("video", "action")}
    overrides = ["data.tasks=[reach-wall]", f"data.root={tmp_path / 'none'}", "rollout.precision=fp8"]
    info = {"name": "r", "steps": 9, "teacher": "x", "recipe": plain(load_recipe("flash_wam", overrides))}
    folder = tmp_path / "rounded"
    save_wam(folder, tiny_wam(attention_head_dim=32), streams, kind="student", info=info)
    tiny_codec().save(folder)
    return folder


def test_a_rounded_model_is_recorded_rounded_and_gone_on_with(rounded, recorded_in, tmp_path):
    assert recorded_in(rounded, tmp_path / "out") == "fp8"
    assert json.loads((tmp_path / "out" / "recording.json").read_text())["precision"] == "fp8"
    assert recorded_in(rounded, tmp_path / "out") == "fp8"


def test_a_recording_that_tells_no_precision_was_made_in_the_models_own(rounded, recorded_in, tmp_path):
    own = save_tiny_student(tmp_path / "own")
    for model in (own, rounded):
        assert recorded_in(model, tmp_path / f"of_{model.name}") == ("own" if model == own else "fp8")
        file = tmp_path / f"of_{model.name}" / "recording.json"
        told = json.loads(file.read_text())
        told.pop("precision")
        file.write_text(json.dumps(told))
    assert recorded_in(own, tmp_path / "of_own") == "own"
    with pytest.raises(InputError, match="another precision"):
        recording.record(rounded, tmp_path / "of_rounded", tasks=["reach-wall"], episodes=1, progress=False)
