# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from synthetic import evaluation, write

from flashwam.distillation.methods import METHODS, find_method
from flashwam.recipe import load_recipe
from flashwam.recipe.build import plain
from flashwam.recipe.load import to_yaml
from flashwam.report.compare import compare, gather
from flashwam.report.methods_page import method_line, methods_section
from flashwam.report.recipes import run_recipe
from flashwam.report.study import study_recipes
from flashwam.report.verdict import verdict


def trained(folder, name, result, overrides=()):
    run = write(folder, result)
    (run / "recipe.yaml").write_text(to_yaml(load_recipe(f"metaworld/{name}", [f"name={name}", *overrides])))
    return run


def test_the_page_says_of_every_method_what_it_is_and_how_it_was_trained(tmp_path):
    runs = [
        trained(tmp_path / f"pairs_{seed}", "pairs", evaluation("pairs", seed=seed), ["distill.steps=4000"])
        for seed in range(2)
    ]
    runs.append(trained(tmp_path / "cooled", "pairs_cooled", evaluation("pairs_cooled")))
    runs.append(trained(tmp_path / "flash", "flash_wam", evaluation("flash_wam"), ["distill.accumulation=2"]))
    cooler = ["streams.action.teacher_temperature=0"]
    runs.append(trained(tmp_path / "drawn", "on_policy", evaluation("on_policy"), cooler))
    runs.append(write(tmp_path / "untold", evaluation("untold")))
    compare(runs, out=tmp_path / "out")
    rows = gather(runs, tmp_path / "out")[0]
    (table,) = methods_section(rows).tables
    told = {cells[0]: cells[1:] for cells in table.rows}
    assert set(told) == {"pairs", "pairs_cooled", "flash_wam", "on_policy"}
    line, trainings, steps, batch, rate = told["pairs"]
    assert line.startswith("learns the teacher's own draws from the same noise")
    assert line.endswith("video and action: linear")
    assert told["pairs_cooled"][0] == f"{line}, which the teacher draws from 0.5 times the noise"
    assert told["on_policy"][0].endswith("action: linear, which the teacher draws from 0 times the noise")
    loop = load_recipe("metaworld/pairs").distill
    assert (trainings, steps, batch) == ("2", "4,000", str(loop.batch_size))
    assert rate == f"{loop.lr:g}, {loop.lr_decay}"
    assert "video: lcm, guided teacher, 2 jumps of 1 teacher step; action: linear" in told["flash_wam"][0]
    assert "flow matching on the data, weight 0.2" in told["flash_wam"][0]
    assert told["flash_wam"][3] == str(2 * load_recipe("metaworld/flash_wam").distill.batch_size)
    assert "What was trained, and how long" in (tmp_path / "out" / "compare.html").read_text()


@pytest.mark.parametrize(
    ("name", "changes", "told", "untold"),
    [
        (
            "pairs_dmd2_video",
            [],
            "video: linear, drawn to the teacher's distribution, its pairs, weight 0.25; action: linear",
            "flow matching on the data",
        ),
        ("pairs", ["streams.video.guidance_scale=3"], "video: linear, guided teacher; action: linear", ""),
        ("flash_wam", [], "video: lcm, guided teacher, 2 jumps", "action: linear, guided teacher"),
        ("flash_wam", ["streams.video.guidance=null", "streams.video.guidance_scale=5"], "video: lcm, 2", "guided"),
    ],
)
def test_a_line_says_what_a_method_reads(name, changes, told, untold):
    recipe = plain(load_recipe(f"metaworld/{name}", changes))
    line = method_line(recipe, recipe["distill"])
    assert told in line
    assert not untold or untold not in line


def test_trainings_that_differ_show_each_setting(tmp_path):
    runs = [
        trained(tmp_path / f"best_{seed}", "best", evaluation("best", seed=seed), [f"distill.steps={400 + 200 * seed}"])
        for seed in range(2)
    ]
    (table,) = methods_section(gather(runs, tmp_path / "out")[0]).tables
    assert table.rows[0][3] == "400 or 600"


def test_without_a_recipe_there_is_no_such_section(tmp_path):
    run = write(tmp_path / "flash", evaluation("flash"))
    assert run_recipe(run) is None
    assert methods_section(gather([run], tmp_path / "out")[0]) is None


def test_a_lone_model_and_a_study_tell_their_recipes(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "flashwam.json").write_text(json.dumps({"recipe": {"name": "alone"}}))
    assert run_recipe(model) == {"name": "alone"}
    study = tmp_path / "study"
    study.mkdir()
    (study / "evaluations.jsonl").touch()
    assert study_recipes(study) == {}
    (study / "recipes.jsonl").write_text(json.dumps({"run": "runs/a", "recipe": {"name": "a"}}) + "\n")
    assert run_recipe(study / "runs" / "a") == {"name": "a"}
    (study / "recipes.jsonl").write_text("[]\n")
    with pytest.raises(ValueError, match=r"recipes\.jsonl, line 1: expected a \"run\""):
        study_recipes(study)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_told_in_a_line(name):
    assert 10 < len(find_method(name).in_a_line) < 100


def test_a_stream_that_learnt_from_less_noise_has_not_collapsed(tmp_path):
    teacher = write(tmp_path / "teacher", evaluation("teacher", nfe=(10, 20), rates=0.96))
    varied = {"video_variance_ratio": 0.9, "action_variance_ratio": 0.2}
    for name, named in (("pairs", True), ("pairs_cooled_actions", False)):
        run = trained(tmp_path / name, name, evaluation(name, rates=0.4, open_loop=varied))
        told = [s for s in verdict(gather([teacher, run], tmp_path / "out")[0]) if "falls short of its teacher" in s]
        assert len(told) == 1
        assert ("the action stream has collapsed, its draws vary 0.20 times" in told[0]) is named
