# SPDX-License-Identifier: Apache-2.0
"""The comparison of one-step students: its cells are recipes, its jobs can run, and what is made is told."""

import json
import re
import shutil
from types import SimpleNamespace

import pytest
from one_step import command
from one_step_cells import (
    CROSSED,
    GUIDANCE,
    GUIDED,
    SECOND_STAGE,
    STUDENTS,
    TEACHER_NFE,
    TEACHER_SEEDS,
    Place,
    draws_from,
)
from one_step_jobs import guide, one_step_jobs, time_steps
from searching import write_rate

from flashwam.evaluation.policy import load_policy
from flashwam.run.model_info import read_info
from flashwam.system.jobs import check_jobs
from flashwam.system.paths import ASSETS


@pytest.fixture(params=["lingbot_va", "cogvideox"])
def place(request, tmp_path):
    return Place(
        out=tmp_path / "runs", results=tmp_path / "results", family=request.param, settings=("data.episodes=7",)
    )


def test_every_cell_is_a_recipe_whose_settings_reach_it(place):
    write_rate(place.rate_file("naive_lcm_400"), {"lr": 0.002})
    write_rate(place.rate_file("flash_wam_400"), {"lr": 0.001})
    for name, cell in STUDENTS.items():
        if not place.has(name):
            continue
        recipe = place.recipe(name, 3, 0.5)
        seed = 3 if cell.start is None else SECOND_STAGE + 3
        assert (recipe.name, recipe.seed, recipe.distill.lr, recipe.data.episodes) == (name, seed, 0.5, 7)
        assert (recipe.streams["video"].guidance is not None) == cell.guided, cell
    assert place.recipe("naive_lcm_400", 0).distill.lr == place.recipe("naive_lcm_4000", 0).distill.lr == 0.002
    assert place.recipe("naive_lcm_4000", 0).distill.steps == 4000


def test_every_job_comes_after_those_it_needs_and_students_meet_their_teacher(place):
    names = [name for name in STUDENTS if place.has(name)]
    jobs = one_step_jobs(place, names, TEACHER_SEEDS)
    check_jobs(jobs)
    driven = {job.name for job in jobs if job.name.startswith("drive/")}
    for name in names:
        for seed in STUDENTS[name].seeds:
            for nfe in place.recipe(name, seed, 1e-3).evaluate.nfe:
                stem = nfe.replace("/", "-")
                assert nfe in TEACHER_NFE[place.family]
                assert {f"drive/{name}_{seed}_{stem}", f"drive/teacher_{seed}_{stem}"} <= driven
                assert f"drive/{GUIDED if STUDENTS[name].guided else 'teacher'}_{seed}_full" in driven


def test_a_second_set_of_scenes_is_driven_by_student_and_teacher(place):
    driven = {job.name for job in one_step_jobs(place, ["pairs"], [0, 3]) if job.name.startswith("drive/")}
    first = place.recipe("pairs", 0).evaluate.nfe[0].replace("/", "-")
    assert {f"drive/pairs_{seed}_{first}" for seed in (0, 3)} <= driven
    again = {name for name in driven if re.search(r"_10\d_", name)}
    noise = ("", *(f"_t{temperature:g}" for temperature in STUDENTS["pairs"].cooler))
    assert again == {
        f"drive/{who}_{100 + seed}_{steps}{tail}"
        for who, steps in (("pairs", first), ("teacher", "full"))
        for seed in (0, 3)
        for tail in noise
    }


@pytest.mark.parametrize(("name", "tail"), [("pairs_cooled", "t0.5"), ("pairs_cooled_actions", "action-t0")])
def test_a_student_of_cooler_draws_meets_its_teacher_as_it_drew_them(place, name, tail):
    driven = {job.name for job in one_step_jobs(place, [name], [0, 3])}
    assert {f"drive/teacher_{seed}_full{cool}" for seed in (0, 3, 100, 103) for cool in ("", f"_{tail}")} <= driven


def test_draws_are_as_warm_as_the_recipe_says(place):
    told = {name: draws_from(place.recipe(name, 0)) for name in ("pairs", "pairs_cooled", "pairs_cooled_actions")}
    assert told == {"pairs": None, "pairs_cooled": 0.5, "pairs_cooled_actions": {"action": 0.0}}


