# SPDX-License-Identifier: Apache-2.0
"""An episode counts once, however often its evaluation is read or its setting was named."""

import json
from dataclasses import replace

import pytest
from synthetic import evaluation, write
from test_real_time_page import keep, late
from test_recordings import write as write_recorded

from flashwam.report.compare import compare, gather
from flashwam.report.real_time import real_time_curves
from flashwam.report.recordings import recording_rows
from flashwam.report.results import pool_evaluations, read_real_time_evaluations
from flashwam.report.study import write_study_evaluations
from flashwam.run.evaluation import read_evaluation, read_recordings


def test_a_run_that_is_named_twice_is_read_once(tmp_path, monkeypatch):
    write(tmp_path / "runs" / "teacher", evaluation("teacher", nfe=(10, 10)))
    run = write(tmp_path / "runs" / "flash", evaluation("flash"), metrics=[{"step": 1, "loss": 1.0}])
    keep(run, late("flash", ms=20, won=9))
    write_recorded(run, "flash", 0.4)
    (tmp_path / "runs" / "again").symlink_to("flash")
    monkeypatch.chdir(tmp_path)
    once, twice = (
        compare(runs, out="out") for runs in ([run], ["runs/flash", run, run / ".." / "flash", "runs/again"])
    )
    assert twice == once
    assert once["rows"][0]["overall"]["episodes"] == 250
    assert once["real_time"][0]["points"][0]["success"]["standing"]["episodes"] == 10
    assert len(gather([run, "runs/flash"], tmp_path / "out")[1]["flash"]) == 1


def test_a_run_beside_a_study_that_holds_it_is_read_once(tmp_path):
    run = write(tmp_path / "runs" / "flash", evaluation("flash"))
    (file,) = (run / "evaluations").glob("*.json")
    write_study_evaluations(tmp_path, [(file.relative_to(tmp_path).as_posix(), json.loads(file.read_text()))])
    (row,) = gather([tmp_path, run], tmp_path / "out")[0]
    assert (row.share().episodes, row.trainings) == (250, 1)


def test_own_steps_by_their_name_and_by_their_numbers_are_one_measurement(tmp_path):
    full = evaluation("teacher", nfe=(10, 10), setting="full", rates=0.8)
    again = evaluation("teacher", nfe=(10, 10), setting="10v/10a", rates=0.8)
    more = evaluation("teacher", nfe=(10, 10), setting="10v/10a", rates=0.6, episodes=100, seed=1)
    few = evaluation("teacher", nfe=(10, 10), setting="full", rates=1.0, seed=1)
    apart = {"several": ["reach-wall", "two-ways"], "one": ["button-press-topdown"]}
    parts = [evaluation("teacher", nfe=(10, 10), setting=name, seed=2) for name in apart]
    for part, names in zip(parts, apart.values(), strict=True):
        part["tasks"] = {name: part["tasks"][name] for name in names}
    (row,) = gather([write(tmp_path / "teacher", full, again, few, more, *parts)], tmp_path / "out")[0]
    episodes = {seed: sum(share.episodes for share in tasks.values()) for seed, tasks in row.seeds if seed != 2}
    assert episodes == {0: 250, 1: 500}
    driven = [name for seed, tasks in row.seeds if seed == 2 for name in tasks]
    assert sorted(driven) == sorted(name for names in apart.values() for name in names)
    assert row.share().episodes == 250 + 500 + 150
    assert len(row.seeds) == 4


def test_so_it_is_in_worlds_that_do_not_wait_and_on_recordings(tmp_path):
    run = keep(tmp_path / "teacher", *(late("teacher", ms=20, won=9, setting=name) for name in ("full", "10v/10a")))
    (curve,) = real_time_curves(read_real_time_evaluations(run))
    assert [point.success["standing"].episodes for point in curve.points] == [10]
    (one,) = read_recordings(write_recorded(run, "teacher", 0.4, kind="teacher"))
    replace(one, setting="full").write(one.file.with_name("full.json"))
    (row,) = recording_rows(read_recordings(run))
    assert len(row.parts) == 1


@pytest.mark.parametrize("change", [{"seed": 1}, {"training_seed": 1}, {"step": 300}, {"sampler": "euler"}])
def test_other_scenes_trainings_and_weights_all_count(tmp_path, change):
    run = write(tmp_path / "flash", evaluation("flash", training_seed=0, step=400))
    write(run, evaluation("flash", label="other", **{"training_seed": 0, "step": 400, **change}))
    rows = pool_evaluations([read_evaluation(file) for file in sorted((run / "evaluations").glob("*.json"))])
    assert sum(row.share().episodes for row in rows) == 500


def test_without_a_seed_nobody_knows_and_all_count(tmp_path):
    run = write(tmp_path / "flash", *(evaluation("flash", setting=name, seed=None) for name in ("full", "1v/1a")))
    (row,) = gather([run], tmp_path / "out")[0]
    assert row.share().episodes == 500


@pytest.mark.parametrize(("seeds", "counted"), [((0, 0), 1), ((0, 1), 2), ((0, None), 2)])
def test_trainings_are_counted_by_their_seeds_where_all_tell_them(tmp_path, seeds, counted):
    results = [evaluation("flash", seed=number, training_seed=seed) for number, seed in enumerate(seeds)]
    (row,) = gather([write(tmp_path / str(number), one) for number, one in enumerate(results)], tmp_path / "out")[0]
    assert row.trainings == counted
    recorded = []
    for number, seed in enumerate(seeds):
        (one,) = read_recordings(write_recorded(tmp_path / f"on_{number}", "flash", 0.4))
        recorded.append(replace(one, seed=number, training_seed=seed))
    assert [row.trainings for row in recording_rows(recorded)] == [counted]
