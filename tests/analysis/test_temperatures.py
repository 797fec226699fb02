# SPDX-License-Identifier: Apache-2.0
"""Models from less noise are held against themselves, in the scenes that both were driven in."""

from dataclasses import replace
from pathlib import Path

import pytest
from temperatures import AGAINST, HEAD, against_teacher, by_temperature, draw, lines, tables

from flashwam.report.results import pool_evaluations, read_evaluations
from flashwam.report.row import Row, Share

RESULTS = Path(__file__).resolve().parents[2] / "analysis" / "results"


def row(sampler, won, *, seeds=(0, 1), run="pairs", kind="student", nfe=1):
    """As many successes of ten in each of two tasks, in the scenes of every seed."""
    tasks = {task: Share(successes=n, episodes=10, multimodal=task == "wall", ways={}) for task, n in won.items()}
    outcomes = {(task, 100 * seed + k): k < n for task, n in won.items() for seed in seeds for k in range(10)}
    return Row(
        run=run,
        kind=kind,
        step=1,
        final=True,
        nfe={"video": nfe, "action": nfe},
        sampler=sampler,
        seeds=tuple((seed, tasks) for seed in seeds),
        open_loop={},
        latency={},
        outcomes={0: outcomes},
    )


ROWS = [
    row("own", {"wall": 6, "button": 5}, seeds=(0, 1, 2)),
    row("t0", {"wall": 2, "button": 9}, seeds=(0,)),
    row("t0.5", {"wall": 8, "button": 7}, seeds=(0,)),
    row("euler", {"wall": 1, "button": 1}),
    row("euler_t0.5", {"wall": 1, "button": 1}),
    row("own", {"wall": 6, "button": 5}, nfe=2),
    row("t0.5", {"wall": 6, "button": 5}, run="never", nfe=2),
]
TEACHER = {"own": {"wall": 7, "button": 5}, "t0.5": {"wall": 9, "button": 9}}


def test_only_who_was_driven_at_several_temperatures_is_told_from_unit_noise_down():
    found = by_temperature(ROWS)
    assert {name: [warm.text for warm in told] for name, told in found.items()} == {"pairs 1v/1a": ["1", "0.5", "0"]}


def test_differences_are_of_the_same_scenes():
    table = [dict(zip(HEAD, cells, strict=True)) for cells in lines(by_temperature(ROWS))]
    assert [one["model"] for one in table] == ["pairs 1v/1a", "pairs 1v/1a t0.5", "pairs 1v/1a t0"]
    assert [one["episodes"] for one in table] == ["20", "20", "20"], "those of the seed that all have"
    assert [one["two-way"] for one in table] == ["0.60", "0.80", "0.20"]
    assert [one["one-way, points"].partition(" ")[0] for one in table] == ["-", "+20", "+40"]
    assert [one["two-way, points"].partition(" ")[0] for one in table] == ["-", "+20", "-40"]


def test_points_are_of_the_scenes_that_the_row_tells():
    """Of three seeds at half the noise one is told, as the model was driven from none at all in one alone."""
    rows = [one for one in ROWS if one.sampler != "t0.5"]
    warmer = row("t0.5", {"wall": 8, "button": 7}, seeds=(0,))
    further = row("t0.5", {"wall": 0, "button": 0}, seeds=(1, 2))
    both = replace(warmer, seeds=warmer.seeds + further.seeds, outcomes={0: warmer.outcomes[0] | further.outcomes[0]})
    (_, half, _) = (dict(zip(HEAD, cells, strict=True)) for cells in lines(by_temperature([*rows, both])))
    assert (half["episodes"], half["two-way"], half["two-way, points"].partition(" ")[0]) == ("20", "0.80", "+20")


def test_a_student_is_held_against_its_teacher_from_unit_noise_and_from_as_much():
    teachers = [row(s, won, run="teacher", kind="teacher", nfe=10) for s, won in TEACHER.items()]
    table = [dict(zip(AGAINST, cells, strict=True)) for cells in against_teacher(by_temperature([*ROWS, *teachers]))]
    assert [(one["student"], one["teacher"]) for one in table] == [
        ("pairs 1v/1a", "teacher 10v/10a"),
        ("pairs 1v/1a", "teacher 10v/10a t0.5"),
        ("pairs 1v/1a t0.5", "teacher 10v/10a"),
        ("pairs 1v/1a t0.5", "teacher 10v/10a t0.5"),
        ("pairs 1v/1a t0", "teacher 10v/10a"),
    ]
    assert [(one["successes"], one["the teacher's"], one["episodes"]) for one in table] == [
        ("22", "24", "40"),
        ("22", "36", "40"),
        ("15", "12", "20"),
        ("15", "18", "20"),
        ("11", "12", "20"),
    ]
    assert [one["one-way, points"].partition(" ")[0] for one in table] == ["0", "-40", "+20", "-20", "+40"]
    assert list(against_teacher(by_temperature(ROWS))) == []


def test_one_stream_alone_stands_after_all_of_them_and_beside_every_student():
    cooler = row("action-t0", {"wall": 9, "button": 8}, run="teacher", kind="teacher", nfe=10)
    teachers = [row(s, won, run="teacher", kind="teacher", nfe=10) for s, won in TEACHER.items()]
    found = by_temperature([*ROWS, cooler, *teachers])
    assert [cells[:2] for cells in lines(found)][:3] == [
        ["teacher 10v/10a", "1"],
        ["teacher 10v/10a t0.5", "0.5"],
        ["teacher 10v/10a action-t0", "action 0"],
    ]
    table = [dict(zip(AGAINST, cells, strict=True)) for cells in against_teacher(found)]
    (beside,) = (one for one in table if one["teacher"] == "teacher 10v/10a action-t0")
    assert (beside["student"], beside["successes"], beside["the teacher's"]) == ("pairs 1v/1a", "22", "34")


@pytest.mark.parametrize("name", ["one_step", "libero"])
def test_the_committed_tables_come_out_of_the_committed_evaluations(name):
    study = RESULTS / name
    found = by_temperature(pool_evaluations(read_evaluations(study)))
    assert tables(found) == (study / "comparison" / "noise.md").read_text()


def test_the_figure_has_a_line_a_model(tmp_path):
    assert draw(by_temperature(ROWS), tmp_path / "noise.png").stat().st_size > 10_000


@pytest.mark.parametrize("rows", [[], ROWS[:1], ROWS[1:2]])
def test_nothing_is_told_where_nobody_was_driven_at_several(rows):
    assert by_temperature(rows) == {}
