# SPDX-License-Identifier: Apache-2.0
"""A study is kept whole, goes on from what is kept or from an archive, and its committed tables are its own."""

import io
import json
import math
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import benchmark
import pytest
from studies import Study, parts, read_archive

from flashwam.report.compare import gather
from flashwam.report.results import read_evaluations
from flashwam.report.study import study_curves
from flashwam.report.table import markdown_table
from flashwam.report.verdict import verdict
from flashwam.system.jobs import Job, done_marker

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "analysis" / "results"
MOST_FILES, MOST_BYTES = 140, 12 * 2**20


def evaluation(run, seed=0, **more):
    made = {"git_revision": "abc", "command": ["benchmark.py"], "time": f"2026-01-0{seed + 1}", "cores": 2}
    return {"run": run, "nfe": {"video": 1}, "tasks": {}, "seed": seed, "film": "film.png", "provenance": made, **more}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


@pytest.fixture
def study(tmp_path):
    """One whose two runs were distilled and one of them driven."""
    out = tmp_path / "runs" / "small"
    for name, seed in (("flash", 0), ("flash_seed1", 1)):
        run = out / "runs" / name
        write(run / "recipe.yaml", f"name: flash\nseed: {seed}\ndistill: {{lr: 1.0e-05, steps: 4, tags: []}}\n")
        write(run / "metrics.jsonl", '{"step": 1, "loss": 0.125}\n{"step": 2, "loss": 0.375}\n{"step": 3, "lo')
    write(out / "runs" / "flash" / "evaluations" / "one.json", json.dumps(evaluation("flash"), indent=1) + "\n")
    write(out / "rates" / "flash.json", '{\n "lr": 1e-05\n}\n')
    write(out / "comparison" / "latency.json", '{"flash 1v": {"chunk_ms": 2.5}}')
    write(out / "comparison" / "compare.md", "| model |\n")
    for job, seconds in (("collect", 9), ("distill/flash", 3.5), ("distill/flash_seed1", 3.25), ("drive/flash", 1.5)):
        write(done_marker(out / "jobs", job), json.dumps({"seconds": seconds}) + "\n")
    return Study(out=out, results=tmp_path / "results" / "small", made_again=("collect",))


JOBS = [
    Job(name="collect", function=print),
    *(Job(name=f"distill/{name}", function=print, after=("collect",)) for name in ("flash", "flash_seed1")),
    *(Job(name=f"drive/{name}", function=print, after=(f"distill/{name}",)) for name in ("flash", "flash_seed1")),
]


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_kept_is_few_files_and_all_that_was_measured(study):
    study.keep("python analysis/benchmark.py")
    assert set(files(study.results)) == {
        "about.json",
        "comparison/compare.md",
        "comparison/latency.json",
        "comparison/rates.json",
        "curves.parquet",
        "evaluations.jsonl",
        "recipes.jsonl",
    }
    kept = dict(study.kept())
    there = files(study.out)
    # The log's cut-off line is no measurement, and what a reader sees of a recipe is its values.
    cut = b'{"step": 3, "lo'
    for name, content in kept.items():
        if name in there and not name.endswith("recipe.yaml"):
            assert there[name].removesuffix(cut) == content, name
    assert set(there) - set(kept) == {"comparison/compare.md"}
    told = json.loads((study.results / "about.json").read_text())
    assert told["command"] == "python analysis/benchmark.py"
    assert told["seeds"] == [0]
    assert told["cells"]["distill__flash"] == 3.5
    assert told["packages"]["torch"]


def test_curves_are_kept_to_five_digits_and_stay_so(study):
    log = study.out / "runs/flash/metrics.jsonl"
    write(log, '{"step": 123456789, "loss": 0.1, "rate": -3e-7, "far": Infinity, "none": 0.0}\n')
    kept = []
    for _ in range(2):
        study.keep("python analysis/benchmark.py")
        ((row,),) = [rows for run, rows in study_curves(study.results).items() if run.name == "flash"]
        kept.append(row)
    assert kept[0] == kept[1]
    told = {"step": 123456789, "loss": 0.1, "rate": -3e-7, "far": math.inf, "none": 0.0}
    assert kept[0] == pytest.approx(told, rel=8e-6, abs=0)
    assert kept[0]["step"] == 123456789
    assert kept[0]["loss"] != 0.1


