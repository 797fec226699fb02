# SPDX-License-Identifier: Apache-2.0
"""The film of a demo: whom it shows, and its time."""

import json

import numpy as np
import pytest
from PIL import Image, ImageSequence

from flashwam.cli import main
from flashwam.demo import filming, work
from flashwam.demo.film import Take, play
from flashwam.demo.jobs import preset_jobs
from flashwam.demo.place import Place
from flashwam.demo.presets import PRESETS
from flashwam.report.compare import gather
from flashwam.report.film import find_film
from flashwam.run.folder import RunFolder
from flashwam.sim.tasks import get_task

TASKS = ("reach-wall", "button-wall")


def driven(run, name, nfe, success, milliseconds):
    tasks = {"reach-wall": {"episodes": 4, "success": success, "multimodal": True}}
    told = {"run": name, "nfe": nfe, "tasks": tasks, "latency": {"chunk_ms": milliseconds}}
    run.evaluations.mkdir(parents=True, exist_ok=True)
    (run.evaluations / f"{name}{nfe['video']}.json").write_text(json.dumps(told))


@pytest.fixture
def place(tmp_path):
    place = Place(preset=PRESETS["quick"], out=tmp_path)
    (tmp_path / "comparison").mkdir()
    for steps, success, milliseconds in ((10, 4, 170.0), (1, 1, 20.0)):
        driven(RunFolder(place.teacher_run), "teacher", {"video": steps, "action": steps}, success, milliseconds)
    for method, success in (("flash_wam", 1), ("pairs", 3)):
        driven(RunFolder(place.run(method, 0)), method, {"video": 1, "action": 1}, success, 20.0)
    return place


def played(row, model, tasks):
    """A chunk, then two controls; the student, which draws faster, is done sooner."""
    begins = row.latency["chunk_ms"]
    pictures = tuple(np.full((32, 32, 3), shade, np.uint8) for shade in (0, 100, 200))
    take = Take(
        times=(0.0, begins, begins + 300), pictures=pictures, drawing=(True, False, False), success=row.run == "pairs"
    )
    played.models.append(model)
    return [take] * len(tasks)


def test_the_teacher_and_the_best_student_are_filmed_in_real_time(place, monkeypatch):
    played.models = []
    monkeypatch.setattr(filming, "_takes", played)
    path = filming.film_best(place.evaluated, place.out / "comparison", TASKS, teacher=place.teacher)
    assert played.models == [place.teacher, place.run("pairs", 0)]
    with Image.open(path) as film:
        frames = [(frame.info["duration"], frame.size) for frame in ImageSequence.Iterator(film)]
    seconds = sum(duration for duration, _ in frames) / 1000
    rows, *_ = gather(place.evaluated, path.parent)
    assert seconds == pytest.approx(2 * (470 + 800) / 1000, abs=0.15)
    figure = find_film(place.out / "elsewhere", path.parent, rows=rows)
    assert "left teacher 10v/10a, right pairs 1v/1a" in figure.caption
    assert "reach-wall: teacher fails after 0.5 s, pairs succeeds after 0.3 s" in figure.alt
    assert figure.still.is_file()
    assert json.loads((path.parent / "film.json").read_text())["models"] == {
        "teacher 10v/10a": {"run": "../runs/teacher", "step": None},
        "pairs 1v/1a": {"run": "../runs/pairs", "step": None},
    }
    others = [row for row in rows if row.run != "pairs"]
    assert find_film(path.parent, rows=others) is None


def test_a_long_film_is_cut_and_says_so(place, monkeypatch):
    def slow(row, model, tasks):
        (take,) = played(row, model, tasks)
        return [Take(times=(0.0, 100.0, 60_000.0), pictures=take.pictures, drawing=take.drawing, success=True)]

    played.models = []
    monkeypatch.setattr(filming, "_takes", slow)
    path = filming.film_best(place.evaluated, place.out / "comparison", TASKS[:1], teacher=place.teacher)
    with Image.open(path) as film:
        durations = [frame.info["duration"] for frame in ImageSequence.Iterator(film)]
    assert len(durations) <= 220
    assert sum(durations) == pytest.approx(12_800, abs=200)
    rows, *_ = gather(place.evaluated, path.parent)
    assert "teacher is still at it after 12.0 s" in find_film(path.parent, rows=rows).alt


def test_without_a_timed_student_there_is_no_film(tmp_path, caplog):
    place = Place(preset=PRESETS["quick"], out=tmp_path)
    driven(RunFolder(place.teacher_run), "teacher", {"video": 10, "action": 10}, 4, 170.0)
    work.film(place)
    assert "no film: it needs a teacher and a student" in caplog.text
    assert find_film(place.out / "comparison", rows=[]) is None


@pytest.mark.parametrize("preset", ["smoke", "quick", "pilot"])
def test_the_film_waits_for_all_who_may_be_in_it(preset, tmp_path):
    jobs = preset_jobs(PRESETS[preset], tmp_path)
    (film,) = (job for job in jobs if job.name == "film")
    assert {job.name for job in jobs if job.name.startswith("evaluate/")} | {"latency"} == set(film.after)
    tasks = Place(preset=PRESETS[preset], out=tmp_path).recipe("teacher").tasks
    assert set(PRESETS[preset].film) <= set(tasks)


class Pusher:
    """Draws the same controls, whatever it sees, and remembers what that was."""

    per_frame = 4

    def __init__(self):
        self.seen = []

    def reset(self, prompt, frames, *, seed, state):
        self.seen += list(frames)

    def controls(self):
        return np.tile(np.array([0.4, -0.2, 0.1, 0.0]), (1, 16, 1))

    def observe(self, pictures, controls, *, state):
        self.seen += list(pictures[0])


def test_what_is_filmed_is_the_episode_that_the_model_sees():
    policy = Pusher()
    take = play(policy, "reach-wall", 0, draw_ms=100.0, size=64)
    told = [picture for picture, drawing in zip(take.pictures, take.drawing, strict=True) if drawing]
    # A chunk of four latent frames, of which each is seen at its end.
    for picture, seen in zip(told, policy.seen[::4], strict=True):
        assert np.array_equal(picture, seen)
    assert not take.success
    assert len(told) > 3
    task = get_task("reach-wall")
    assert take.end == pytest.approx(len(told) * 100 + task.max_steps * 1000 / task.control_hz)


def test_a_film_that_is_asked_for_and_cannot_be_is_an_error(tmp_path, capsys):
    run = RunFolder(tmp_path / "teacher")
    driven(run, "teacher", {"video": 10, "action": 10}, 4, 170.0)
    assert main(["compare", str(run.path), "--out", str(tmp_path / "out"), "--film", "reach-wall"]) == 2
    assert "--film needs a teacher and a student" in capsys.readouterr().err
    assert not (tmp_path / "out" / "compare.html").exists()


def test_runs_without_weights_are_not_filmed(place):
    with pytest.raises(FileNotFoundError, match="teacher"):
        filming.film_best(place.evaluated, place.out / "comparison", TASKS)
    with pytest.raises(ValueError, match="unknown task 'reach-wal'"):
        filming.film_best(place.evaluated, place.out / "comparison", ["reach-wal"])
