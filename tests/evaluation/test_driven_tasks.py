# SPDX-License-Identifier: Apache-2.0
"""An evaluation that was stopped goes on with the tasks that are missing, and what was driven otherwise is not taken."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from flashwam.evaluation.driven_tasks import DrivenTasks
from flashwam.evaluation.driving import drive_tasks
from flashwam.run.evaluation import Asked, Evaluation, measure_once, unfinished_folder
from flashwam.sim.closed_loop import TaskResult

TASKS = ("first", "second", "third")
FILM = np.arange(2 * 3 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 4, 3)


class Simulator:
    """Counts what it drives, and stops at a task the first time."""

    def __init__(self, stopped_at=None):
        self.driven, self.stopped_at = [], stopped_at

    def __call__(self, task):
        if task == self.stopped_at:
            self.stopped_at = None
            raise KeyboardInterrupt
        self.driven.append(task)
        return TaskResult(
            task=task,
            multimodal=task == "first",
            success=(True, False),
            ways=(0, -1),
            commitment=0.5 if task == "first" else None,
            steps=(3, 4),
            chunks=2,
            seconds={"video": 0.25},
            environment_seconds=1.5,
            scenes=(7, 8),
            motion=(0.5, float("nan")),
            first_motion=(0.5, 0.25),
            film=None if task == "second" else FILM,
        )


def told(result):
    """Everything of a task's result, comparable."""
    film = None if result.film is None else result.film.tolist()
    return repr(replace(result, film=None)), film


def test_what_was_driven_is_read_as_it_was(tmp_path, caplog):
    kept, simulator = DrivenTasks(tmp_path / "a_t0.5.json", {"seed": 1, "tasks": TASKS}), Simulator("third")
    with pytest.raises(KeyboardInterrupt):
        drive_tasks(simulator, TASKS, "it", kept=kept)
    again = DrivenTasks(tmp_path / "a_t0.5.json", {"seed": 1, "tasks": TASKS})
    with caplog.at_level(logging.INFO):
        driven = drive_tasks(simulator, TASKS, "it", kept=again)
    assert simulator.driven == list(TASKS)
    assert "it: going on after 2 of 3 tasks" in caplog.text
    assert list(map(told, driven)) == list(map(told, drive_tasks(Simulator(), TASKS, "it")))


@pytest.mark.parametrize("other", [{"seed": 2}, {"seed": 1, "weights": "others"}, {}])
def test_what_was_driven_otherwise_is_driven_anew(tmp_path, other, caplog):
    drive_tasks(Simulator(), TASKS, "it", kept=DrivenTasks(tmp_path / "a.json", {"seed": 1}))
    simulator = Simulator()
    with caplog.at_level(logging.INFO):
        drive_tasks(simulator, TASKS, "it", kept=DrivenTasks(tmp_path / "a.json", other))
    assert simulator.driven == list(TASKS)
    assert "first.json was driven otherwise" in caplog.text
    assert DrivenTasks(tmp_path / "a.json", other).find("second") is not None
    # Another result's tasks are its own.
    assert DrivenTasks(tmp_path / "b.json", other).find("second") is None


def test_nothing_is_left_once_the_result_is_written(tmp_path):
    path, simulator = tmp_path / "evaluations" / "a.json", Simulator("second")

    def measure():
        drive_tasks(simulator, TASKS, "it", kept=DrivenTasks(path, {}))
        return Evaluation(run="it", nfe={}, tasks={})

    with pytest.raises(KeyboardInterrupt):
        measure_once(path, Asked(tasks=TASKS, episodes=2), measure)
    assert {each.name for each in unfinished_folder(path).iterdir()} == {"first.json", "first.npy"}
    measure_once(path, Asked(tasks=TASKS, episodes=2), measure)
    assert simulator.driven == list(TASKS)
    assert not unfinished_folder(path).exists()
    assert path.is_file()


def test_a_number_is_measured_once_on_a_machine_and_again_for_another_request(tmp_path, monkeypatch):
    path, numbers = tmp_path / "a.json", iter((1.5, 2.5, 3.5))

    def kept(seed):
        return DrivenTasks(path, {"seed": seed}).measured(lambda: next(numbers))

    assert [kept(0), kept(0), kept(1), kept(1)] == [1.5, 1.5, 2.5, 2.5]
    monkeypatch.setattr("platform.node", lambda: "another")
    assert kept(1) == 3.5
    assert unfinished_folder(path).is_dir()
