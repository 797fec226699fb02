# SPDX-License-Identifier: Apache-2.0
import json

import pytest

from flashwam.cli import main
from flashwam.evaluation import chance
from flashwam.report.compare import gather
from flashwam.run.evaluation import read_run
from flashwam.sim.closed_loop import TaskResult
from flashwam.system.paths import ASSETS


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """The tasks that were driven, each won in its first of two scenes; commands run in a folder of their own."""
    driven = []

    def drive(policy, task, *, episodes, seed):
        driven.append(task)
        return TaskResult(
            task=task,
            multimodal=task == "reach-wall",
            success=(True, False),
            ways=(-1, 0),
            commitment=0.0,
            steps=(4, 4),
            chunks=1,
            scenes=(seed, seed + 1),
        )

    monkeypatch.setattr(chance, "drive", drive)
    monkeypatch.chdir(tmp_path)
    return driven


def test_random_actions_have_a_row_of_their_own(asked, tmp_path, capsys):
    assert main(["evaluate", "--random", "--tasks", "reach-wall,drawer-open", "--episodes", "2", "--seed", "3"]) == 0
    assert "random" in capsys.readouterr().out
    run = tmp_path / "runs" / "random"
    (found,) = read_run(run)
    assert (found.kind, found.nfe, found.tasks["reach-wall"].scenes) == ("baseline", {}, (3, 4))
    assert json.loads((run / "evaluations" / "random_seed3.json").read_text()) == found.to_json()
    (row,), *_ = gather([run], tmp_path / "out")
    assert (row.label, row.total_nfe, row.share().rate) == ("random", 0, 0.5)
    assert asked == ["reach-wall", "drawer-open"]


def test_a_model_says_the_tasks_of_random_actions(asked):
    assert main(["evaluate", str(ASSETS / "teacher"), "--random", "--episodes", "2"]) == 0
    assert {"reach-wall", "button-wall"} <= set(asked)


def test_random_actions_without_tasks_or_with_a_sampler_are_refused(asked, capsys):
    assert main(["evaluate", "--random"]) == 2
    assert "random actions need tasks; give --tasks" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["evaluate", "--random", "--plain-euler"])
    assert "--random drives no model" in capsys.readouterr().err
    assert asked == []
