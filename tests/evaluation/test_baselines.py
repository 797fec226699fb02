# SPDX-License-Identifier: Apache-2.0
import json
from contextlib import suppress

import pytest

from flashwam.cli import main
from flashwam.core.scenes import evaluation_scene
from flashwam.evaluation import baselines
from flashwam.report.compare import gather
from flashwam.report.verdict import verdict
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

    monkeypatch.setattr(baselines, "drive", drive)
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


def test_one_that_was_stopped_goes_on_with_the_next_task(asked, monkeypatch):
    def ask():
        return main(["evaluate", "--random", "--tasks", "reach-wall,drawer-open", "--episodes", "2"])

    drive = baselines.drive

    def stopped(policy, task, **options):
        if task == "drawer-open":
            raise KeyboardInterrupt
        return drive(policy, task, **options)

    monkeypatch.setattr(baselines, "drive", stopped)
    with suppress(KeyboardInterrupt):
        ask()
    monkeypatch.setattr(baselines, "drive", drive)
    assert ask() == 0
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


def test_the_expert_is_driven_in_the_scenes_of_models_and_takes_each_way_as_often(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    told = ["--expert", "--tasks", "reach-wall,drawer-open", "--episodes", "4", "--seed", "3"]
    assert main(["evaluate", *told]) == 0
    assert "expert" in capsys.readouterr().out
    (found,) = read_run(tmp_path / "runs" / "expert")
    wall, drawer = found.tasks["reach-wall"], found.tasks["drawer-open"]
    assert wall.outcomes == drawer.outcomes == (1,) * 4
    assert wall.scenes == tuple(evaluation_scene(3, episode) for episode in range(4))
    assert sorted(wall.taken) == [0, 0, 1, 1]
    assert drawer.commitment is None
    (row,), *_ = gather([tmp_path / "runs" / "expert"], tmp_path / "out")
    assert (row.label, row.kind, row.share(multimodal=True).commitment) == ("expert", "baseline", 1.0)
    assert any("scripted expert of the demonstrations, undisturbed, succeeds in 100%" in s for s in verdict([row]))


@pytest.mark.parametrize(
    ("more", "refused"),
    [
        (["--random"], "not allowed with"),
        (["--real-time"], "leave out --expert"),
        (["--nfe", "1v/1a"], "--expert drives"),
    ],
)
def test_the_expert_is_no_model(asked, capsys, more, refused):
    with pytest.raises(SystemExit):
        main(["evaluate", "--expert", "--tasks", "reach-wall", *more])
    assert refused in capsys.readouterr().err