def test_a_search_that_has_not_ended_goes_on_elsewhere(study, tmp_path):
    write(study.out / "tried" / "flash.json", '{"1e-05": {"0": 0.1, "1": 0.2}}')
    write(study.out / "tried" / "naive.json", '{"0.001": {"0": 0.02}}')
    study.keep("python analysis/benchmark.py")
    elsewhere = Study(out=tmp_path / "elsewhere", results=study.results)
    elsewhere.restore([])
    assert [path.name for path in (elsewhere.out / "tried").iterdir()] == ["naive.json"], "the other's rate is chosen"
    assert json.loads((elsewhere.out / "tried/naive.json").read_text()) == {"0.001": {"0": 0.02}}
    write(elsewhere.out / "rates" / "naive.json", '{"lr": 0.001}')
    elsewhere.keep("python analysis/benchmark.py")
    assert not (study.results / "comparison/tried.json").exists()


@pytest.mark.parametrize("archived", [False, True])
def test_another_machine_goes_on_without_what_is_done(study, tmp_path, archived):
    if archived:
        study.archive(tmp_path / "small.tar.gz")
    else:
        study.keep("python analysis/benchmark.py")
    elsewhere = Study(out=tmp_path / "elsewhere", results=study.results, made_again=study.made_again)
    elsewhere.restore(JOBS, tmp_path / "small.tar.gz" if archived else None)
    done = {path.stem for path in (elsewhere.out / "jobs").glob("*.done")}
    # The second run was distilled, but its weights are not there to be driven.
    assert done == {"distill__flash", "drive__flash"}
    before, after = files(study.out), files(elsewhere.out)
    same = ("runs/flash/evaluations/one.json", "rates/flash.json", "comparison/latency.json")
    assert all(before[name] == after[name] for name in same)
    recipe = (elsewhere.out / "runs" / "flash_seed1" / "recipe.yaml").read_text()
    assert "lr: 1.0e-05" in recipe
    write(elsewhere.out / "runs" / "flash" / "evaluations" / "one.json", json.dumps(evaluation("flash", 7)))
    elsewhere.restore(JOBS)
    assert json.loads((elsewhere.out / "runs/flash/evaluations/one.json").read_text())["seed"] == 7


def test_a_cell_that_is_asked_for_later_has_its_weights_made_again_once(study, tmp_path):
    study.keep("python analysis/benchmark.py")
    elsewhere = Study(out=tmp_path / "elsewhere", results=study.results, made_again=study.made_again)
    elsewhere.restore([job for job in JOBS if job.name != "drive/flash_seed1"])
    marker = done_marker(elsewhere.out / "jobs", "distill/flash_seed1")
    assert marker.is_file()
    elsewhere.restore(JOBS)
    assert not marker.is_file()
    for made in (marker, done_marker(elsewhere.out / "jobs", "collect")):
        write(made, '{"seconds": 3}')
    elsewhere.restore(JOBS)
    assert {path.stem for path in (elsewhere.out / "jobs").glob("*.done")} == {
        *("collect", "distill__flash", "distill__flash_seed1", "drive__flash")
    }
    elsewhere.archive(tmp_path / "further.tar.gz")
    third = Study(out=tmp_path / "third", results=tmp_path / "nothing", made_again=study.made_again)
    third.restore(JOBS, tmp_path / "further.tar.gz")
    assert {path.stem for path in (third.out / "jobs").glob("*.done")} == {"distill__flash", "drive__flash"}


