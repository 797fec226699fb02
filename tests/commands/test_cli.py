# SPDX-License-Identifier: Apache-2.0
import json
import sys
from pathlib import Path

import pytest

from flashwam.cli import main
from flashwam.recipe.load import load_recipe
from flashwam.run.folder import prepare_run
from flashwam.system.paths import ASSETS

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
PARAMETERS = {
    "lingbot_va/libero_small": "1,377,639",
    "lingbot_va": "5,088,872,670",
    "svam": "5,088,872,670",
    "swiftvla/metaworld/smolvla": "2,140,196",
    "swiftvla/metaworld": "1,605,508",
    "metaworld": "1,376,868",
    "videovla/metaworld": "1,283,940",
    "videovla/cogvideox_2b": "1,695,920,839",
    "videovla/cogvideox_5b": "5,573,702,215",
    "videovla/robot/teacher": "5,573,708,359",
    "videovla/robot": "5,584,927,303",
}
"""Beginning of a recipe's name -> parameters of its model."""
UNPLANNED = (
    "metaworld/masked_reconstruction",
    "metaworld/masked_reconstruction_2d",
    "swiftvla/libero/2d",
    "swiftvla/libero/full",
    "swiftvla/libero/one_step",
    "swiftvla/smolvla_500m",
    "videovla/metaworld/masked_reconstruction",
    "videovla/metaworld/masked_reconstruction_2d",
)
"""Recipes of models with another trained model inside."""
SHIPPED = {str(path.relative_to(RECIPES).with_suffix("")): path for path in sorted(RECIPES.rglob("*.yaml"))}
COMMANDS = [
    "demo",
    "collect",
    "convert",
    "check",
    "import",
    "plan",
    "train",
    "pairs",
    "distill",
    "evaluate",
    "record",
    "serve",
    "analyze",
    "compare",
    "info",
]


def run(capsys, *arguments):
    try:
        status = main(list(arguments))
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def plan_of(text):
    lines = [line.removeprefix("#   ") for line in text.splitlines() if line.startswith("#   ")]
    return {line[: line.index("  ")]: line[line.index("  ") :].strip() for line in lines}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_with_examples(capsys, command):
    status, out, _ = run(capsys, command, "--help")
    assert status == 0
    assert "examples:" in out
    assert f"flashwam {command}" in out.partition("examples:")[2]


def test_help_lists_every_command(capsys):
    status, out, _ = run(capsys, "--help")
    assert status == 0
    assert all(f"\n    {command} " in out for command in COMMANDS)


