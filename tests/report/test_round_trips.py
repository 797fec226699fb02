# SPDX-License-Identifier: Apache-2.0
"""Latencies of passes and of a server's round trips are not one number, nor are those of two machines."""

import pytest

from flashwam.core.scenes import evaluation_scene
from flashwam.report.against import with_ratios
from flashwam.report.compare import measured_rows
from flashwam.report.real_time import real_time_curves
from flashwam.report.table import format_table, table_notes
from flashwam.report.verdict import verdict
from flashwam.run.evaluation import Asked, Evaluation, TaskNumbers, read_evaluation
from flashwam.run.real_time import RealTime

STAGES = (("video",), ("action",))


@pytest.fixture
def measured(tmp_path):
    """Writes an evaluation and reads it back: of which run and kind, at which steps, in how many milliseconds."""

    def measure(run, kind, steps, ms, *, seed=0, training=0, tasks=None, served=False, clock=None):
        numbers = {
            name: TaskNumbers(
                episodes=len(won),
                success=sum(won),
                multimodal=multimodal,
                outcomes=tuple(won),
                scenes=tuple(evaluation_scene(seed, episode) for episode in range(len(won))),
            )
            for name, (won, multimodal) in (tasks or {"button": ([1] * 8 + [0] * 2, False)}).items()
        }
        one = Evaluation(
            run=run,
            kind=kind,
            step=400,
            nfe=dict.fromkeys(("video", "action"), steps),
            tasks=numbers,
            overall=TaskNumbers(
                episodes=sum(one.episodes for one in numbers.values()),
                success=sum(one.success for one in numbers.values()),
            ),
            seed=seed,
            training_seed=training,
            stages=() if served else STAGES,
            parameters={} if served else {"model": 1000},
            latency={} if ms is None else {"chunk_ms": ms},
            asked=None if clock is None else Asked(tasks=tuple(numbers), episodes=10, real_time=RealTime()),
            real_time=clock,
            more={"server": {"url": "ws://here", "model": {}}} if served else {},
        )
        beside = "served" if served else "here"
        path = tmp_path / beside / f"{run}_{training}" / "evaluations" / f"{steps}_{seed}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        one.write(path)
        return read_evaluation(path)

    return measure


@pytest.mark.parametrize("seed", [0, 1])
def test_a_round_trip_is_not_what_passes_take(measured, tmp_path, seed):
    here = [measured("teacher", "teacher", 10, 100.0), measured("pairs", "student", 1, 10.0)]
    there = measured("pairs", "student", 1, 60.0, seed=seed, served=True)
    rows = with_ratios(measured_rows([*here, there], tmp_path))
    assert "10.0 times as fast as" in "\n".join(verdict(rows))
    assert "10.0x" in format_table(rows)


def test_round_trips_alone_are_held_against_each_other_and_said_to_be_such(measured, tmp_path):
    there = [measured("teacher", "teacher", 10, 120.0, served=True), measured("pairs", "student", 1, 30.0, served=True)]
    rows = with_ratios(measured_rows(there, tmp_path))
    assert "4.0x" in format_table(rows)
    assert any("what a served model's client waited" in note for note in table_notes(rows))


def test_what_a_sentence_rests_on_is_said_of_every_group_of_tasks(measured, tmp_path):
    two, one = {"wall": ([1, 1, 0, 1] * 5, True)}, {"button": ([1] * 8 + [0] * 2, False)}
    found = [measured("teacher", "teacher", 10, None, tasks=two | one)]
    for training in range(3):
        tasks = two | (one if training == 0 else {})
        found.append(measured("pairs", "student", 1, None, training=training, tasks=tasks))
    told = "\n".join(verdict(with_ratios(measured_rows(found, tmp_path))))
    assert "What is said of two-way tasks rests on 3 trainings, 60 episodes" in told
    assert "What is said of one-way tasks rests on 1 training, 10 episodes" in told


def test_latencies_of_two_machines_are_two_points_and_of_a_server_two_curves(measured):
    def at(ms, won, **more):
        clock = RealTime(latency_ms=ms)
        return measured("pairs", "student", 1, None, tasks={"button": ([won] * 10, False)}, clock=clock, **more)

    (curve,) = real_time_curves([at(20.0, 1), at(22.0, 1, seed=1), at(620.0, 0, seed=2)])
    assert [(point.latency_ms, point.success["standing"].rate) for point in curve.points] == [(21.0, 1.0), (620.0, 0.0)]
    curves = real_time_curves([at(20.0, 1), at(20.0, 0, seed=1, served=True)])
    assert sorted(curve.label.endswith("served") for curve in curves) == [False, True]
