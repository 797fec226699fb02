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


def without_teacher(folder, run, error, **changes):
    """As a served model is measured where no teacher's server is given."""
    write(folder, run, error)
    (file,) = (folder / "evaluations" / "recordings").glob("*.json")
    told = json.loads(file.read_text())
    told["open_loop"] = None
    told["recordings"] |= {
        "by_control": {"error_recorded": [error, 2 * error]},
        "measures": {"all_error_recorded": error, "student_jerk": 0.5, "recorded_jerk": 0.25, **changes},
        "over_chunk": [],
        "held_out": None,
    }
    file.write_text(json.dumps(told))
    with np.load(folder / "evaluations" / "recordings" / "t.npz") as held:
        arrays = {name: held[name] for name in held.files if name != "teacher"}
    np.savez(folder / "evaluations" / "recordings" / "t.npz", **arrays)
    return folder


def caption_of(page, column):
    """The caption below the table that has a column."""
    return page.split(f">{column}</th>")[1].split('class="caption">')[1].split("</p>")[0]


def test_errors_to_the_recording_need_no_teacher(tmp_path):
    far, near = (without_teacher(tmp_path / name, name, error) for name, error in (("far", 0.4), ("near", 0.2)))
    result = compare([far, near], out=tmp_path / "out")
    # The nearest to the recording first.
    assert [row["label"] for row in result["recordings"]] == ["near 1v/1a", "far 1v/1a"]
    table = result["recordings_table"]
    assert "to recorded, normalised" in table
    assert "0.5 (0.25)" in table
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "near 1v/1a: root mean squares, in each control" in page
    assert "teacher" not in page.split("On recorded episodes</h2>")[1].split("<footer")[0]
    caption = caption_of(page, "to recorded, normalised")
    assert "To recorded, normalised" in caption
    assert "To teacher" not in caption
    assert "Chunks with two ways" not in caption


def test_errors_as_they_are_stand_beside_where_some_have_no_teacher(runs, tmp_path):
    alone = without_teacher(tmp_path / "alone", "alone", 0.3)
    result = compare([*runs, alone], out=tmp_path / "out")
    assert [row["label"] for row in result["recordings"]][-1] == "alone 1v/1a"
    columns, *_ = result["recordings_table"].splitlines()
    assert "to teacher" in columns
    assert "to recorded, normalised" in columns
    assert "No teacher drew beside alone 1v/1a." in (tmp_path / "out" / "compare.html").read_text()
    columns, *_ = compare(runs, out=tmp_path / "again")["recordings_table"].splitlines()
    assert "normalised" not in columns


def test_one_draw_tells_an_error_to_the_teacher_and_no_spread(tmp_path):
    run = write(tmp_path / "run", "one", 0.4, all_teacher_spread=0.0)
    (row,) = recording_rows(read_recordings(run))
    assert recording_columns(row)["to teacher, normalised"] == "0.4"
    assert "to teacher, normalised" in recording_table([row])


def test_grippers_and_stages_are_columns(tmp_path):
    run = write(tmp_path / "run", "grips", 0.4, student_flips=1.5, teacher_flips=0.5, recorded_flips=0.25)
    (file,) = (run / "evaluations" / "recordings").glob("*.json")
    told = json.loads(file.read_text())
    told["latency"] = {"video_ms": 12.0, "action_ms": 8.0, "chunk_ms": 20.0}
    told["open_loop"] |= {
        "video_decoded_error_teacher": 3.5,
        "video_decoded_error_expert": 7,
        "video_decoded_sharpness_ratio": 0.9,
    }
    file.write_text(json.dumps(told))
    other = without_teacher(tmp_path / "other", "other", 0.3)
    result = compare([run, other], out=tmp_path / "out")
    head, *_, line, last = result["recordings_table"].splitlines()
    assert "0.5 (-, 0.25)" in last
    for cell in ("1.5 (0.5, 0.25)", "3.5 (7)", "0.9", "12", "8", "20"):
        assert cell in line
    assert last.split()[-3:] == ["-", "-", "20"]
    for column in ("gripper switches", "video error, grey levels", "decoded sharpness ratio", "video ms", "action ms"):
        assert column in head
    assert head.index("video ms") < head.index("action ms") < head.index("ms a chunk")
    first, _ = result["recordings"]
    assert first["latency"] == told["latency"]
    assert first["open_loop"]["video_decoded_sharpness_ratio"] == 0.9
    caption = caption_of((tmp_path / "out" / "compare.html").read_text(), "gripper switches")
    assert "Gripper switches: per 100 controls" in caption
    assert "last latents" not in caption


def test_sharpness_of_earlier_versions_has_a_column_of_its_own(tmp_path):
    run = write(tmp_path / "run", "older", 0.4)
    (row,) = recording_rows([replace(one, open_loop={"video_sharpness_ratio": 0.8}) for one in read_recordings(run)])
    cells = recording_columns(row)
    assert (cells["sharpness ratio of last latents alone"], cells["decoded sharpness ratio"]) == ("0.8", "-")


def test_other_recordings_and_data_sets_are_rows_of_their_own_and_named(tmp_path):
    chosen = {"data": "data/mine", "tasks": ("monday",)}
    for windows, on in enumerate(({}, {"data": "data/mine"}, chosen, {"tasks": ("monday", "friday")}), start=4):
        write(tmp_path, "far", 0.4, on=OnRecordings(windows=windows, draws=8, **on))
    labels = [row.label for row in recording_rows(read_recordings(tmp_path))]
    assert labels == [f"far 1v/1a{where}" for where in ("", " on mine", " on mine (monday)", " on (monday, friday)")]


def test_recordings_of_one_folder_are_one_however_it_was_written(tmp_path, monkeypatch):
    (tmp_path / "data" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    written = ("data/mine", str(tmp_path / "data" / "mine"), "data/../data/mine/")
    for training, data in enumerate(written):
        run = tmp_path / f"runs_{training}"
        write(run, "far", 0.4, training=training, on=OnRecordings(windows=4, draws=8, data=data))
    (row,) = recording_rows([one for k in range(3) for one in read_recordings(tmp_path / f"runs_{k}")])
    assert row.trainings == 3
    then, *now = (Asked(tasks=(), episodes=0, recordings=replace(ON, data=data)) for data in written)
    assert [then.differences(one) for one in now] == [[], []]
    other = replace(then, recordings=replace(ON, data="data/other"))
    assert then.differences(other) == ["recordings: data/mine then, data/other now"]


def test_equal_names_and_trainings_are_told_apart_by_their_folders(tmp_path):
    for side, error in (("a", 0.2), ("b", 0.9)):
        write(tmp_path / side / "flash", "flash", error)
    rows = recording_rows([one for side in "ab" for one in read_recordings(tmp_path / side / "flash")])
    assert [row.label for row in rows] == ["a/flash 1v/1a", "b/flash 1v/1a"]
    assert [row.trainings for row in rows] == [1, 1]