@pytest.mark.parametrize("name", UNPLANNED)
def test_a_model_with_another_inside_is_planned_once_that_is_there(capsys, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    command = "distill" if load_recipe(SHIPPED[name]).distill else "train"
    status, _, err = run(capsys, command, str(SHIPPED[name]), "--dry-run")
    assert status == 2
    assert "is missing" in err


@pytest.mark.parametrize("name", [name for name in SHIPPED if name not in UNPLANNED])
def test_every_shipped_recipe_can_be_planned(capsys, tmp_path, monkeypatch, name):
    path = SHIPPED[name]
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(path)
    small = ["train.batch_size=2"] + (["distill.batch_size=2"] if recipe.distill else [])
    command = "distill" if recipe.distill and path.stem != "base" else "train"
    size = ["wam.config.latent_size=[8,16]", "wam.config.chunk_frames=4"] if path.stem == "base" else []
    size += ["wam.config.actions_per_frame=4", "wam.config.window_chunks=30"] if path.stem == "base" else []
    status, out, err = run(capsys, command, str(path), "--dry-run", *small, *size)
    assert status == 0, err
    plan = plan_of(out)
    assert plan["parameters"] == next(count for start, count in PARAMETERS.items() if name.startswith(start))
    assert ("stored" in plan["time"]) or ("measured" in plan["time"])
    # What a dry run prints is the recipe itself, and nothing was written.
    (tmp_path / "printed.yaml").write_text(out)
    assert load_recipe(tmp_path / "printed.yaml") == load_recipe(path, [*small, *size])
    assert [p.name for p in tmp_path.iterdir()] == ["printed.yaml"]


def test_plan_of_a_collection_counts_episodes(capsys):
    status, out, _ = run(
        capsys, "collect", "teacher", "data.tasks=[drawer-open,reach-wall]", "--dry-run", "data.episodes=7"
    )
    assert status == 0
    assert plan_of(out)["episodes"] == "407: drawer-open 7, reach-wall 400"
    # None of it is made by collecting.
    assert "autoencoder" not in plan_of(out)
    assert plan_of(out)["later"].startswith("a training makes an autoencoder, 1500 steps")


def test_plan_counts_every_copy_of_the_weights(capsys):
    _, out, _ = run(
        capsys, "distill", "libero/flash_wam", "--dry-run", "distill.strategy=single", "distill.precision=no"
    )
    billions = 5_088_872_670 * 4 * (1 + 1 + 2 + 1 + 1) / 2**30  # weights, gradients, AdamW's two, target, teacher
    assert plan_of(out)["memory"].startswith(f"{billions:.1f} GiB")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", "no_such_recipe"], ["no recipe", "metaworld/teacher"]),
        (["train", "teacher", "train.stpes=5"], ["did you mean 'steps'"]),
        (["train", "teacher", "train.steps=0"], ["at least 1"]),
        (["train", "teacher", "wam.config.num_layer=2"], ["wam.config.num_layer", "did you mean 'num_layers'"]),
        (["train", "teacher", "train.options.text_dropuot=0"], ["train.options", "did you mean 'text_dropout'"]),
        (["train", "teacher", "train.method=flow_maching"], ["train.method", "flow_matching"]),
        (["train", "teacher", "wam.family=lingbot"], ["wam.family", "lingbot_va"]),
        (["train", "lingbot_va/base"], ["wam.config", "latent_size", "missing"]),
        (["distill", "teacher", "--dry-run"], ["no distill section"]),
        (["collect", "libero/flash_wam"], ["nothing to collect"]),
        (["info", "no/such/folder"], ["no/such/folder", "no such folder"]),
        (["evaluate", "no/such/folder"], ["no/such/folder"]),
        (
            ["evaluate", str(ASSETS / "teacher"), "--nfe", "\u00b2v/1a"],
            ["steps must read like '1v/1a'", "\u00b2v/1a"],
        ),
    ],
)
def test_users_errors_are_one_line_and_exit_2(capsys, arguments, told):
    status, _, err = run(capsys, *arguments)
    assert status == 2
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "Traceback" not in err
    for part in told:
        assert part in last


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("evaluate /nope/x", "there is no such folder; expected a teacher, a student or their run"),
        ("evaluate file", "it is a file"),
        ("evaluate data/towel", "it is a data set, not a model"),
        ("evaluate begun", "a run that has no result yet"),
        ("evaluate empty", "it holds nothing"),
        ("serve data", "it is a data set, not a model"),
        ("serve other", "--preset robotwin"),
        ("info file", "is a file; give the folder it is in"),
        ("info data/towel", "is a data set"),
        ("compare empty", "is no run folder"),
        ("train /nope/x.yaml", "there is no such file or run folder"),
        ("train empty", "is a folder without recipe.yaml"),
        ("train libero/flash_wm", "did you mean libero/flash_wam"),
        ("distill teacher", "it has no distill section"),
        ("distill flash_wam", "wam.pretrained: runs/teacher/teacher: no such folder. Train it first"),
        ("distill flash_wam wam.pretrained=null", "wam.pretrained names no teacher"),
        ("distill flash_wam wam.pretrained=file", "is a file, not a model's folder"),
        ("distill flash_wam wam.pretrained=empty distill.init=nope", "distill.init: nope: no such folder"),
        ("train teacher wam.pretrained=nope", "wam.pretrained: nope: no such folder"),
        ("train teacher autoencoder.pretrained=nope", "autoencoder.pretrained: nope: no such folder"),
        ("train teacher --run-dir data", "exists but is no run folder"),
        ("convert data out --recipe flash_wam", "whose episodes `flashwam collect` makes"),
        ("convert nope out --recipe libero/flash_wam", "nope: no such folder; expected one with raw LeRobot data sets"),
        ("convert data out --recipe libero/flash_wam wam.pretrained=nope", "wam.pretrained must name a checkpoint"),
        ("check libero/flash_wam data.root=nope", "nope: no such folder; data.root is where"),
        ("check libero/flash_wam data.root=data", "encode the episodes first (flashwam convert RAW OUT)"),
        ("import empty out --family cogvideox", "is a folder"),
        ("import file out --family cogvideox", "no checkpoint that torch reads"),
    ],
)
def test_an_error_points_to_the_remedy_before_anything_is_made(capsys, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    for name in ("data/towel/meta/info.json", "begun/recipe.yaml", "other/transformer/config.json"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    status, _, err = run(capsys, *arguments.split())
    assert status == 2, err
    assert told in err.strip().splitlines()[-1]
    assert sorted(tmp_path.rglob("*")) == before


def test_wrong_arguments_exit_2_and_name_them(capsys):
    for arguments, told in (
        (["distil", "x"], "invalid choice"),
        (["train", "teacher", "--dry-rum"], "--dry-rum"),
        (["train", "teacher", "--dry-run", "no-equals-sign"], "no-equals-sign"),
        (["info", ".", "a=b"], "a=b"),
        (["evaluate", "x", "--episodes", "0"], "at least 1"),
        (["evaluate", "x", "--episodes", "\u00b2"], "at least 1"),
    ):
        status, _, err = run(capsys, *arguments)
        assert status == 2
        assert told in err


def test_debug_shows_the_traceback():
    with pytest.raises(FileNotFoundError, match="no recipe"):
        main(["train", "no_such_recipe", "--debug"])


def test_an_error_that_is_not_the_users_is_not_hidden(monkeypatch):
    def broken(path):
        return int("seven")

    monkeypatch.setattr("flashwam.commands.describe.describe", broken)
    with pytest.raises(ValueError, match="seven"):
        main(["info", "."])


def test_interrupt_says_how_to_resume_and_exits_130(capsys, monkeypatch):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("flashwam.commands.describe.describe", interrupted)
    status, _, err = run(capsys, "info", ".")
    assert status == 130
    assert "resumes" in err


def test_overrides_may_follow_options(capsys, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        "flashwam.pipeline.training.distill", lambda recipe, run_dir, **_: seen.update(recipe=recipe, run_dir=run_dir)
    )
    status, _, _ = run(capsys, "distill", "flash_wam", "seed=1", "--run-dir", "there", "distill.steps=9")
    assert status == 0
    assert (seen["recipe"].seed, seen["recipe"].distill.steps, seen["run_dir"]) == (1, 9, Path("there"))


def test_evaluate_passes_everything_on(capsys, monkeypatch):
    seen = {}

    def evaluate(checkpoint, **options):
        seen.update(options, checkpoint=checkpoint)
        return [{"run": "x", "nfe": {"video": 1, "action": 1}, "tasks": {}, "overall": {"episodes": 4, "success": 3}}]

    monkeypatch.setattr("flashwam.evaluation.local.evaluate", evaluate)
    arguments = [
        "evaluate",
        "here",
        "--episodes",
        "4",
        "--nfe",
        "1v/1a",
        "--nfe",
        "1v/2a",
        "--tasks",
        "a,b",
        "--plain-euler",
    ]
    status, out, _ = run(capsys, *arguments)
    assert status == 0
    assert seen == {
        "checkpoint": Path("here"),
        "episodes": 4,
        "nfe": ("1v/1a", "1v/2a"),
        "tasks": ("a", "b"),
        "plain_euler": True,
        "seed": None,
        "out": None,
    }
    assert "x 1v/1a" in out
    assert "0.750  [0.301, 0.954]" in out
    status, out, _ = run(capsys, "evaluate", "here", "--json", "-")
    assert json.loads(out)[0]["overall"]["success"] == 3


def test_analyze_prints_the_known_values(capsys, tmp_path):
    status, out, _ = run(capsys, "analyze", "flash_wam", "--json", "-", "--out", str(tmp_path))
    assert status == 0
    streams = json.loads(out)["streams"]
    assert streams["video"]["median"] == pytest.approx(5 / 6)
    assert streams["action"]["median"] == pytest.approx(1 / 2)
    known = {("video", "lcm"): 0.114, ("video", "linear"): 0.617, ("action", "lcm"): 0.055, ("action", "linear"): 0.333}
    for (stream, function), value in known.items():
        found = streams[stream]["functions"][function]["mean_squared_gradient_scale"]
        assert found == pytest.approx(value, abs=1e-3)
    status, out, _ = run(capsys, "analyze", "libero/flash_wam_shift", "--out", str(tmp_path / "text"))
    assert status == 0
    rows = [line.split() for line in out.splitlines()]
    squares = {row[-4].strip("*"): float(row[-2]) for row in rows[3:5]}
    assert squares == {"lcm": pytest.approx(0.0052, abs=1e-4), "linear": pytest.approx(0.041, abs=1e-3)}
    assert (tmp_path / "text" / "schedule.html").is_file()
    for line in (
        "video at sigma 1: starts as 0.45 x0 + 0.20 eps (lcm); 36% of the training samples near it; 2 hops to the data, "
        "2 teacher steps",
        "action at sigma 1: starts as x0 (linear); 0.55% of the training samples near it; 2 hops to the data, "
        "2 teacher steps",
    ):
        assert line in out
    assert "warning: action: only 0.55% of the training samples" in out


def test_a_run_folder_is_a_recipe(capsys, tmp_path):
    folder = prepare_run(load_recipe("flash_wam", ["seed=5"]), tmp_path / "run")
    status, out, _ = run(capsys, "distill", str(folder), "--dry-run", "distill.batch_size=1")
    assert status == 0
    assert "seed: 5" in out


def test_compare_prints_table_verdict_and_page(capsys, monkeypatch, tmp_path):
    seen = {}

    def compare(runs, *, out):
        seen.update(runs=runs, out=out)
        waited = {"rows": [{}], "table": "model success", "verdict": ["naive loses."]}
        return {**waited, "real_time": [], "recordings": [], "page": str(out / "compare.html")}

    monkeypatch.setattr("flashwam.report.compare.compare", compare)
    status, out, _ = run(capsys, "compare", "a", "b", "--out", str(tmp_path))
    assert status == 0
    assert seen == {"runs": [Path("a"), Path("b")], "out": tmp_path}
    assert out.splitlines() == ["model success", "naive loses.", f"page: {tmp_path / 'compare.html'}"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("analyze flash_wam wam.config.windowchunks=3", "did you mean 'window_chunks'"),
        ("analyze flash_wam distill.options.weigth=1", "distill.options.weigth: unknown key"),
        ("pairs flash_wam --dry-run", "learns from no stored pairs"),
        ("distill flash_wam distill.trackers=[swanlab] --dry-run", "swanlab needs its package"),
        ("plan flash_wam streams.vidoe.weight=0", "did you mean 'video'"),
        ("evaluate TEACHER --device cpu", "in the simulator a model runs on the CPU"),
        ("evaluate TEACHER --dtype bfloat16", "add --recordings"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(capsys, tmp_path, monkeypatch, command, said):
    monkeypatch.chdir(tmp_path)
    # A name in sys.modules that is None cannot be imported, whatever is installed.
    monkeypatch.setitem(sys.modules, "swanlab", None)
    status, out, err = run(capsys, *command.replace("TEACHER", str(ASSETS / "teacher")).split())
    assert status == 2
    assert said in err
    assert not out
    assert not list(tmp_path.iterdir())
