# SPDX-License-Identifier: Apache-2.0
"""Evaluations of worlds that did not wait, in a comparison; no model made these numbers."""

import json

import pytest
from synthetic import evaluation, write

from flashwam.report import real_time_page
from flashwam.report.colours import run_colours
from flashwam.report.compare import compare
from flashwam.report.figures import INK, MUTED
from flashwam.report.real_time import real_time_curves
from flashwam.report.real_time_page import draw_real_time
from flashwam.run.evaluation import Evaluation, read_real_time
from flashwam.run.folder import RunFolder


def late(run, *, ms, won, lasted=2.0, meanwhile="hold", measured=False, moving=True, seed=0, **rest):
    """An evaluation of ten episodes of a task, `won` of them."""
    result = evaluation(run, seed=seed, **rest)
    clock = {"scale": 1.0, "meanwhile": meanwhile, "control_hz": 20.0, "patience": 4.0}
    numbers = {"episodes": 10, "success": won, "outcomes": [1] * won + [0] * (10 - won), "lasted": [lasted] * 10}
    tasks = {"press": numbers}
    if moving:
        tasks["belt"] = {**numbers, "success": 0, "outcomes": [0] * 10, "moving": True}
    asked = {"tasks": list(tasks), "episodes": 10, "real_time": {**clock, "latency_ms": None if measured else ms}}
    return {**result, "tasks": tasks, "asked": asked, "real_time": {**clock, "latency_ms": ms}}


def keep(folder, *results):
    place = RunFolder(folder).real_time
    place.mkdir(parents=True)
    for number, result in enumerate(results):
        (place / f"{number}.json").write_text(json.dumps(result))
    return folder


def curves_of(*results):
    return real_time_curves([Evaluation.from_json(result, "it") for result in results])


def test_a_curve_is_a_model_and_a_robots_habit_and_a_point_is_over_seeds():
    teacher, few, goes_on, student = curves_of(
        late("flash", ms=20, won=9),
        late("teacher", ms=20, won=2, nfe=(1, 1)),
        late("teacher", ms=348, won=6, nfe=(10, 10), lasted=4.0),
        late("teacher", ms=348, won=8, nfe=(10, 10), seed=1),
        late("teacher", ms=0, won=9, nfe=(10, 10)),
        late("teacher", ms=20, won=2, nfe=(1, 1), meanwhile="go_on"),
    )
    assert [curve.label for curve in (teacher, few, goes_on, student)] == [
        "teacher 10v/10a",
        "teacher 1v/1a",
        "teacher 1v/1a",
        "flash 1v/1a",
    ]
    assert (few.clock.meanwhile, goes_on.clock.meanwhile) == ("hold", "go_on")
    assert [point.latency_ms for point in teacher.points] == [0, 348]
    pooled = teacher.points[1]
    assert (pooled.success["standing"].successes, pooled.success["standing"].episodes) == (14, 20)
    # Six episodes took 4 s, eight 2 s; nobody was done where the scene moved.
    assert pooled.seconds == {"standing": pytest.approx((6 * 4 + 8 * 2) / 14)}
    assert pooled.success["moving"].successes == 0


def test_measured_latencies_of_one_request_are_one_point():
    (curve,) = curves_of(late("flash", ms=10, won=5, measured=True), late("flash", ms=14, won=7, measured=True, seed=1))
    assert [(point.latency_ms, point.measured) for point in curve.points] == [(12, True)]


def test_evaluations_of_worlds_that_wait_are_no_points():
    assert curves_of(evaluation("teacher", nfe=(10, 20))) == []


def test_a_comparison_shows_them_apart_from_worlds_that_wait(tmp_path):
    run = write(tmp_path / "flash", evaluation("flash", rates=0.5))
    before = compare([run], out=tmp_path / "before")
    keep(run, late("flash", ms=0, won=9), late("flash", ms=348, won=3), late("flash", ms=348, won=8, meanwhile="go_on"))
    result = compare([run], out=tmp_path / "out")
    assert result["rows"] == before["rows"]
    assert result["table"] == before["table"]
    assert before["real_time"] == []
    assert [len(curve["points"]) for curve in result["real_time"]] == [2, 1]
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "A world that does not wait" in page
    assert "A world that does not wait" not in (tmp_path / "before" / "compare.html").read_text()
    assert (tmp_path / "out" / "real_time.png").is_file()
    table = (tmp_path / "out" / "real_time.md").read_text()
    assert "| flash 1v/1a | goes on | 348 | 20 | 0.80 [0.49, 0.94] of 10 | 2 | 0.00 [0.00, 0.28] of 10 | - |" in table
    assert not (tmp_path / "before" / "real_time.md").exists()


def test_a_run_that_was_never_driven_in_a_world_that_waits_is_compared_too(tmp_path):
    run = keep(tmp_path / "flash", late("flash", ms=5, won=9))
    result = compare([run], out=tmp_path / "out")
    assert result["rows"] == []
    assert "flash 1v/1a" in result["real_time_table"]
    assert "A world that does not wait" in (tmp_path / "out" / "compare.html").read_text()


def test_the_figure_has_a_place_for_no_latency_and_for_what_is_known(tmp_path):
    curves = curves_of(
        late("teacher", ms=0, won=9, nfe=(10, 10), moving=False),
        late("teacher", ms=20, won=8, nfe=(10, 10), moving=False, meanwhile="go_on"),
    )
    path = draw_real_time(curves, tmp_path / "a.png", marks={"published loop": 8100, "the paper's": 348})
    plain = draw_real_time(curves, tmp_path / "b.png")
    assert path.read_bytes() != plain.read_bytes()


def test_a_method_has_its_own_colour_and_the_teacher_in_fewer_steps_is_grey(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(real_time_page, "_name", lambda axes, curves, scene, colours: given.append(colours))
    curves = curves_of(
        late("pairs", ms=0, won=9),
        late("swift_full", ms=0, won=9, kind="teacher"),
        *(late("teacher", ms=0, won=9, nfe=(steps, steps)) for steps in (1, 10)),
    )
    draw_real_time(curves, tmp_path / "a.png", colours={"pairs": "#0b6fb8", "teacher": INK, "swift_full": "#d9730d"})
    draw_real_time(curves, tmp_path / "b.png")
    assert given[0] == {
        "teacher 10v/10a": INK,
        "teacher 1v/1a": MUTED,
        "swift_full 1v/1a": "#d9730d",
        "pairs 1v/1a": run_colours((), ["pairs"])["pairs"],
    }
    assert given[1] == {**given[0], "swift_full 1v/1a": MUTED}


def test_equal_names_and_trainings_are_told_apart_by_their_folders(tmp_path):
    runs = [tmp_path / side / "flash" for side in "ab"]
    for run, won in zip(runs, (9, 1), strict=True):
        keep(run, late("flash", ms=20, won=won))
    curves = real_time_curves([one for run in runs for one in read_real_time(run)])
    assert [curve.label for curve in curves] == ["a/flash 1v/1a", "b/flash 1v/1a"]
