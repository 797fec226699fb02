# SPDX-License-Identifier: Apache-2.0
"""The study of success over latency: its cells can run, and what they leave is kept and drawn."""

import json
from argparse import Namespace
from dataclasses import replace

import pytest
import real_time_jobs
from one_step_cells import STUDENTS, Place
from real_time import FIGURE, command, marks, report
from real_time_jobs import CELLS, TIMED, drive_late, time_loops

from flashwam.demo.work import make_teacher
from flashwam.report.compare import compare
from flashwam.run.folder import RunFolder
from flashwam.run.real_time import RealTime
from flashwam.sim.tasks import get_task
from flashwam.system.jobs import check_jobs


@pytest.fixture
def place(tmp_path):
    return Place(out=tmp_path / "runs", results=tmp_path / "results")


def test_everybody_is_driven_by_every_clock_in_the_same_scenes(place):
    jobs = real_time_jobs.real_time_jobs(place, CELLS)
    check_jobs(jobs)
    late = [job.kwargs for job in jobs if job.name.startswith("late/")]
    assert set(CELLS.students) <= set(STUDENTS)
    driven = {(told["checkpoint"], told["seed"], told["nfe"], told["clock"]) for told in late}
    models = len(CELLS.teacher) + len(CELLS.students)
    assert len(driven) == len(late) == len(CELLS.clocks) * len(CELLS.seeds) * models
    assert {(told["tasks"], told["episodes"]) for told in late} == {(CELLS.tasks, CELLS.episodes)}
    # Nothing is driven in a world that waits, and students are made as that study makes them.
    names = {job.name for job in jobs}
    assert not [name for name in names if name.startswith("drive/")]
    assert {f"make/{name}_{seed}" for name in CELLS.students for seed in CELLS.seeds} <= names


def test_some_tasks_stand_and_one_moves_and_no_latency_is_driven_once():
    assert {get_task(name).moving for name in CELLS.tasks} == {False, True}
    assert [clock.meanwhile for clock in CELLS.clocks if clock.latency_ms == 0] == ["hold"]
    assert set(CELLS.marks.values()) <= set(CELLS.latencies)


def test_students_that_are_there_are_taken_and_no_data_are_collected(place, tmp_path):
    cells = replace(CELLS, students=("pairs",), seeds=(1,))
    with pytest.raises(ValueError, match=r"pairs_seed1 has no student; make it first: .*--only pairs"):
        real_time_jobs.real_time_jobs(place, cells, students=tmp_path / "one_step")
    found = tmp_path / "one_step" / "runs" / "pairs_seed1"
    for name in ("student", "evaluations"):
        (found / name).mkdir(parents=True)
        (found / name / "flashwam.json").write_text("{}")
    jobs = {job.name: job for job in real_time_jobs.real_time_jobs(place, cells, students=tmp_path / "one_step")}
    check_jobs(list(jobs.values()))
    assert "collect" not in jobs
    jobs["make/pairs_1"].function(**jobs["make/pairs_1"].kwargs)
    taken = place.run("pairs", 1)
    assert (taken / "student" / "flashwam.json").is_file()
    assert not (taken / "evaluations").exists()


def test_a_teacher_that_is_not_shipped_is_taken_from_where_the_students_are(tmp_path):
    place = Place(out=tmp_path / "runs", results=tmp_path / "results", family="cogvideox")
    cells = replace(CELLS, students=())
    with pytest.raises(ValueError, match=r"teacher is missing; make it first"):
        real_time_jobs.real_time_jobs(place, cells, students=tmp_path / "one_step")
    found = Place(out=tmp_path / "one_step", results=tmp_path, family="cogvideox").demo.teacher
    found.mkdir(parents=True)
    (found / "flashwam.json").write_text("{}")
    jobs = real_time_jobs.real_time_jobs(place, cells, students=tmp_path / "one_step")
    check_jobs(jobs)
    jobs[0].function(**jobs[0].kwargs)
    assert (place.demo.teacher / "flashwam.json").is_file()


def test_a_cell_drives_its_model_by_its_clock(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(real_time_jobs, "evaluate_real_time", lambda *args, **kwargs: asked.append((args, kwargs)))
    drive_late(tmp_path, 3, "1v/1a", RealTime(latency_ms=348), ("button-press",), 2)
    ((models, told),) = asked
    assert (models, told["clocks"], told["nfe"]) == ((tmp_path,), [RealTime(latency_ms=348)], ("1v/1a",))
    assert (told["seed"], told["tasks"], told["episodes"]) == (3, ("button-press",), 2)


def kept(place):
    """The teacher in two episodes at one latency, one of them a success; nobody drove it."""
    clock = {"latency_ms": 348.0, "scale": 1.0, "meanwhile": "hold", "control_hz": 20.0, "patience": 4.0}
    numbers = {"episodes": 2, "success": 1, "outcomes": [1, 0], "lasted": [3.0, 8.0]}
    told = {"run": "teacher", "nfe": {"video": 1, "action": 1}, "tasks": {"button-press": numbers}, "seed": 0}
    folder = RunFolder(place.demo.teacher_run).real_time
    folder.mkdir(parents=True)
    (folder / "a.json").write_text(json.dumps({**told, "label": "teacher 1v/1a", "real_time": clock}))


def test_what_there_is_is_drawn_kept_and_compared_from_what_is_kept(place):
    kept(place)
    (place.out / "comparison").mkdir()
    (place.out / "comparison" / f"{TIMED}.json").write_text(json.dumps({"1v/1a": 90.0}))
    report(place, CELLS, "python analysis/real_time.py")
    assert (place.results / "comparison" / FIGURE).is_file()
    assert "teacher 1v/1a" in (place.results / "comparison" / "real_time.md").read_text()
    assert list(marks(place, CELLS))[-1] == "the small student here, 90 ms"
    result = compare([place.results], out=place.out / "again")
    assert [curve["label"] for curve in result["real_time"]] == ["teacher 1v/1a"]
    assert result["rows"] == []
    # A study goes on from what is kept.
    other = replace(place, out=place.out.with_name("other"))
    other.study.restore(real_time_jobs.real_time_jobs(other, CELLS))
    assert [path.name for path in RunFolder(other.demo.teacher_run).real_time_files] == ["a.json"]


def test_the_loop_is_timed_at_every_number_of_steps(place, monkeypatch):
    monkeypatch.setattr(
        "flashwam.evaluation.real_time.loop_ms", lambda policy, *, picture, **_: 12.5 if picture == (64, 64) else 0
    )
    make_teacher(place.demo, from_scratch=False)
    time_loops(place, CELLS)
    assert json.loads((place.out / "comparison" / f"{TIMED}.json").read_text()) == {"full": 12.5, "1v/1a": 12.5}


def test_the_command_that_makes_a_part_is_told():
    cells = replace(CELLS, latencies=(0.0, 348.0), episodes=2, marks={**CELLS.marks, "a GPU": 90.0})
    told = command(cells, Namespace(students=None, family="lingbot_va", settings=[]))
    assert told == 'python analysis/real_time.py --latencies 0 348 --episodes 2 --mark "a GPU" 90'
    other = command(CELLS, Namespace(students="runs/one_step", family="cogvideox", settings=["distill.lr=1"]))
    assert other == "python analysis/real_time.py --family cogvideox --students runs/one_step --set distill.lr=1"
