# SPDX-License-Identifier: Apache-2.0
"""The files of evaluations in worlds that do not wait; the simulator's part is made up."""

import json

import numpy as np
import pytest
from tiny_models import save_tiny_student

from flashwam.cli import main
from flashwam.evaluation import real_time
from flashwam.evaluation.real_time import evaluate_real_time, loop_at, loop_ms
from flashwam.run.evaluation import Evaluation, read_evaluation, read_real_time
from flashwam.run.folder import RunFolder
from flashwam.run.real_time import RealTime
from flashwam.sim.closed_loop import TaskResult
from flashwam.sim.pace import Pace
from flashwam.system.tensor_file import load_tensors, read_header, write_tensors


@pytest.fixture
def driven(tmp_path, monkeypatch):
    """A student in its run, and the paces at which it was driven."""
    paces = []

    def run_task(wam, samplers, codec, task, *, episodes, seed, pace):
        paces.append(pace)
        steps = tuple(40 + 8 * number for number in range(episodes))
        success = tuple(number != 1 for number in range(episodes))
        return TaskResult(
            task=task,
            multimodal=False,
            success=success,
            ways=(-1,) * episodes,
            commitment=None,
            steps=steps,
            scenes=tuple(range(episodes)),
            chunks=2,
        )

    monkeypatch.setattr(real_time, "run_task", run_task)
    return save_tiny_student(tmp_path / "run" / "student"), paces


def test_a_given_latency_makes_a_file_of_its_own_beside_those_of_worlds_that_wait(driven):
    student, paces = driven
    clocks = [RealTime(latency_ms=ms, meanwhile="go_on", control_hz=20) for ms in (0, 348)]
    _, late = evaluate_real_time(student, clocks=clocks, episodes=3, tasks=["drawer-open"])
    assert [(pace.latency_ms, pace.meanwhile, pace.controls) for pace in paces] == [(0, "go_on", 0), (348, "go_on", 7)]
    run = RunFolder.of_model(student)
    assert run.evaluation_files == []
    names = [path.name for path in run.real_time_files]
    assert [name.split("_own_")[1] for name in names] == ["go_on_0ms_20hz_seed0.json", "go_on_348ms_20hz_seed0.json"]
    numbers = late["tasks"]["drawer-open"]
    assert (numbers["outcomes"], numbers["lasted"]) == ([1, 0, 1], [2.0, 2.4, 2.8])
    found = read_real_time(run.path)[1]
    assert found.to_json() == late == json.loads(run.real_time_files[1].read_text())
    assert found.folder == run.path
    assert found.real_time == RealTime(latency_ms=348, meanwhile="go_on", control_hz=20)
    assert found.tasks["drawer-open"].task_seconds == pytest.approx(2.4)


def test_a_measured_latency_is_kept_so_that_the_episodes_can_be_driven_again(driven):
    student, paces = driven
    (result,) = evaluate_real_time(student, clocks=[RealTime(scale=0.5)], episodes=2, tasks=["drawer-open"])
    kept = Evaluation.from_json(result, "it").real_time.latency_ms
    assert paces[0].latency_ms == kept > 0
    assert read_real_time(student.parent)[0].real_time == RealTime(latency_ms=kept, scale=0.5)
    assert result["asked"]["real_time"]["latency_ms"] is None
    # Asked again it is read, although it would be measured otherwise now.
    assert evaluate_real_time(student, clocks=[RealTime(scale=0.5)], episodes=2, tasks=["drawer-open"]) == [result]
    assert len(paces) == 1
    evaluate_real_time(student, clocks=[RealTime(latency_ms=kept)], episodes=2, tasks=["drawer-open"])
    assert paces[1] == paces[0]


def test_another_request_under_the_same_name_is_refused(driven):
    student, _ = driven
    evaluate_real_time(student, clocks=[RealTime(latency_ms=5)], episodes=2, tasks=["drawer-open"])
    with pytest.raises(ValueError, match="give another out= folder"):
        evaluate_real_time(student, clocks=[RealTime(latency_ms=5)], episodes=3, tasks=["drawer-open"])