def test_students_are_crossed_with_their_teacher_where_all_of_them_are_made(place):
    def crossing(names):
        return [job for job in one_step_jobs(place, names, [0]) if job.name == "cross"]

    (job,) = crossing(CROSSED)
    assert job.after == tuple(f"make/{name}_0" for name in CROSSED)
    assert not crossing(CROSSED[:-1])


def test_streams_that_are_drawn_together_are_not_crossed(place, monkeypatch):
    together = SimpleNamespace(wam=SimpleNamespace(stages=(("video", "action"),)))
    monkeypatch.setattr("flashwam.demo.work.load_policy", lambda folder: together)
    (job,) = [job for job in one_step_jobs(place, CROSSED, [0]) if job.name == "cross"]
    job.function(**job.kwargs)
    assert not (place.out / "comparison").exists()


@pytest.mark.parametrize("name", STUDENTS)
def test_a_cell_alone_has_all_that_it_needs(place, name):
    if place.has(name):
        check_jobs(one_step_jobs(place, [name], [0]))


def test_the_guided_cells_have_a_teacher_of_their_own_that_differs_in_its_scale_alone(tmp_path):
    place = Place(out=tmp_path / "runs", results=tmp_path / "results")
    plain = ASSETS / "teacher"
    shutil.copytree(plain, place.demo.teacher)
    guide(place)
    told, theirs = (read_info(folder) for folder in (place.guided_teacher, plain))
    low, high = place.recipe("naive_lcm_guided_400", 0, 1e-3).streams["video"].guidance
    assert low < told["streams"]["video"].pop("guidance_scale") < high
    assert theirs["streams"]["video"].pop("guidance_scale") == 1
    assert told.pop("name") != theirs.pop("name")
    assert told == theirs
    assert load_policy(place.guided_teacher).samplers("full")["video"].guidance_scale == GUIDANCE
    for name in ("naive_lcm_guided_400", "naive_lcm_400"):
        recipe = place.recipe(name, 0, 1e-3)
        assert recipe.wam.pretrained == str(place.guided_teacher if STUDENTS[name].guided else place.demo.teacher)
        assert recipe.streams["video"].guidance_scale == (GUIDANCE if STUDENTS[name].guided else 1)


def test_the_teacher_is_timed_at_every_number_of_steps_last_and_alone(tmp_path):
    place = Place(out=tmp_path / "runs", results=tmp_path / "results")
    last = one_step_jobs(place, ["pairs"], [0])[-1]
    assert (last.function, last.cores) == (time_steps, 2)
    shutil.copytree(ASSETS / "teacher", place.demo.teacher)
    time_steps(place, rounds=1)
    timed = json.loads((place.out / "comparison" / "latency.json").read_text())
    labels = {"full": "10v/10a"}
    for name in ("teacher", "pairs", "flash_wam_400"):
        told = [label for label in timed if label.startswith(f"{name} ")]
        assert told == [f"{name} {labels.get(nfe, nfe)}" for nfe in TEACHER_NFE["lingbot_va"]]
    assert timed["pairs 1v/2a"] == timed["teacher 1v/2a"] != timed["pairs 1v/1a"]


def test_guided_cells_and_the_others_are_compared_apart(place):
    for run in [place.run("naive_lcm_guided_400", 1), place.guided_teacher.parent, place.run("naive_lcm_400", 1)]:
        (run / "evaluations").mkdir(parents=True)
        (run / "evaluations" / "step1_1v-1a_own_seed0.json").write_text("{}")
    apart, others = ({run.name for run in place.evaluated(guided=guided)} for guided in (True, False))
    assert (apart, others) == ({"naive_lcm_guided_400_seed1", "teacher_guided"}, {"naive_lcm_400_seed1"})


def test_the_command_names_what_there_is(place):
    for seed in (0, 2):
        folder = place.run("pairs", seed) / "evaluations"
        folder.mkdir(parents=True)
        (folder / "step1_1v-1a_own_seed0.json").write_text(json.dumps({}))
    family = "" if place.family == "lingbot_va" else " --family cogvideox"
    assert command(place) == (f"python analysis/one_step.py{family} --only pairs --seeds 0 2 --set data.episodes=7")
