# SPDX-License-Identifier: Apache-2.0
"""`flashwam evaluate`: the method that made a model says how it is driven with its modality; options arrive."""

import json
import sys

import pytest

from flashwam.cli import main

RESULT = {"run": "x", "nfe": {"video": 1, "action": 1}, "tasks": {}, "overall": {"episodes": 4, "success": 3}}


@pytest.fixture
def made_by(tmp_path):
    """A model's folder that says by which method it was trained."""

    def write(method, **more):
        data = {"root": "data", "tasks": ["reach-wall"]}
        recipe = {"data": data, "train": {"method": method}, "distill": {"method": "consistency"}}
        content = {
            "kind": "teacher",
            "streams": {"video": {"shift": 5.0}, "action": {"shift": 1.0}},
            "recipe": method and recipe,
            **more,
        }
        (tmp_path / "flashwam.json").write_text(json.dumps(content))
        return tmp_path

    return write


def refused(capsys, folder):
    assert main(["evaluate", str(folder), "--auxiliary"]) == 2
    return capsys.readouterr().err.strip()


def test_the_method_that_made_a_model_evaluates_it(capsys, monkeypatch, made_by):
    seen = {}

    def drive(checkpoint, **asked):
        seen.update(asked, checkpoint=checkpoint)
        return [RESULT]

    monkeypatch.setattr("flashwam.swiftvla.evaluation.evaluate_with_auxiliary", drive)
    folder = made_by("masked_reconstruction")
    assert main(["evaluate", str(folder), "--auxiliary", "--seed", "2"]) == 0
    assert seen == {"checkpoint": folder, "nfe": ("full",), "episodes": None, "tasks": None, "seed": 2, "out": None}
    assert "0.750  [0.301, 0.954]" in capsys.readouterr().out


def test_a_method_without_a_modality_is_refused(capsys, made_by):
    said = "without an auxiliary modality: evaluate it as it is"
    assert said in refused(capsys, made_by("flow_matching"))
    # A student was distilled, whatever its teacher was trained by.
    assert said in refused(capsys, made_by("masked_reconstruction", kind="student", teacher="there"))


def test_a_model_that_does_not_say_its_method_is_refused(capsys, made_by):
    assert "does not say by which method" in refused(capsys, made_by(None))


def test_without_the_folder_of_a_method_only_its_option_is_lost(capsys, monkeypatch, made_by):
    for name in [name for name in sys.modules if name.startswith("flashwam.swiftvla")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "flashwam.swiftvla", None)
    folder = made_by("masked_reconstruction")
    err = refused(capsys, folder)
    assert err.startswith("error: method 'masked_reconstruction' could not be imported")
    assert "\n" not in err
    monkeypatch.setattr("flashwam.evaluation.local.evaluate", lambda checkpoint, **asked: [RESULT])
    assert main(["evaluate", str(folder)]) == 0


@pytest.mark.parametrize(
    ("function", "more"), [("local.evaluate", []), ("real_time.evaluate_real_time", ["--real-time"])], ids=["", "late"]
)
def test_the_precision_is_the_recipes_unless_it_is_told(monkeypatch, made_by, function, more):
    asked = []
    monkeypatch.setattr(f"flashwam.evaluation.{function}", lambda checkpoint, **told: asked.append(told) or [RESULT])
    folder = str(made_by("flow_matching"))
    assert main(["evaluate", folder, *more, "--precision", "fp8"]) == main(["evaluate", folder, *more]) == 0
    assert [told.get("precision") for told in asked] == ["fp8", None]