def test_a_given_latency_is_not_scaled_and_a_clock_must_run(driven):
    student, _ = driven
    with pytest.raises(ValueError, match="not scaled"):
        evaluate_real_time(student, clocks=[RealTime(latency_ms=5, scale=2)])
    with pytest.raises(ValueError, match="control_hz must be above 0"):
        evaluate_real_time(student, clocks=[RealTime(control_hz=0)])


def test_the_command_tells_success_and_the_seconds_of_a_task(driven, capsys):
    student, paces = driven
    asked = ["--real-time", "--latency-ms", "20", "--patience", "2", "--tasks", "drawer-open", "--episodes", "2"]
    assert main(["evaluate", str(student), *asked]) == 0
    told = capsys.readouterr().out
    assert "tiny 1v/1a: the robot holds for 20 ms a chunk, 80 controls a second" in told
    assert "done in 0.50 s" in told
    assert (paces[0].patience, paces[0].limit(92)) == (2, 184)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--latency-ms", "5"], "--latency-ms is for a world that does not wait: add --real-time"),
        (["--real-time", "--random"], "leave out --random"),
        (["--real-time", "--auxiliary"], "leave out --auxiliary"),
        (["--real-time", "--plain-euler", "--unit-amplitude"], "give either"),
    ],
)
def test_options_that_do_not_go_together_are_refused(driven, capsys, options, message):
    student, _ = driven
    with pytest.raises(SystemExit):
        main(["evaluate", str(student), *options])
    assert message in capsys.readouterr().err


def test_an_evaluation_that_tells_no_clock_is_of_a_world_that_waits(driven):
    student, _ = driven
    (result,) = evaluate_real_time(student, clocks=[RealTime(latency_ms=5)], episodes=2, tasks=["drawer-open"])
    del result["real_time"], result["asked"]["real_time"], result["tasks"]["drawer-open"]["lasted"]
    old = Evaluation.from_json(result, "an older file")
    assert old.real_time is old.asked.real_time is old.tasks["drawer-open"].lasted is None
    assert old.to_json() == result
    path = RunFolder.of_model(student).real_time_files[0]
    assert read_evaluation(path).asked.real_time == RealTime(latency_ms=5)


def test_a_result_of_other_weights_is_not_given_out_as_these(driven):
    student, paces = driven
    asked = {"clocks": [RealTime(latency_ms=10)], "episodes": 2, "tasks": ["drawer-open"]}
    evaluate_real_time(student, **asked)
    path = next((student / "transformer").glob("*.safetensors"))
    tensors = load_tensors(path)
    write_tensors(path, {name: x + 1 for name, x in tensors.items()}, metadata=read_header(path)[1])
    with pytest.raises(ValueError, match="with other weights"):
        evaluate_real_time(student, **asked)
    assert len(paces) == 1


class Slow:
    """Has eight controls a chunk, four of a frame, and notes what it is told."""

    per_frame = 4

    def __init__(self):
        self.told = []

    def reset(self, prompt, frames, *, seed, state):
        self.told.clear()

    def controls(self):
        return np.zeros((1, 8, 4))

    def observe(self, pictures, controls, *, state, under_way):
        assert len(pictures[0]) == len(state[0])
        self.told.append((len(pictures[0]), under_way))


def test_a_robot_that_goes_on_is_timed_with_what_it_then_has_under_way(monkeypatch):
    """Frames under way are told late, and their pictures with the next ones."""
    policy = Slow()
    loop_ms(policy, state=4)
    assert set(policy.told) == {(2, 0)}
    loop_ms(policy, state=4, pace=Pace(latency_ms=40, meanwhile="go_on"))
    assert (policy.told[0], set(policy.told[1:])) == ((1, 1), {(2, 1)})
    asked = []

    def measure(pace):
        asked.append(pace)
        return 10.0 if pace is None else 12.0

    assert loop_at(RealTime(scale=2.0), measure) == 20.0
    assert loop_at(RealTime(meanwhile="go_on", scale=2.0), measure) == 24.0
    assert asked[:2] == [None, None]
    assert (asked[2].latency_ms, asked[2].meanwhile) == (20.0, "go_on")
