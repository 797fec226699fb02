# SPDX-License-Identifier: Apache-2.0
"""Deleting the folder of a paper takes away what is in it, and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import deleted_folders
import pytest

HERE = Path(__file__).resolve().parent
FOLDERS = ("foresight", "swiftvla")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """By what is deleted."""
    paths = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, deleted_folders.__file__, *FOLDERS, "+".join(FOLDERS)]
    work = tmp_path_factory.mktemp("work")
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, cwd=work, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(work.iterdir()) == []
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("deleted", FOLDERS)
def test_everything_else_is_imported(results, deleted):
    assert results[deleted]["broken"] == {}


@pytest.mark.parametrize("deleted", FOLDERS)
def test_a_name_whose_class_is_gone_is_refused_in_one_sentence(results, deleted):
    refused = results[deleted]["refused"]
    homes = {name.split()[-1] for name in refused}
    assert {home.split(".")[1] for home in homes} == {deleted}
    for name, said in refused.items():
        assert said.endswith(f"{name.split()[0]!r} could not be imported: No module named 'flashwam.{deleted}'")


def test_the_shipped_recipes_of_neither_are_planned(results):
    assert results["+".join(FOLDERS)]["planned"] == {
        "train teacher --dry-run": "",
        "distill flash_wam --dry-run": "",
    }


def test_what_is_deleted_cannot_be_found():
    deleted = deleted_folders.Deleted(["foresight"])
    for name in ("flashwam.foresight", "flashwam.foresight.policy"):
        with pytest.raises(ModuleNotFoundError, match=f"'{name}'"):
            deleted.find_spec(name)
    assert deleted.find_spec("flashwam.foresights") is None
