# SPDX-License-Identifier: Apache-2.0
"""A task of another simulator is refused in a sentence before anything is driven, wherever tasks can be named."""

import re
from functools import partial

import pytest
from tiny_models import save_tiny_student

from flashwam.cli import main
from flashwam.demo import filming
from flashwam.evaluation.local import evaluate
from flashwam.evaluation.real_time import evaluate_real_time
from flashwam.evaluation.recording import record
from flashwam.sim.simulators import refuse_other_robots
from flashwam.system.errors import InputError
from flashwam.system.paths import ASSETS

FOREIGN = r"libero_object_0 is a task of LIBERO, whose robot has 7 controls, and tiny has 4: .*MetaWorld.*faucet-turn"


@pytest.fixture
def student(tmp_path):
    return save_tiny_student(tmp_path / "run" / "student")


@pytest.mark.parametrize("drive", [evaluate, evaluate_real_time, partial(record, out="out")])
def test_a_task_of_another_simulator_is_refused(drive, student, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=FOREIGN):
        drive(student, tasks=("faucet-turn", "libero_object_0"))
    assert not (tmp_path / "out").exists()


def test_it_is_not_filmed(student):
    class Row:
        run = label = "tiny"
        precision, sampler, steps_text = "own", "own", "1v/1a"

    with pytest.raises(InputError, match=FOREIGN):
        filming._takes(Row, student, ["libero_object_0"])


def test_without_driving_it_may_be_named(student, tmp_path):
    """As of a model of recordings, whose tasks no simulator has."""
    assert evaluate(student, tasks=("libero_object_0",), closed_loop=False, out=tmp_path / "out", nfe=("1v/1a",))


def test_the_command_names_the_models_own_tasks_and_simulator(capsys):
    words = ["--tasks", "reach-wall", "--episodes", "1", "--nfe", "1v/1a"]
    assert main(["evaluate", str(ASSETS / "libero_teacher"), *words]) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    expected = (
        r"reach-wall is a task of MetaWorld, whose robot has 4 controls, and teacher has 7: .*LIBERO.*libero_object_"
    )
    assert re.search(expected, told)


def test_a_model_that_names_no_tasks_is_told_from_its_controls():
    with pytest.raises(
        InputError, match="whose robot has 7 controls, and it has 4: name tasks with --tasks of a robot"
    ):
        refuse_other_robots(["libero_10_0"], controls=4, model="it", own=())
    refuse_other_robots(["libero_10_0"], controls=7, model="it", own=("a data set",))
