# SPDX-License-Identifier: Apache-2.0
"""A server says which model is measured, and only that: a greeting chooses no folder, and may tell little."""

import pytest
from wire import foreign

from flashwam.cli import main
from flashwam.evaluation.served_model import Greeting, described_by_server
from flashwam.run.evaluation import read_run
from flashwam.serve.protocol import pack


@pytest.mark.parametrize(
    ("greeting", "told"),
    [
        ({"name": "../../escaped"}, r"tells name '../../escaped' of its model; expected letters"),
        ({"name": "/tmp/absolute"}, "tells name '/tmp/absolute'"),
        ({"name": 5}, "tells name 5"),
        ({"sampler": "../../y"}, "tells sampler '../../y'"),
        ({"precision": "a/b"}, "tells precision 'a/b'"),
        ({"step": "../3"}, "tells step '../3' of its model; expected a whole number"),
        ({"nfe": {"video": "1"}}, "expected stream -> steps"),
        ({"nfe": {"../a": 1}}, "expected stream -> steps"),
        ({"tasks": 5}, "tells tasks 5 of its model; expected a list of names"),
        ({"tasks": "reach-wall"}, "expected a list of names"),
        ({"episodes": 0}, "expected a whole number, at least 1"),
        ({"controls": "4"}, "tells controls '4'"),
    ],
)
def test_what_cannot_be_is_refused(greeting, told):
    with pytest.raises(ValueError, match=told):
        Greeting.read(greeting)


def test_little_is_enough():
    told = Greeting.read({})
    assert (told.name, told.step, told.nfe, told.tasks, told.episodes) == ("server", None, "unknown", (), None)
    assert told.run.path.as_posix() == "runs/served/server"
    strange = {"streams": {"video": {}, "action": 3, "hand": {"guidance_scale": 2.0}}}
    assert described_by_server(strange)["guidance"] == {"hand": 2.0}


def _greets(greeting):
    def converse(connection):
        connection.send(pack(greeting))
        for _ in connection:
            connection.send(pack({}))

    return foreign(converse)


LOOKS = {"cameras": ["front"], "picture_size": [64, 64], "keyframes_per_frame": 1, "actions_per_frame": 4}


@pytest.mark.parametrize("name", ["../../../escaped", "a/b"])
def test_nothing_is_written_elsewhere(tmp_path, monkeypatch, capsys, name):
    home = tmp_path / "a/b/c"
    home.mkdir(parents=True)
    monkeypatch.chdir(home)
    with _greets({**LOOKS, "name": name, "nfe": {"video": 1, "action": 1}, "chunk_frames": 2}) as url:
        assert main(["evaluate", "--server", url, "--tasks", "button-press", "--episodes", "1"]) == 2
    assert f"tells name '{name}' of its model" in capsys.readouterr().err
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    with pytest.raises(FileNotFoundError):
        read_run(home / "runs/served/server")


@pytest.mark.parametrize("lacking", list(LOOKS))
def test_one_that_does_not_say_how_it_looks_is_refused(capsys, lacking):
    greeting = {name: value for name, value in LOOKS.items() if name != lacking}
    with _greets(greeting) as url:
        assert main(["evaluate", "--server", url, "--tasks", "button-press", "--episodes", "1"]) == 2
    told = capsys.readouterr().err
    assert "error: the " in told
    assert "mistake in code" not in told
