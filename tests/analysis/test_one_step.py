# SPDX-License-Identifier: Apache-2.0
"""The comparison of one-step students: its cells are recipes, its jobs can run, and what is made is told."""

import json

import pytest
from one_step import command
from one_step_cells import SECOND_STAGE, STUDENTS, TEACHER_NFE, TEACHER_SEEDS, Place
from one_step_jobs import one_step_jobs
from searching import write_rate

from flashwam.system.jobs import check_jobs


@pytest.fixture(params=["lingbot_va", "cogvideox"])
def place(request, tmp_path):
    return Place(
        out=tmp_path / "runs", results=tmp_path / "results", family=request.param, settings=("data.episodes=7",)
    )


def test_every_cell_is_a_recipe_whose_settings_reach_it(place):
    write_rate(place.rate_file("naive_lcm_400"), {"lr": 0.002})
    for name, cell in STUDENTS.items():
        if not place.has(name):
            continue
        recipe = place.recipe(name, 3, 0.5)
        seed = 3 if cell.start is None else SECOND_STAGE + 3
        assert (recipe.name, recipe.seed, recipe.distill.lr, recipe.data.episodes) == (name, seed, 0.5, 7)
        assert recipe.streams["video"].guidance is None, cell
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
                assert f"drive/teacher_{seed}_full" in driven


def test_the_command_names_what_there_is(place):
    for seed in (0, 2):
        folder = place.run("pairs", seed) / "evaluations"
        folder.mkdir(parents=True)
        (folder / "step1_1v-1a_own_seed0.json").write_text(json.dumps({}))
    family = "" if place.family == "lingbot_va" else " --family cogvideox"
    assert command(place) == (f"python analysis/one_step.py{family} --only pairs --seeds 0 2 --set data.episodes=7")
