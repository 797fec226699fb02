# SPDX-License-Identifier: Apache-2.0
"""A message to the user is one sentence; every other error shows where it arose."""

import importlib
from pathlib import Path

import pytest
import torch

import flashwam
from flashwam.cli import main
from flashwam.core.noise import add_noise
from flashwam.recipe.load import load_recipe
from flashwam.run.folder import prepare_run
from flashwam.system.errors import InputError

DESCRIBE = "flashwam.commands.describe.describe"


def shown(capsys, *arguments):
    assert main(list(arguments)) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return err.strip().splitlines()


def noted(*arguments):
    """The sentence under the traceback of an error that `main` lets through."""
    with pytest.raises(ValueError) as caught:
        main(list(arguments))
    (note,) = caught.value.__notes__
    return note


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Writes a module beside flashwam, which describes folders in its place."""

    def write(source):
        (tmp_path / "their_plugin.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(importlib.sys.modules, "their_plugin", raising=False)
        monkeypatch.setattr(DESCRIBE, importlib.import_module("their_plugin").describe)
        return tmp_path / "their_plugin.py"

    return write


def test_a_plug_ins_plain_value_error_shows_its_line(plugin):
    path = plugin("def describe(path):\n    raise ValueError('seven')\n")
    assert f"look at {path}, line 2, in describe" in noted("info", ".")


def test_an_error_of_a_library_names_the_line_that_called_it(plugin):
    path = plugin("import json\n\ndef describe(path):\n    return json.loads('{')\n")
    assert f"look at {path}, line 4, in describe" in noted("info", ".")


def test_a_plug_in_may_raise_a_user_error(capsys, plugin):
    plugin("from flashwam.system.errors import InputError\ndef describe(path):\n    raise InputError('give seven')\n")
    assert shown(capsys, "info", ".") == ["error: give seven"]


def test_a_wrong_call_inside_shows_its_line(monkeypatch):
    x = torch.zeros(1, 2, 3, 1, 1)
    monkeypatch.setattr(DESCRIBE, lambda path: add_noise(x, x, torch.zeros(7, 7)))
    assert str(Path(flashwam.__file__).parent / "core" / "noise.py") in noted("info", ".")


def test_a_full_disk_is_one_sentence(capsys, tmp_path):
    run = prepare_run(load_recipe("flash_wam"), tmp_path / "run")
    assert shown(capsys, "info", str(run), "--json", "/dev/full")[-1].startswith("error: [Errno 28]")


def test_a_file_that_may_not_be_read_is_one_sentence(capsys, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(DESCRIBE, refused)
    assert shown(capsys, "info", "there") == ["error: [Errno 13] Permission denied: 'there'"]


def test_debug_shows_the_traceback_of_a_user_error(plugin):
    plugin("from flashwam.system.errors import InputError\ndef describe(path):\n    raise InputError('give seven')\n")
    with pytest.raises(InputError, match="give seven"):
        main(["info", ".", "--debug"])


def test_numbers_that_cannot_be_written_are_one_sentence_with_the_file(capsys, tmp_path):
    (tmp_path / "notes").write_text("mine")
    target = tmp_path / "notes" / "info.json"
    assert shown(capsys, "info", "--json", str(target)) == [
        f"error: {target} could not be written: {tmp_path / 'notes'} is no folder"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]
