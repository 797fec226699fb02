# SPDX-License-Identifier: Apache-2.0
"""A study's two files stand for the folders of its runs."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic import CROSS, benchmark, evaluation, write

from flashwam.report.compare import compare, gather
from flashwam.report.metrics import find_metrics, read_metrics
from flashwam.report.results import pool_evaluations, read_evaluations
from flashwam.report.study import (
    CURVES,
    EVALUATIONS,
    study_curves,
    study_evaluations,
    write_study_curves,
    write_study_evaluations,
)


def put_together(root, study):
    """The study of the runs in a folder."""
    files = {path.relative_to(root.parent).as_posix(): path for path in root.rglob("evaluations/*.json")}
    write_study_evaluations(study, ((name, json.loads(path.read_text())) for name, path in files.items()))
    logs = {path.parent.relative_to(root.parent).as_posix(): path for path in root.rglob("metrics.jsonl")}
    write_study_curves(study, {name: read_metrics(path) for name, path in logs.items()})
    return study


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder of runs, one of which holds another, and measures of every kind."""
    root = tmp_path_factory.mktemp("study") / "runs"
    benchmark(root)
    write(root / "flash_wam" / "beside", evaluation("another"))
    # Another order of measures, some of them alone, two lines of one step, and numbers that JSON has no name for.
    lines = [{"step": 1, "b": 0.1, "a": 1e-300}, {"step": 1, "a": 1 / 3}, {"step": 2, "c": float("inf"), "d": 7}]
    (root / "teacher" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


@pytest.fixture(scope="module")
def study(runs):
    return put_together(runs, runs.with_name("study"))


def test_every_number_comes_back_as_it_was(runs, study):
    assert {path.name for path in study.iterdir()} == {EVALUATIONS, CURVES}
    read = {path.relative_to(study): content for path, content in study_evaluations(study)}
    single = {path.relative_to(runs.parent): path for path in runs.rglob("evaluations/*.json")}
    assert read == {name: json.loads(path.read_text()) for name, path in single.items()}
    logs = {path.parent.relative_to(runs.parent): path for path in runs.rglob("metrics.jsonl")}
    assert len(logs) == 6
    assert study_curves(study) == {study / name: read_metrics(path) for name, path in logs.items()}


def test_a_study_is_compared_as_its_runs_are(runs, study, tmp_path):
    """With what was measured of whole models, which lies in the study's own comparison."""
    folder, apart = tmp_path / "study", tmp_path / "apart"
    shutil.copytree(study, folder)
    for place in (apart, folder / "comparison"):
        place.mkdir()
        (place / "cross.json").write_text(json.dumps(CROSS))
        (place / "latency.json").write_text(json.dumps({"on_policy 1v/1a": {"chunk_ms": 3.0}}))
        (place / "costs.json").write_text(json.dumps({"on_policy": {"training": 60.0, "before": {"teacher": 9.0}}}))
    single, curves, cross = gather(sorted({path.parents[1] for path in runs.rglob("evaluations/*.json")}), apart)
    rows, same_curves, same_cross = gather([folder], tmp_path / "out")
    assert [row.to_json() for row in rows] == [row.to_json() for row in single]
    assert (same_curves, same_cross) == (curves, cross)
    (row,) = (row for row in rows if row.label == "on_policy 1v/1a")
    assert (row.latency, row.cost) == ({"chunk_ms": 3.0}, {"training": 60.0, "teacher": 9.0})


def test_a_run_of_a_study_is_named_by_the_folder_that_it_would_have(runs, study):
    run = study / "runs" / "flash_wam"
    assert not run.exists()
    assert {result.run for result in read_evaluations(run)} == {"flash_wam"}
    assert read_metrics(find_metrics(run)) == read_metrics(runs / "flash_wam" / "metrics.jsonl")
    with pytest.raises(FileNotFoundError, match=r"study has no evaluations of a run runs/flash$"):
        read_evaluations(study / "runs" / "flash")
    with pytest.raises(FileNotFoundError, match=r"no metrics\.jsonl"):
        find_metrics(study / "runs" / "flash_wam" / "beside")


def test_equal_names_of_two_studies_are_told_apart_by_the_studies(tmp_path):
    for side, rate in (("small", 0.2), ("large", 0.9)):
        root = tmp_path / side / "runs"
        write(root / "flash", evaluation("flash", rates=rate), metrics=[{"step": 1, "loss": rate}])
        write(root / "flash_seed1", evaluation("flash", rates=rate, seed=1))
        put_together(root, tmp_path / "studies" / side)
        folder = tmp_path / "studies" / side / "comparison"
        folder.mkdir()
        (folder / "latency.json").write_text(json.dumps({"flash 1v/1a": {"chunk_ms": rate}}))
    rows, curves, _ = gather([tmp_path / "studies" / side for side in ("small", "large")], tmp_path / "out")
    found = {row.run: (row.seed_rates(), row.latency["chunk_ms"]) for row in rows}
    assert found == {"small/flash": ((0.2, 0.2), 0.2), "large/flash": ((0.9, 0.9), 0.9)}
    assert {run: [one[0]["loss"] for one in some] for run, some in curves.items()} == {
        "small/flash": [0.2],
        "large/flash": [0.9],
    }
    # So are folders of runs, whichever of those above them differs.
    results = [r for side in ("small", "large") for r in read_evaluations(tmp_path / side / "runs" / "flash")]
    assert sorted(row.run for row in pool_evaluations(results)) == ["large/flash", "small/flash"]


def test_what_is_no_study_is_named_with_its_line(tmp_path):
    study = tmp_path / "study"
    write_study_evaluations(study, [("runs/a/evaluations/one.json", evaluation("a"))])
    with (study / EVALUATIONS).open("a") as file:
        file.write('{"run": "b", "nfe": {}, "tasks": {}}\n')
    with pytest.raises(ValueError, match=r'evaluations\.jsonl, line 2: expected an evaluation with its "file"'):
        read_evaluations(study)
    (study / EVALUATIONS).write_text('{"file": "runs/a/evaluations/one.json", "run": "a"}\n')
    with pytest.raises(ValueError, match=r"one\.json is not an evaluation: it lacks \['nfe', 'tasks'\]"):
        compare([study], out=tmp_path / "out")
    (study / CURVES).write_text("step,loss\n")
    with pytest.raises(ValueError, match=r"curves\.parquet is no table of training curves"):
        study_curves(study)
    pq.write_table(pa.table({"step": [1]}), study / CURVES)
    with pytest.raises(ValueError, match=r"lacks the columns \['run'\]"):
        study_curves(study)


@pytest.mark.parametrize(
    ("scenes", "told"),
    [
        ([1000000, 1000001, 1000002], {"first": 1000000, "last": 1000002}),
        ([3, 4], [3, 4]),
        ([3, 4, 6], [3, 4, 6]),
        ([5, 4, 3], [5, 4, 3]),
        ([], []),
        (None, None),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]),
        (["1", "2", "3"], ["1", "2", "3"]),
    ],
)
def test_scenes_that_follow_each_other_are_told_by_their_ends(tmp_path, scenes, told):
    content = {"tasks": {"reach": {"success": 1, "scenes": scenes, "steps": 4}, "push": {"success": 1}}}
    write_study_evaluations(tmp_path, [("runs/a/evaluations/one.json", content)])
    line = json.loads((tmp_path / EVALUATIONS).read_text())
    assert line["tasks"]["reach"]["scenes"] == told
    ((path, read),) = study_evaluations(tmp_path)
    assert (path, read) == (tmp_path / "runs/a/evaluations/one.json", content)