@pytest.mark.parametrize("archived", [False, True])
def test_weights_that_are_made_again_are_taken_for_those_that_were_measured(study, tmp_path, archived):
    asked = {"tasks": ["reach"], "episodes": 1, "closed_loop": True}
    told = evaluation("flash", asked={**asked, "settings": {"model": "abc", "dtype": "own"}})
    write(study.out / "runs" / "flash" / "evaluations" / "one.json", json.dumps(told))
    study.archive(tmp_path / "small.tar.gz")
    study.keep("python analysis/benchmark.py")
    elsewhere = Study(out=tmp_path / "elsewhere", results=study.results)
    elsewhere.restore(JOBS, tmp_path / "small.tar.gz" if archived else None)
    found = json.loads((elsewhere.out / "runs" / "flash" / "evaluations" / "one.json").read_text())
    assert found == {**told, "asked": {**asked, "settings": {"dtype": "own"}}}


@pytest.mark.parametrize("films", [True, False])
def test_films_are_kept_where_a_study_has_them_kept(study, films):
    film = study.out / "runs" / "teacher" / "evaluations" / "step1_full_own_seed0_film.png"
    write(film, "film")
    replace(study, films=films).keep("python analysis/benchmark.py")
    assert (study.results / film.relative_to(study.out)).is_file() == films


def test_keeping_again_loses_nothing_that_another_machine_kept(study, tmp_path):
    study.keep("python analysis/benchmark.py")
    elsewhere = Study(out=tmp_path / "elsewhere", results=study.results)
    run = elsewhere.out / "runs" / "flash_seed1"
    write(run / "evaluations" / "one.json", json.dumps(evaluation("flash", 1)))
    write(done_marker(elsewhere.out / "jobs", "drive/flash_seed1"), '{"seconds": 2}')
    elsewhere.keep("python analysis/benchmark.py")
    kept = dict(study.kept())
    assert {"runs/flash/evaluations/one.json", "runs/flash_seed1/evaluations/one.json"} <= set(kept)
    assert {"runs/flash/metrics.jsonl", "rates/flash.json", "jobs/distill__flash.done"} <= set(kept)
    assert json.loads((study.results / "about.json").read_text())["seeds"] == [0, 1]


def test_what_was_made_with_other_settings_is_not_taken_for_what_is_asked_for(study, tmp_path):
    """Neither cells that are done, nor kept results, nor an archive; earlier studies noted none, and had none kept."""
    other = replace(study, settings=("distill.batch_size=8",))
    study.restore(JOBS)
    with pytest.raises(ValueError, match=r"runs.small was made with --set nothing, not distill\.batch_size=8: ask for"):
        other.restore(JOBS)
    study.archive(tmp_path / "some.tar.gz")
    fresh = replace(other, out=tmp_path / "fresh")
    with pytest.raises(ValueError, match=r"some\.tar\.gz was made with --set nothing"):
        fresh.restore(JOBS, tmp_path / "some.tar.gz")
    study.keep("python analysis/x.py")
    with pytest.raises(ValueError, match=r"results.small was made with --set nothing"):
        fresh.restore(JOBS)
    assert not fresh.out.exists()
    own = replace(fresh, results=tmp_path / "own")
    own.restore(JOBS)
    own.restore(JOBS)
    own.keep("python analysis/x.py --set distill.batch_size=8")
    with pytest.raises(ValueError, match=r"own was made with --set distill\.batch_size=8, not nothing"):
        replace(study, out=tmp_path / "fourth", results=own.results).restore(JOBS)


def test_parts_name_their_revision_and_what_was_other_there():
    first, second, third = evaluation("a", 0), evaluation("a", 1), evaluation("a", 2)
    third["provenance"] |= {"git_revision": "def", "cores": 8}
    told = parts([second, third, first], {"cores": 2, "git_revision": "def"})
    span = {"from": "2026-01-01", "to": "2026-01-02"}
    assert told == [
        {"git_revision": "abc", "command": "benchmark.py", "evaluations": 2, **span},
        {"git_revision": "def", "command": "benchmark.py", "evaluations": 1, "from": "2026-01-03", "to": "2026-01-03"}
        | {"cores": 8},
    ]


