# SPDX-License-Identifier: Apache-2.0
"""Evaluations on recorded episodes: pooled, in a table, and on a page."""

import json
from dataclasses import replace

import numpy as np
import pytest

from flashwam.report.compare import compare
from flashwam.report.recordings import recording_columns, recording_rows, recording_table
from flashwam.run.evaluation import Asked, Evaluation, read_recordings
from flashwam.run.recordings import OnRecordings, RecordingNumbers

ON = OnRecordings(windows=4, draws=8)


def numbers(error, **measures):
    told = {"all_error_teacher": error, "all_teacher_spread": 0.5, "all_student_spread": 0.25, **measures}
    controls = {"error_teacher": (error, 2 * error), "teacher_spread": (0.5, 0.5)}
    return RecordingNumbers(
        held_out=True,
        windows=4,
        episodes=3,
        draws=8,
        names=("x", "gripper"),
        units=("mm", ""),
        by_control=controls,
        measures=told,
        over_chunk=(error, error / 2),
        trajectories="t.npz",
    )


def write(folder, run, error, *, kind="student", training=0, on=ON, **changes):
    asked = Asked(tasks=(), episodes=0, closed_loop=False, recordings=on)
    evaluation = Evaluation(
        run=run,
        nfe={"video": 1, "action": 1},
        tasks={},
        kind=kind,
        step=400,
        seed=0,
        training_seed=training,
        asked=asked,
        open_loop={"video_error_teacher": error / 10},
        latency={"chunk_ms": 20.0},
        recordings=numbers(error, **changes),
    )
    evaluation.write(folder / "evaluations" / "recordings" / f"{on.windows}.json")
    arrays = np.random.default_rng(0).normal(size=(2, 4, 6, 2)).astype(np.float32)
    told = {"valid": np.ones((2, 6), bool), "chunk": np.repeat([0, 1], 3), "recorded": arrays[:, 0]}
    np.savez(folder / "evaluations" / "recordings" / "t.npz", teacher=arrays, student=arrays + 0.1, **told)
    return folder


@pytest.fixture
def runs(tmp_path):
    return [
        write(tmp_path / "far", "far", 0.4, split=0.2, student_between=0.5, teacher_between=0.01, same_way=0.9),
        write(tmp_path / "near", "near", 0.1, split=0.2, student_between=0.1, teacher_between=0.01, same_way=1.0),
        write(tmp_path / "near_seed1", "near", 0.2, training=1, split=0.4, student_between=0.3, teacher_between=0.03),
        write(tmp_path / "teacher", "teacher", 0.3, kind="teacher"),
    ]


def test_trainings_of_a_run_are_pooled_and_the_nearest_student_comes_first(runs):
    rows = recording_rows([one for run in runs for one in read_recordings(run)])
    assert [row.label for row in rows] == ["teacher 1v/1a", "near 1v/1a", "far 1v/1a"]
    near = rows[1]
    assert (near.trainings, near.measure("split"), near.over_spread("error_teacher")) == pytest.approx((2, 0.3, 0.3))
    assert near.by_control("error_teacher") == pytest.approx((0.15, 0.3))
    assert near.over_chunk == pytest.approx((0.15, 0.075))
    cells = recording_columns(near)
    assert (cells["to teacher"], cells["variance ratio"], cells["between the ways"]) == ("0.3", "0.25", "20% (2%)")
    assert (cells["step into a chunk"], cells["ms a chunk"]) == ("-", "20")
    told = recording_table(rows)
    assert "jerk" not in told
    assert json.loads(json.dumps(near.to_json()))["controls"] == ["x, mm", "gripper"]


def test_other_recordings_are_a_row_of_their_own(runs):
    other = replace(ON, windows=9, data="mine")
    found = recording_rows(read_recordings(write(runs[0], "far", 0.9, on=other)))
    assert sorted(row.over_spread("error_teacher") for row in found) == pytest.approx([0.8, 1.8])


def test_runs_that_were_judged_on_recordings_alone_are_compared(runs, tmp_path):
    result = compare(runs, out=tmp_path / "out")
    assert (result["rows"], len(result["recordings"])) == ([], 3)
    page = (tmp_path / "out" / "compare.html").read_text()
    for text in ("On recorded episodes", "All of them: 4 windows of 3 held-out episodes, 8 draws each.", "x, mm"):
        assert text in page
    # A curve over the chunk, and trajectories of both students.
    assert page.count("data:image/png;base64,") == 3
    assert (tmp_path / "out" / "recordings.md").read_text().count("\n") == 5
