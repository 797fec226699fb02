# SPDX-License-Identifier: Apache-2.0
"""The choice of `flashwam evaluate` between driving and recordings."""

import json
import re

import pytest
from tiny_models import save_tiny_student

from flashwam.cli import main
from flashwam.recipe.build import plain
from flashwam.recipe.load import load_recipe
from flashwam.run.evaluation import Evaluation
from flashwam.run.folder import RunFolder
from flashwam.run.recordings import RecordingNumbers
from flashwam.system.paths import ASSETS


@pytest.fixture
def asked(monkeypatch):
    """Keywords of what was called, by the name of what was."""
    calls = {}

    def keep(name):
        def called(checkpoint=None, **keywords):
            calls[name] = keywords
            return []

        return called

    monkeypatch.setattr("flashwam.evaluation.recordings.evaluate_recordings", keep("recordings"))
    monkeypatch.setattr("flashwam.evaluation.local.evaluate", keep("driven"))
    return calls


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["runs/a", "--recordings", "--real-time"],
            "--recordings is for recorded episodes, on which nothing is driven",
        ),
        (
            ["runs/a", "--windows", "4", "--episodes", "5"],
            "--windows is for recorded episodes.*leave out --episodes",
        ),
    ],
)
def test_driving_and_recordings_do_not_mix(words, message, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", *words])
    assert re.search(message, " ".join(capsys.readouterr().err.split()))


TIMED = (["--latency-ms", "20"], ["--latency-scale", "0"], ["--meanwhile", "go_on"], ["--control-hz", "9"])


@pytest.fixture
def own(tmp_path):
    """A model of recordings."""
    recipe = plain(load_recipe("libero/flash_wam"))
    info = {"kind": "student", "streams": {"video": {"shift": 5.0}, "action": {"shift": 1.0}}, "recipe": recipe}
    (tmp_path / "flashwam.json").write_text(json.dumps(info))
    return tmp_path


@pytest.mark.parametrize("timed", [*TIMED, ["--patience", "2"]], ids=lambda words: words[0])
@pytest.mark.parametrize("words", [["--server", "ws://x", "--data", "d"], ["runs/a", "--recordings"], []])
def test_recorded_episodes_have_no_time_that_goes_on(words, timed, asked, own, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", *(words or [str(own)]), *timed])
    told = " ".join(capsys.readouterr().err.split())
    assert f"{timed[0]} is for a world that does not wait, which takes a simulator: on recorded" in told
    assert not asked


@pytest.mark.parametrize("more", [["--recordings"], [], ["--random"]])
def test_a_token_is_for_a_server(more, asked, own, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", str(own), "--token-file", "token", *more])
    assert "--token-file is for --server" in capsys.readouterr().err
    assert not asked


def test_what_is_asked_of_recordings_is_passed_on(asked, tmp_path):
    words = ["--data", "data/mine", "--draws", "4", "--nfe", "1v/2a", "--seed", "3", "--device", "cpu", "--plain-euler"]
    assert main(["evaluate", str(tmp_path), *words, "--recipe", "libero/flash_wam", "--json", "-"]) == 0
    told = asked["recordings"]
    assert (str(told["data"]), told["draws"], told["nfe"], told["seed"]) == ("data/mine", 4, ("1v/2a",), 3)
    assert told["recipe"].data.source == "lerobot"
    assert (told["plain_euler"], told["device"]) == (True, "cpu")
    assert "windows" not in told


def test_what_was_measured_on_recordings_is_told_in_the_models_card(tmp_path, monkeypatch):
    student = save_tiny_student(tmp_path / "run" / "student")
    numbers = RecordingNumbers(windows=4, episodes=2, draws=8, names=("x",), units=("mm",), measures={})
    told = {"run": "tiny", "kind": "student", "step": 7, "nfe": {"video": 1, "action": 1}, "tasks": {}}

    def measure(checkpoint, *, out, **keywords):
        folder = RunFolder(checkpoint.parent).recordings if out is None else out
        Evaluation(**told, recordings=numbers).write(folder / "one.json")
        return []

    monkeypatch.setattr("flashwam.evaluation.recordings.evaluate_recordings", measure)
    words = ["evaluate", str(student), "--recordings", "--json", "-"]
    before = (student / "README.md").read_text()
    assert main([*words, "--out", str(tmp_path / "elsewhere")]) == 0
    assert (student / "README.md").read_text() == before
    assert main(words) == 0
    assert "| 4 windows of 2 recorded episodes, 8 draws each | x, mm |" in (student / "README.md").read_text()


def test_tasks_choose_data_sets_of_recordings_and_tasks_of_the_simulator(asked, tmp_path, request):
    assert main(["evaluate", str(tmp_path), "--data", "data/mine", "--tasks", "monday,tuesday", "--json", "-"]) == 0
    assert asked["recordings"]["tasks"] == ("monday", "tuesday")
    own = request.getfixturevalue("own")
    for folder, called in ((own, "recordings"), (ASSETS / "teacher", "driven")):
        asked.clear()
        assert main(["evaluate", str(folder), "--tasks", "reach-wall", "--json", "-"]) == 0
        assert {name: told["tasks"] for name, told in asked.items()} == {called: ("reach-wall",)}


def test_a_model_of_the_simulators_tasks_is_driven(asked):
    assert main(["evaluate", str(ASSETS / "teacher"), "--json", "-"]) == 0
    assert list(asked) == ["driven"]
