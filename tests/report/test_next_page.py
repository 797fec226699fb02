# SPDX-License-Identifier: Apache-2.0
import json
import shlex

import pytest
from synthetic import evaluation, write
from test_real_time_page import keep, late

from flashwam.recipe.build import plain
from flashwam.recipe.load import load_recipe, to_yaml
from flashwam.report.compare import compare, gather
from flashwam.report.next_page import next_section
from flashwam.report.shipped import distill_command


def test_the_last_section_goes_on_with_the_best_student(tmp_path):
    best = write(tmp_path / "runs" / "a b", evaluation("best", rates=0.9), metrics=[{"step": 1}])
    other = write(tmp_path / "runs" / "other", evaluation("other", rates=0.2))
    (best / "recipe.yaml").touch()
    (best / "student").mkdir()
    (best / "student" / "flashwam.json").touch()
    serve, again, why = next_section(gather([best, other], tmp_path / "out")[0]).notes
    assert f"`flashwam serve '{best}/student'`" in serve
    assert f"`flashwam distill '{best}' seed=1 run_dir='{best}_seed1'`" in again
    assert f"`flashwam analyze '{best}' --checkpoint '{best}'`" in why


@pytest.mark.parametrize(
    ("trained", "others", "seed"), [([1], [], 0), ([0], [], 1), ([0, 1], [], 2), ([0, 2], [], 1), ([1], [0], 2)]
)
def test_another_training_is_of_a_seed_that_none_had(trained, others, seed, tmp_path):
    runs = []
    for number in trained:
        runs.append(write(tmp_path / f"pairs_seed{number}", evaluation("pairs", training_seed=number)))
        (runs[-1] / "recipe.yaml").write_text(f"seed: {number}")
    for number in others:
        (tmp_path / f"pairs_seed{number}").mkdir()
    (again,) = next_section(gather(runs, tmp_path / "out")[0]).notes
    assert f"flashwam distill {runs[0]} seed={seed} run_dir={tmp_path / f'pairs_seed{seed}'}`" in again


def test_a_model_alone_is_served_where_it_lies(tmp_path):
    model = write(tmp_path / "model", evaluation("alone"))
    (model / "flashwam.json").write_text("{}")
    (serve,) = next_section(gather([model], tmp_path / "out")[0]).notes
    assert f"`flashwam serve {model}`" in serve


def study_of(folder, recipe, *results, command=""):
    """A study of one run, which tells its recipe."""
    folder.mkdir()
    lines = [json.dumps({"file": f"runs/it/evaluations/{k}.json", **result}) for k, result in enumerate(results)]
    (folder / "evaluations.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "recipes.jsonl").write_text(json.dumps({"run": "runs/it", "recipe": plain(recipe)}) + "\n")
    (folder / "about.json").write_text(json.dumps({"command": command}))
    return folder


@pytest.mark.parametrize(
    ("name", "settings", "command"),
    [
        ("metaworld/pairs", ["data.root=elsewhere", "distill.keep_steps=[0]", "evaluate.seed=4"], "pairs"),
        ("libero_small/naive_lcm", ["name=naive_lcm"], "libero_small/naive_lcm"),
        ("videovla/metaworld/on_policy", ["name=on_policy"], "videovla/metaworld/on_policy"),
        (
            "videovla/metaworld/on_policy",
            ["name=on_policy_1500", "distill.steps=1500", "wam.config={}"],
            "videovla/metaworld/on_policy name=on_policy_1500 distill.steps=1500",
        ),
        ("swiftvla/metaworld/one_step", ["wam.pretrained=runs/b/teacher"], "wam.pretrained=runs/b/teacher"),
        ("swiftvla/metaworld/one_step", ["wam.pretrained=a/b/swift_full/teacher"], "metaworld/one_step"),
    ],
)
def test_a_run_is_made_again_from_the_recipe_that_made_it(name, settings, command):
    told = distill_command(plain(load_recipe(name, settings)))
    assert told.startswith("flashwam distill ")
    assert told.endswith(f" {command}")
    name, *settings = shlex.split(told)[2:]
    assert distill_command(plain(load_recipe(name, settings))) == told


def test_settings_of_streams_are_told_whole():
    made = [
        "name=distill_small",
        "streams.action.consistency={name: lcm, sigma_data: 0.25}",
        "streams.video.guidance=null",
    ]
    recipe = load_recipe("metaworld/distill", made)
    told = distill_command(plain(recipe))
    name, *settings = shlex.split(told)[2:]
    again = load_recipe(name, settings)
    assert (again.name, again.streams, again.distill) == (recipe.name, recipe.streams, recipe.distill)


@pytest.mark.parametrize(
    "told",
    [
        {"name": "alone"},
        {"name": "old", "streams": {}, "wam": {"size": 3}},
        plain(load_recipe("metaworld/teacher")),
        {**plain(load_recipe("metaworld/pairs")), "wam": {"family": "someone.else:Model", "config": {}}},
        {**plain(load_recipe("metaworld/pairs")), "distill": {"method": "pairs", "options": {"steps": 3}, "lr": -1}},
    ],
)
def test_what_no_recipe_at_hand_makes_has_no_command(told):
    assert distill_command(told) is None


def test_a_study_tells_how_its_best_run_and_all_of_it_are_made_again(tmp_path):
    recipe = load_recipe("libero_small/naive_lcm", ["name=naive_lcm"])
    study = study_of(tmp_path / "study", recipe, evaluation("naive_lcm"), command="python analysis/it.py")
    compare([study], out=tmp_path / "out")
    text = (tmp_path / "out" / "compare.html").read_text()
    assert "Train naive_lcm yourself: <code>flashwam distill libero_small/naive_lcm</code>" in text
    assert "<code>python analysis/it.py</code>" in text


def test_a_name_alone_says_nothing_of_the_recipe(tmp_path):
    rows = gather([write(tmp_path / "pairs", evaluation("pairs"))], tmp_path / "out")[0]
    assert next_section(rows) is None
    assert next_section(rows, ["`x`"]).notes == ["`x`"]


def test_runs_of_worlds_that_do_not_wait_say_how_they_were_made_and_what_is_next(tmp_path):
    runs = [keep(tmp_path / "it", late("pairs", ms=5, won=9)), keep(tmp_path / "b", late("best", ms=5, won=2))]
    for run, name in zip(runs, ("pairs", "best"), strict=True):
        (run / "recipe.yaml").write_text(to_yaml(load_recipe(f"metaworld/{name}")))
    compare(runs, out=tmp_path / "out")
    text = (tmp_path / "out" / "compare.html").read_text()
    assert "What was trained, and how long" in text
    assert "learns the teacher's own draws from the same noise" in text.replace("&#x27;", "'")
    assert (
        f"Train pairs from another seed, since only several trainings order methods: <code>flashwam distill {runs[0]} seed=1"
        in text
    )
    assert "tables above" not in text
