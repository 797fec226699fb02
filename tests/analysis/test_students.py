# SPDX-License-Identifier: Apache-2.0
"""The comparison of all ways to a student: its cells, jobs and orders fit each other."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import student_cells
import student_costs
import student_foresight
import student_jobs
import student_terms
import students

from flashwam.recipe.load import load_recipe
from flashwam.report.metrics import read_metrics
from flashwam.report.routes import write_routes
from flashwam.report.study import study_curves
from flashwam.system.jobs import check_jobs

RESULTS = Path(__file__).resolve().parents[2] / "analysis" / "results"


@pytest.fixture
def place(tmp_path):
    return student_cells.Place(out=tmp_path / "out", results=tmp_path / "results", benchmark=tmp_path / "full")


def test_every_cell_has_a_recipe_that_starts_where_it_says(place):
    for name, cell in student_cells.STUDENTS.items():
        recipe = place.recipe(name, 2)
        assert (recipe.name, recipe.seed) == (name, 2)
        assert recipe.data.root == str(place.benchmark / "data")
        started = {recipe.wam.pretrained, recipe.wam.config.get("primary", {}).get("pretrained")}
        if recipe.distill is not None:
            started.add(recipe.distill.init)
        folder = place.teacher if cell.start in (None, student_cells.TEACHER) else place.run(cell.start, 2) / "teacher"
        if cell.start is not None or recipe.distill is not None:
            assert str(folder) in started, name


def test_what_differs_between_ablations_is_what_they_are_about(place):
    """Same budget, batch, rate and data within a group, so that a difference is the ablation's, or the rate's."""
    for group in ("swift_", "foresight_decouplers", "foresight"):
        names = [n for n in student_cells.STUDENTS if n.startswith(group) and "one_step" not in n]
        names = [n for n in names if group != "foresight" or "decouplers" not in n]
        names = [n for n in names if n not in student_cells.TIERS["causes"]]
        loops = []
        for name in names:
            recipe = place.recipe(name, 0)
            loop = recipe.train if recipe.distill is None else recipe.distill
            rate = 1e-3 if student_cells.RATE in name else loop.lr
            assert rate == loop.lr or name.endswith(f"{student_cells.RATE}{loop.lr:.0e}".replace("e-0", "e-"))
            loops.append((loop.steps, loop.batch_size, rate, loop.ema_decay, recipe.data, recipe.streams))
        assert all(one == loops[0] for one in loops), group


def test_jobs_come_after_what_they_need_and_cover_every_seed(place):
    jobs = student_jobs.student_jobs(place, list(student_cells.STUDENTS), [0, 1])
    check_jobs(jobs)
    driven = [job for job in jobs if job.name.startswith("drive/")]
    once = {*student_cells.TIERS["rates"], *student_cells.TIERS["causes"]}
    seeds = {name: 1 if name in once else 2 for name in student_cells.STUDENTS}
    cells = student_cells.STUDENTS.items()
    assert len(driven) == sum(seeds[name] * len(cell.nfe) * (1 + cell.auxiliary) for name, cell in cells)
    named = {job.name for job in jobs}
    controls = {f"control/{steps}_{seed}" for steps in ("1v-2a", "1v-4a", "1v-10a") for seed in (0, 1)}
    assert {name for name in named if name.startswith("control/")} == controls
    for name, cell in student_cells.STUDENTS.items():
        if cell.start not in (None, student_cells.TEACHER) and seeds[name] > 1:
            (job,) = (job for job in jobs if job.name == f"make/{name}_1")
            assert f"make/{cell.start}_1" in job.after
            assert f"make/{cell.start}_1" in named


def test_what_the_benchmark_drove_is_taken_from_there(place):
    theirs = place.benchmark_run("flash_wam", 1) / "evaluations"
    theirs.mkdir(parents=True)
    for name in ("step400_1v-1a_own_seed1", "step400_1v-1a_euler_seed1", "step400_1v-2a_own_seed1"):
        (theirs / f"{name}.json").write_text(name)
    folder = student_jobs.take_measured(place, "flash_wam", 1, "1v/1a")
    assert folder.parent == place.out / "benchmark"
    taken = {path.name: path.read_text() for path in (folder / "evaluations").iterdir()}
    assert taken == {"step400_1v-1a_own_seed1.json": "step400_1v-1a_own_seed1"}


def test_a_cell_brings_those_that_it_is_made_from(place):
    names = student_cells.with_starts(["foresight_one_step"])
    assert names == {"foresight_one_step", "foresight", "foresight_decouplers"}
    check_jobs(student_jobs.student_jobs(place, names, [0, 1]))


def test_routes_and_orders_name_cells_that_there_are():
    known = {student_cells.TEACHER, *student_cells.CONSISTENCY}
    for name, cell in student_cells.STUDENTS.items():
        known |= {name} if cell.nfe and student_cells.RATE not in name else set()
        known |= {name + student_cells.MODALITY} if cell.auxiliary else set()
    shown = {run for runs in student_cells.ROUTES.values() for run in runs}
    assert known <= shown
    for order in student_cells.ORDERS:
        assert {order.better, order.worse} <= known, order


def test_costs_count_what_came_before_once(place):
    own = dict.fromkeys([student_cells.TEACHER, *student_cells.CONSISTENCY, *student_cells.STUDENTS], 100.0)
    made_of = ["foresight_decouplers", "foresight_teacher_actions"]
    once = dict.fromkeys(["records", "geometry and tokens", *made_of], 10.0)
    before = {name: student_costs.before(name, own, once) for name in own}
    assert before[student_cells.TEACHER] == {}
    assert before["on_policy"] == {"teacher": 100.0}
    assert before["swift_2d"] == {}
    assert set(before["swift_one_step"]) == {"records", "geometry and tokens", "swift_full"}
    assert set(before["foresight_one_step"]) == {
        "teacher",
        "records",
        "futures",
        "foresight_decouplers",
        "foresight",
    }
    assert before["foresight"]["futures"] == 10
    assert before["foresight_teacher_actions"]["futures"] == 20
    assert set(before["masked_reconstruction_2d"]) == {"teacher"}


def test_costs_of_two_days_are_told_by_one_clock(place):
    names = ("foresight_decouplers", "foresight", "foresight_no_raw")
    recipes = {name: place.recipe(name, 0) for name in names}
    recipes["teacher"] = load_recipe("metaworld/teacher")
    steps = {"teacher": 0.2, names[0]: 0.1, names[1]: 0.05, names[2]: 0.06, "looking anew": 0.21}
    once = {"records": 30.0, names[0]: 40.0}
    fresh = student_costs.tell_costs(recipes, steps, once, {})
    assert fresh["teacher"]["training"] == pytest.approx(0.2 * 5000)
    assert fresh["foresight"]["training"] == pytest.approx(0.05 * 2000 + 4096 * 0.16 / 16)
    assert fresh["foresight_no_raw"]["training"] == pytest.approx(0.06 * 2000 + 4096 * 0.16 / 16)
    assert fresh["foresight"]["before"] == pytest.approx(
        {"teacher": 1000, "records": 30, "futures": 40, "foresight_decouplers": 200}
    )
    # The earlier machine took half as long for the teacher's step.
    earlier = {"teacher": {"training": 500.0, "seconds_a_step": 0.1, "parameters": {}}, "swift_2d": {"training": 7.0}}
    told = student_costs.tell_costs(recipes, steps, once, earlier)
    assert {name: told[name] for name in earlier} == earlier
    assert told["foresight"]["training"] == pytest.approx(fresh["foresight"]["training"] / 2)
    assert told["foresight"]["before"]["futures"] == pytest.approx(20)
    assert told["foresight"]["seconds_a_step"] == pytest.approx(0.025)


def test_a_row_tells_the_terms_on_which_it_was_made(place, monkeypatch):
    kept = place.results.parent / place.benchmark.name
    kept.mkdir(parents=True)
    loop = {"steps": 400, "batch_size": 16, "lr": 3e-3, "ema_decay": 0.995, "save_weights": "student"}
    line = {"run": "runs/flash_wam", "recipe": {"distill": loop, "wam": {"config": {}}}}
    (kept / "recipes.jsonl").write_text(json.dumps(line) + "\n")
    for name, rate in (("swift_2d", 1e-3), ("swift_2d_lr_3e-3", 3e-3)):
        run = place.run(name, 0)
        run.mkdir(parents=True)
        trained = {**loop, "steps": 2000, "lr": rate, "save_weights": "target", "accumulation": 2}
        recipe = {"distill": None, "train": trained, "wam": {"config": {"state_dim": 4}}}
        (run / "recipe.yaml").write_text(json.dumps(recipe))
    driven = [("teacher", 1), ("flash_wam", 3), ("swift_2d", 2), ("swift_2d_lr_3e-3", 1), ("swift_full", 1)]
    folders = [(name, place.run(name, seed)) for name, trainings in driven for seed in range(trainings)]
    monkeypatch.setattr(student_terms, "read_evaluations", lambda run: [SimpleNamespace(run=run[0], folder=run[1])] * 2)
    table = student_terms.terms_table(place, folders)
    assert table.splitlines()[2:] == [
        "| teacher | 1 | 5,000 x 16 | 0.001 | 1 | averaged (0.995) | no |",
        "| flash_wam | 3 | 400 x 16 | 0.003 | 4, by the error of its actions against the teacher's | last | no |",
        "| swift_2d | 2 | 2,000 x 32 | 0.001 | 2, by success with the first seed | averaged (0.995) | yes |",
    ]


def test_foresight_is_told_as_a_share_of_a_copys_error_and_of_what_was_followed(place):
    names = ("foresight_decouplers", "foresight_decouplers_first_residual", "foresight_decouplers_unpaired")
    assert student_foresight.foresight_table(place) is None
    for name, seed, error, follows in ((names[0], 0, 0.2, 0.8), (names[0], 1, 0.6, 0.6), (names[1], 0, 1.0, 0.1)):
        guesses = {"depth_copy": 2.0, "depth_other_seed": 1.0, "depth_one_step": 0.5 + seed}
        first = {"depth_error_teacher": 9.0, "depth_follows_noise": 0.0, **guesses}
        last = {"depth_error_teacher": error, "depth_follows_noise": follows, **guesses}
        lines = [{"step": 0, **_judged(first)}, {"step": 9, **_judged(last)}, {"step": 10, "loss": 3.0}]
        _log(place.run(name, seed), lines)
    # Measured before decouplers were followed.
    _log(place.run(names[2], 0), [{"step": 9, **_judged({"depth_error_teacher": 1.0, "depth_copy": 2.0})}])
    table = student_foresight.foresight_table(place).splitlines()
    assert table[0] == "| foresight of | differs in | trainings | depth, of a copy's | depth follows the noise |"
    assert [line.split(" | ")[-2:] for line in table[2:5]] == [["1.00", "- |"], ["0.50", "- |"], ["0.50", "- |"]]
    assert table[5:7] == [
        "| foresight_decouplers |  | 2 | 0.20 | 0.70 |",
        "| foresight_decouplers_first_residual | pool=512, lr=1e-3, steps=1000 | 1 | 0.50 | 0.10 |",
    ]
    assert not table[7]


def _judged(measures):
    return {f"judged/{name}": value for name, value in measures.items()}


def _log(run, lines):
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_times_of_two_days_are_told_by_one_clock():
    earlier = {"teacher 10v/10a": {"chunk_ms": 60.0}, "teacher 1v/1a": {"chunk_ms": 8.0}, "gone": {"chunk_ms": 20.0}}
    later = {
        "teacher 10v/10a": {"chunk_ms": 30.0},
        "teacher 1v/1a": {"chunk_ms": 5.0},
        "teacher 1v/4a": {"chunk_ms": 9.0, "video_ms": 4.0},
    }
    joined = student_costs.on_one_clock(earlier, later)
    assert joined == {**earlier, "teacher 1v/4a": {"chunk_ms": 18.0, "video_ms": 8.0}}
    del earlier["gone"]
    assert student_costs.on_one_clock(earlier, later) == later
    assert student_costs.on_one_clock({}, later) == later


def test_other_learning_rates_stand_beside_their_recipe_and_nowhere_else(place):
    for name, seed, success in (
        ("swift_2d", 0, 40),
        ("swift_2d", 1, 1),
        ("swift_2d_lr_3e-4", 0, 30),
        ("swift_full", 0, 2),
    ):
        task = {"episodes": 50, "success": success, "wilson": [0, 1], "commitment": None, "multimodal": False}
        result = {
            "run": name,
            "nfe": {"action": 10},
            "sampler": "own",
            "step": 9,
            "seed": seed,
            "tasks": {"reach": task},
        }
        path = place.run(name, seed) / "evaluations" / "one.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"label": name, "kind": "student", "latency": {}, "open_loop": None, **result}))
    (place.out / "comparison").mkdir()
    students.write_rates(place)
    done = "swift_2d swift_full swift_2d_lr_3e-4"
    assert students.command(place) == f"python analysis/students.py --seeds 0 1 --only {done}"
    lines = (place.out / "comparison" / "rates.md").read_text().splitlines()
    assert "ms a chunk" not in lines[0]
    assert [line.strip(" |").split(" | ")[:5] for line in lines[2:]] == [
        ["swift_2d 10a", "10", "1", "50", "0.80 [0.67, 0.89]"],
        ["swift_2d_lr_3e-4 10a", "10", "1", "50", "0.60 [0.46, 0.72]"],
    ]


def test_without_other_learning_rates_there_is_no_table_of_them(place):
    path = place.run("swift_2d", 0) / "evaluations" / "one.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    students.write_rates(place)
    assert not (place.out / "comparison").exists()


def test_the_whole_comparison_is_one_short_command(place):
    for name in student_cells.STUDENTS:
        for seed in (0, 2):
            path = place.run(name, seed) / "evaluations" / "one.json"
            path.parent.mkdir(parents=True)
            path.touch()
    causes = [place.run(name, 0) / "metrics.jsonl" for name in student_cells.TIERS["causes"]]
    for path in causes:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert students.command(place) == "python analysis/students.py --seeds 0 2"
    causes[0].unlink()
    others = [
        name for name, cell in student_cells.STUDENTS.items() if cell.nfe or name in student_cells.TIERS["causes"]
    ]
    others.remove(causes[0].parent.name)
    assert students.command(place) == f"python analysis/students.py --seeds 0 2 --only {' '.join(others)}"
    causes[0].touch()
    other = replace(place, family="cogvideox")
    assert students.command(other) == "python analysis/students.py --family cogvideox --seeds 0 2"


@pytest.mark.parametrize("name", ["students", "cogvideox_students"])
def test_committed_tables_come_out_of_the_committed_evaluations(name, tmp_path, monkeypatch):
    monkeypatch.setattr("flashwam.report.routes.draw_routes", lambda *_: None)
    study = RESULTS / name
    folders = {result.folder for result in students.read_evaluations(study)}
    # What was tried beside the comparison is no part of it.
    folders.discard(study / "steps")
    family = "cogvideox" if name.startswith("cogvideox") else "lingbot_va"
    benchmark = tmp_path / name.replace("students", "full")
    place = student_cells.Place(out=tmp_path / "out", results=study, benchmark=benchmark, family=family)
    for run, rows in study_curves(study).items():
        _log(place.out / run.relative_to(study), rows)
    notes = students.notes(place, folders)
    write_routes(sorted(folders), out=tmp_path, routes=student_cells.ROUTES, orders=student_cells.ORDERS, notes=notes)
    for file in ("students.md", "students.json"):
        assert (tmp_path / file).read_bytes() == (study / "comparison" / file).read_bytes(), file


def test_logs_give_seconds_a_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {i}, "steps_per_second": {rate}}}\n' for i, rate in enumerate((9, 9, 9, 2, 4))))
    assert student_costs.seconds_a_step(read_metrics(path)) == pytest.approx((0.5 + 0.25) / 2)


def test_the_other_family_has_the_main_cells(place):
    other = replace(place, family="cogvideox")
    assert other.recipe("foresight", 0).name == "foresight"
    assert other.path("metaworld/foresight") == "videovla/metaworld/foresight"
    there = {name for name in student_cells.STUDENTS if other.has(name)}
    assert {"foresight_decouplers", "foresight", "foresight_one_step", "swift_full", "masked_reconstruction"} <= there
    assert "foresight_mean_pool" not in there
    assert all(place.has(name) for name in student_cells.STUDENTS)
