# SPDX-License-Identifier: Apache-2.0
"""The study of the miniature on LIBERO: its cells can run, in the same scenes for everybody."""

import pytest
from libero_study import CELLS, SHIPPED, Place, libero_jobs

from flashwam.core.steps import parse_nfe
from flashwam.run.folder import RunFolder
from flashwam.run.model_info import ModelInfo
from flashwam.sim.simulators import get_task
from flashwam.system.jobs import check_jobs


@pytest.fixture
def place(tmp_path):
    return Place(out=tmp_path / "runs", results=tmp_path / "results")


def test_everybody_is_driven_in_the_scenes_of_every_seed(place):
    jobs = libero_jobs(place, list(CELLS.students), CELLS.seeds)
    check_jobs(jobs)
    cooler = [job.kwargs for job in jobs if "sampler" in job.kwargs]
    drives = [job.kwargs for job in jobs if "nfe" in job.kwargs and "sampler" not in job.kwargs]
    driven = [(told["checkpoint"], told["seed"], told["nfe"]) for told in drives]
    assert {(told["checkpoint"], told["seed"], told["nfe"]) for told in cooler} <= set(driven)
    assert {"teacher", "pairs"} <= set(CELLS.cooler) <= {"teacher", *CELLS.students}
    assert len(cooler) == len(CELLS.seeds) * sum(map(len, CELLS.cooler.values()))
    assert not {told["out"] for told in cooler} & {RunFolder(run).evaluations for run in place.demo.evaluated}
    each = len(CELLS.teacher) + sum(map(len, CELLS.students.values()))
    assert len(set(driven)) == len(driven) == len(CELLS.seeds) * each
    assert {(place.demo.teacher, seed, nfe) for seed in CELLS.seeds for nfe in CELLS.teacher} <= set(driven)
    assert set(place.study.made_again) <= {job.name for job in jobs}


def test_recipes_differ_in_the_method_alone_and_have_both_kinds_of_tasks(place):
    recipes = {name: place.recipe(name, 1) for name in ("teacher", *CELLS.students)}
    assert len({str(recipe.data) for recipe in recipes.values()}) == 1
    assert all(
        recipe.wam.pretrained == str(place.demo.teacher) for name, recipe in recipes.items() if name != "teacher"
    )
    tasks = [get_task(name) for name in recipes["teacher"].data.tasks]
    assert sum(not task.multimodal for task in tasks) >= 8
    assert any(task.multimodal for task in tasks)
    for nfe in ("full", *(nfe for each in CELLS.students.values() for nfe in each)):
        assert nfe == "full" or parse_nfe(nfe, ("video", "action"))


def test_the_shipped_teacher_is_taken_unless_one_is_trained(place):
    (taken,) = (job for job in libero_jobs(place, [], [0]) if job.name == "teacher")
    taken.function(**taken.kwargs)
    weights = "transformer/diffusion_pytorch_model.safetensors"
    assert (place.demo.teacher / weights).read_bytes() == (SHIPPED / weights).read_bytes()
    told = ModelInfo.read(place.demo.teacher).recipe
    assert told.data.root == str(place.demo.data_root)
    (trained,) = (job for job in libero_jobs(place, [], [0], from_scratch=True) if job.name == "teacher")
    assert trained.weight > 100 * taken.weight