@pytest.mark.parametrize(
    "scenes", [{}, {"first": 2, "last": 1}, {"first": 0, "last": 1e9}, {"first": 0, "last": 10**9}]
)
def test_scenes_of_no_range_are_refused(tmp_path, scenes):
    line = {"file": "runs/a/evaluations/one.json", "tasks": {"reach": {"scenes": scenes}}}
    (tmp_path / EVALUATIONS).write_text(json.dumps(line) + "\n")
    with pytest.raises(ValueError, match=r'line 1: expected scenes from a "first" to a "last" number; got'):
        list(study_evaluations(tmp_path))


def test_what_cannot_be_kept_whole_is_refused(tmp_path):
    one = ("runs/a/evaluations/one.json", {"run": "a"})
    with pytest.raises(ValueError, match=r"runs/a/evaluations/one\.json stands twice"):
        write_study_evaluations(tmp_path, [one, one])
    with pytest.raises(ValueError, match="has a key 'file' of its own"):
        write_study_evaluations(tmp_path, [(one[0], {"file": "x"})])
    with pytest.raises(ValueError, match="runs/a, step 3: loss must be a number; got 'high'"):
        write_study_curves(tmp_path, {"runs/a": [{"step": 3, "loss": "high"}]})
    with pytest.raises(ValueError, match="a measure cannot be named 'run'"):
        write_study_curves(tmp_path, {"runs/a": [{"step": 3, "run": 1.0}]})
    assert not list(tmp_path.iterdir())