def test_odd_archives_and_missing_runs_are_refused_in_a_sentence(study, tmp_path):
    with pytest.raises(ValueError, match="small has cells of its own; move it away"):
        study.restore(JOBS, tmp_path / "any.tar.gz")
    (tmp_path / "text.tar.gz").write_text("no archive")
    with pytest.raises(ValueError, match=r"text\.tar\.gz is no archive of a study"):
        read_archive(tmp_path / "text.tar.gz")
    with pytest.raises(FileNotFoundError, match=r"none\.tar\.gz is missing"):
        read_archive(tmp_path / "none.tar.gz")
    with tarfile.open(tmp_path / "out.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../runs/x.json"), io.BytesIO(b""))
    with pytest.raises(ValueError, match=r"holds \.\./runs/x\.json, which no study leaves"):
        read_archive(tmp_path / "out.tar.gz")
    empty = Study(out=tmp_path / "none", results=tmp_path / "neither")
    with pytest.raises(FileNotFoundError, match=r"nothing to keep; run python analysis/x\.py first"):
        empty.keep("python analysis/x.py")
    with pytest.raises(FileNotFoundError, match="holds anything to put into"):
        empty.archive(tmp_path / "some.tar.gz")
    assert not (tmp_path / "neither").exists()


def test_the_script_takes_what_is_committed_to_another_machine(tmp_path, monkeypatch, capsys):
    (tmp_path / "analysis" / "results").mkdir(parents=True)
    (tmp_path / "analysis" / "results" / "full").symlink_to(RESULTS / "full")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["benchmark.py", "--archive", "full.tar.gz"])
    benchmark.main()
    assert "files in full.tar.gz" in capsys.readouterr().out
    kept = read_archive(tmp_path / "full.tar.gz")
    assert sum(name.endswith("metrics.jsonl") for name in kept) == 22
    assert sum("/evaluations/" in name for name in kept) == 91
    assert sum(name.endswith(".done") for name in kept) == 147
    monkeypatch.setattr("sys.argv", ["benchmark.py", "--keep-only"])
    with pytest.raises(SystemExit, match="there is nothing to keep"):
        benchmark.main()


@pytest.mark.parametrize("name", ["full", "cogvideox_full", "one_step", "cogvideox_one_step", "libero"])
def test_committed_comparisons_come_out_of_the_committed_evaluations(name, tmp_path):
    study = RESULTS / name
    # Students of a guided teacher are compared apart from the others, and who begins with less noise with himself.
    folders = dict.fromkeys(one.folder for one in read_evaluations(study))
    runs = [run for run in folders if "_guided" not in run.name and run.name != "cooler"]
    rows, _, cross = gather(runs, tmp_path)
    committed = json.loads((RESULTS / name / "comparison" / "compare.json").read_text())
    assert as_told([row.to_json() for row in rows]) == as_told(committed["rows"])
    assert cross == committed["cross"]
    assert verdict(rows, cross) == committed["verdict"]
    assert markdown_table(rows) == (RESULTS / name / "comparison" / "compare.md").read_text()


def as_told(value):
    """Numbers to twelve digits: the last ones depend on the processor that resampled."""
    if isinstance(value, float):
        return float(f"{value:.12g}")
    if isinstance(value, dict):
        return {name: as_told(inner) for name, inner in value.items()}
    return [as_told(inner) for inner in value] if isinstance(value, list | tuple) else value


def test_results_are_few_files_and_small():
    listed = subprocess.run(
        ["git", "ls-files", "analysis/results"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    names = listed.stdout.split()
    if not names:
        pytest.skip("no clone of the repository")
    assert len(names) <= MOST_FILES
    assert sum((ROOT / name).stat().st_size for name in names if (ROOT / name).is_file()) <= MOST_BYTES
