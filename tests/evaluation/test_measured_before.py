# SPDX-License-Identifier: Apache-2.0
"""Measured before on recordings is what had the same teacher, windows, numbers and device; drawing is made up."""

import json
import logging
from types import SimpleNamespace

import pytest
from tiny_models import save_tiny_student, tiny_wam
from tiny_windows import Windows

from flashwam.evaluation import recordings
from flashwam.evaluation.policy import load_model
from flashwam.evaluation.recordings import evaluate_recordings
from flashwam.evaluation.reference import reference_fingerprint
from flashwam.report.recordings import recording_rows
from flashwam.run.evaluation import Evaluation, read_recordings
from flashwam.run.recordings import RecordingNumbers


@pytest.fixture
def student(tmp_path):
    """A student in its run, whose teacher is not where it was."""
    folder = save_tiny_student(tmp_path / "run" / "student")
    path = folder / "flashwam.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"teacher": str(tmp_path / "lost")}))
    return folder


@pytest.fixture
def measured(monkeypatch):
    """The teachers of the measurements that were made, one after the other."""
    calls = []

    def measure(self, nfe, sampler, asked, place):
        calls.append(asked.settings.get("teacher"))
        compared = None if calls[-1] is None else {"action_error_teacher": float(len(calls))}
        numbers = RecordingNumbers(held_out=True, windows=1, episodes=1, draws=2, names=("x",), units=("",))
        return Evaluation(
            run="tiny", nfe={"video": 1, "action": 1}, tasks={}, step=7, asked=asked, open_loop=compared,
            recordings=numbers, setting=nfe, seed=self.seed,
        )  # fmt: skip

    monkeypatch.setattr(recordings._Judge, "measure", measure)
    return calls


@pytest.fixture
def windows(monkeypatch):
    """The held-out windows; None while the recordings are not here."""
    place = SimpleNamespace(source=Windows(tiny_wam()), held_out=True)

    def find(*arguments, **keywords):
        if place.source is None:
            raise FileNotFoundError("data/nowhere")
        return place

    monkeypatch.setattr(recordings, "recorded_windows", find)
    return place


def teacher(folder, content=b"one"):
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(content)
    return folder


def evaluate(student, **changes):
    (result,) = evaluate_recordings(student, windows=1, draws=2, **changes)
    return result["open_loop"]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"teacher": "other"}, "teacher: not the same as then"),
        ({"dtype": "float32"}, "dtype: 'own' then, 'float32' now"),
    ],
)
def test_numbers_of_other_settings_are_not_given_out_as_these(student, measured, windows, tmp_path, changed, told):
    places = {"first": teacher(tmp_path / "first"), "other": teacher(tmp_path / "other", b"two")}
    first = evaluate(student, teacher=places["first"])
    given = {name: places.get(value, value) for name, value in {"teacher": "first", **changed}.items()}
    with pytest.raises(ValueError, match=rf"under other settings \({told}.*give another out= folder"):
        evaluate(student, **given)
    assert evaluate(student, teacher=places["first"].rename(tmp_path / "moved")) == first
    assert evaluate(student, out=tmp_path / "elsewhere", **(given | {"teacher": tmp_path / "other"})) != first
    assert len(measured) == 2


def test_weights_that_are_made_anew_are_not_taken_for_those_that_were_measured(student, measured, windows, monkeypatch):
    evaluate(student)
    monkeypatch.setattr(recordings.LoadedModel, "fingerprint", "others")
    with pytest.raises(ValueError, match="with other weights"):
        evaluate(student)


def test_a_model_read_under_a_preset_is_another(student, measured, windows, monkeypatch):
    load = recordings.load_model
    monkeypatch.setattr(recordings, "load_model", lambda folder, *, preset, **others: load(folder, **others))
    evaluate(student)
    with pytest.raises(ValueError, match="preset: 'none' then, 'released' now"):
        evaluate(student, preset="released")


def test_other_windows_are_refused_and_a_result_is_read_where_they_are_not_here(student, measured, windows, tmp_path):
    first = evaluate(student, teacher=teacher(tmp_path / "first"))
    shown, windows.source = windows.source, None
    assert evaluate(student, teacher=tmp_path / "first") == first
    windows.source = SimpleNamespace(batch=lambda numbers: shown.batch([number + 1 for number in numbers]))
    with pytest.raises(ValueError, match=r"under other settings \(windows: not the same as then"):
        evaluate(student, teacher=tmp_path / "first")


def test_what_is_known_of_the_episodes_now_is_said_of_what_was_measured_before(student, measured, windows):
    evaluate(student)
    windows.held_out = None
    (result,) = evaluate_recordings(student, windows=1, draws=2)
    assert result["recordings"]["held_out"] is None
    (kept,) = read_recordings(student.parent)
    assert (kept.recordings.held_out, len(measured)) == (None, 1)


def test_what_was_compared_with_no_teacher_is_measured_anew_once_one_is_there(student, measured, windows, tmp_path):
    assert evaluate(student) is None
    assert evaluate(student) is None
    assert measured == [None]
    found = evaluate(student, teacher=teacher(tmp_path / "found"))
    # One that is gone again takes nothing away.
    assert evaluate(student) == evaluate(student, teacher=tmp_path / "found") == found
    assert len(measured) == 2


def test_a_teacher_that_is_given_must_be_there(student, measured, windows, tmp_path):
    evaluate(student)
    with pytest.raises(ValueError, match="no such folder"):
        evaluate(student, teacher=tmp_path / "nowhere")


def test_a_result_that_tells_no_settings_is_read_with_a_warning(student, measured, windows, tmp_path, caplog):
    """As earlier versions wrote it."""
    first = evaluate(student, teacher=teacher(tmp_path / "first"))
    (path,) = (student.parent / "evaluations" / "recordings").glob("*.json")
    content = json.loads(path.read_text())
    del content["asked"]["settings"]
    path.write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        assert evaluate(student, teacher=tmp_path / "first") == first
    assert "did not note model, dtype, preset, device, teacher, windows" in caplog.text
    # Beside one of another seed that tells them, it is one row of a comparison.
    evaluate(student, teacher=tmp_path / "first", seed=1)
    (row,) = recording_rows(read_recordings(student.parent))
    assert len(row.parts) == 2


def test_a_teacher_is_known_by_its_files_wherever_it_lies_and_whatever_is_measured_of_it(student, tmp_path):
    model, given = load_model(student), teacher(tmp_path / "first")
    known = reference_fingerprint(model, recipe=model.info.recipe, teacher=given)
    (given / "evaluations").mkdir()
    (given / "evaluations" / "step1.json").write_text("{}")
    (given / "README.md").write_text("its card")
    moved = given.rename(tmp_path / "moved")
    assert reference_fingerprint(model, recipe=model.info.recipe, teacher=moved) == known
    assert reference_fingerprint(model, recipe=None, teacher=moved) != known
    (moved / "model.safetensors").write_bytes(b"trained on")
    assert reference_fingerprint(model, recipe=model.info.recipe, teacher=moved) != known
    assert reference_fingerprint(model, recipe=None) is None
