# SPDX-License-Identifier: Apache-2.0
"""Successes under different conventions of a simulator stand apart; under one they are held against each other."""

import pytest
from synthetic import write

from flashwam.report.compare import gather
from flashwam.report.table import format_table, table_notes
from flashwam.report.verdict import verdict

COMMON = {"name": "common", "size": 256, "idle_steps": 10, "max_steps": 520}
SHORT = {"name": "common*", "size": 256, "idle_steps": 10, "max_steps": 100}
TEACHER = {"kind": "teacher", "nfe": {"video": 10, "action": 10}}


def driven(run, won, convention=None, *, task="put_x", suite="libero_10", **rest):
    """An evaluation of a suite's first ten states, of which the first `won` are won."""
    outcomes = [int(k < won) for k in range(10)]
    task_told = {"episodes": 10, "success": won, "outcomes": outcomes, "scenes": list(range(10)), "multimodal": False}
    told = {"run": run, "kind": "student", "step": 9, "nfe": {"video": 1, "action": 1}, "tasks": {task: task_told}}
    told |= {"label": f"{run} {suite}", "seed": 0, "training_seed": 0}
    told |= {} if convention is None else {"simulator": {"name": "libero", "suite": suite, "convention": convention}}
    return {**told, **rest}


def rows_of(folder, *results):
    folders = [write(folder / str(number), result) for number, result in enumerate(results)]
    return {row.label: row for row in gather(folders, folder / "out")[0]}


@pytest.mark.parametrize("student", ["m", "teacher"])
def test_conventions_are_not_pooled_and_not_paired(tmp_path, student):
    here = [driven(student, 10, COMMON), driven("teacher", 5, {"name": "lingbot_va"}, **TEACHER)]
    rows = rows_of(tmp_path, *here)
    assert list(rows) == ["teacher 10v/10a (lingbot_va)", f"{student} 1v/1a (common)"]
    assert all(not row.kept for row in rows.values())
    first, second = rows.values()
    assert not first.pairs(second)
    assert "of teacher" not in format_table(list(rows.values()))
    assert any("convention" in note for note in table_notes(list(rows.values())))


def test_one_folder_measured_under_two_has_a_row_each(tmp_path):
    run = write(tmp_path / "m", driven("m", 10, {"name": "lingbot_va"}), driven("m", 0, COMMON))
    rows = {row.label: row.share().successes for row in gather([run], tmp_path / "out")[0]}
    assert rows == {"m 1v/1a (lingbot_va)": 10, "m 1v/1a (common)": 0}


def test_each_student_is_held_against_its_teacher_of_its_convention(tmp_path):
    results = [
        driven("teacher", 10, COMMON, **TEACHER),
        driven("teacher", 5, SHORT, **TEACHER),
        driven("m", 8, COMMON),
        driven("m", 4, SHORT),
    ]
    rows = rows_of(tmp_path, *results)
    kept = {label: row.kept["one-way"].value for label, row in rows.items() if row.kind == "student"}
    assert kept == {"m 1v/1a (common)": pytest.approx(0.8), "m 1v/1a (common*)": pytest.approx(0.8)}
    told = verdict(list(rows.values()))
    assert [text for text in told if text.startswith("Driven")] == [
        "Driven under the convention common:",
        "Driven under the convention common*:",
    ]
    assert sum("80%" in text or "40%" in text for text in told) == 2


def test_of_one_name_the_values_tell_them_apart(tmp_path):
    rows = rows_of(tmp_path, driven("m", 8, SHORT), driven("m", 8, {**SHORT, "idle_steps": 3}))
    assert list(rows) == ["m 1v/1a (common*, idle_steps 10)", "m 1v/1a (common*, idle_steps 3)"]


def test_what_a_control_means_tells_apart_where_both_tell_it(tmp_path):
    world, hand = ({**COMMON, "rotation": f"about the {axes}'s axes"} for axes in ("world", "hand"))
    rows = rows_of(tmp_path / "both", driven("m", 8, world), driven("m", 8, hand))
    assert list(rows) == [f"m 1v/1a (common, rotation about the {axes}'s axes)" for axes in ("world", "hand")]
    assert list(rows_of(tmp_path / "older", driven("m", 8, world), driven("n", 8, COMMON))) == ["m 1v/1a", "n 1v/1a"]


def test_where_all_were_driven_alike_nothing_is_said(tmp_path):
    other = driven("m", 8, {**COMMON, "max_steps": 280}, suite="libero_object", task="put_y")
    older = driven("m", 8, {"name": "common", "size": 256}, seed=1)
    run = write(tmp_path / "m", driven("m", 8, COMMON), other, older, driven("m", 8, seed=2, label="untold"))
    (row,) = gather([run], tmp_path / "out")[0]
    assert (row.label, len(row.seeds)) == ("m 1v/1a", 4)
    assert not any("convention" in note for note in table_notes([row]))


def test_how_long_episodes_last_tells_apart_within_a_suite(tmp_path):
    rows = rows_of(tmp_path, driven("m", 8, SHORT), driven("m", 9, {**SHORT, "max_steps": 200}))
    assert list(rows) == ["m 1v/1a (common*, max_steps 200)", "m 1v/1a (common*, max_steps 100)"]


def test_what_tells_no_convention_may_be_of_any(tmp_path):
    rows = rows_of(tmp_path, driven("teacher", 10, **TEACHER), driven("m", 8, COMMON), driven("n", 7, SHORT))
    assert {row.label: bool(row.kept) for row in rows.values() if row.kind == "student"} == {
        "m 1v/1a (common)": True,
        "n 1v/1a (common*)": True,
    }
