# SPDX-License-Identifier: Apache-2.0
import re
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from flashwam.core.consistency import LCM, Linear
from flashwam.core.noise import NoiseSchedule
from flashwam.core.streams import StreamSpec
from flashwam.core.vp import VPSchedule
from flashwam.recipe.load import differences, find_recipe, load_recipe, read_overrides, to_yaml
from flashwam.recipe.sections import DataConfig, LoopConfig, LoraConfig, PathText, Recipe
from flashwam.run.folder import prepare_run, run_folder
from flashwam.wam.lingbot_va import LingBotConfig
from flashwam.wam.lingbot_va.presets import preset

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SHIPPED = sorted(RECIPES.rglob("*.yaml"))
COMMON = ["metaworld/distill", "lingbot_va/libero/base", "lingbot_va/robotwin/base"]
LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 8)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
)
METHODS = ["flash_wam", "naive_lcm", "video_only", "video_only_reg", "linear_both", "best"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipe_survives_a_round_trip(path, tmp_path):
    recipe = load_recipe(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(to_yaml(recipe))
    assert load_recipe(copy) == recipe
    assert not differences(load_recipe(copy), recipe)


@pytest.mark.parametrize("base", COMMON)
@pytest.mark.parametrize("name", METHODS)
def test_methods_differ_in_streams_alone(name, base):
    recipe = load_recipe(Path(base).parent / name)
    changed = differences(recipe, load_recipe(base), ignore=("name", "evaluate.nfe"))
    assert changed or name == "linear_both"
    assert all(key.startswith("streams.") for key in changed), changed


@pytest.mark.parametrize("base", COMMON)
@pytest.mark.parametrize("name", ["on_policy", "tacd"])
def test_others_differ_in_streams_and_method_alone(name, base):
    changed = differences(load_recipe(Path(base).parent / name), load_recipe(base), ignore=("name",))
    assert all(key.startswith(("streams.", "distill.method", "distill.options")) for key in changed), changed


@pytest.mark.parametrize("base", [*COMMON, "videovla/metaworld/distill"])
def test_both_ways_of_matching_have_the_published_values(base):
    for name, action in (("dmd2_joint", (0.1, 0.0)), ("dmd2_video_reg", (0.0, 1.0))):
        recipe = load_recipe(Path(base).parent / name)
        loop, streams = recipe.distill, recipe.streams
        assert (streams["video"].weight, streams["video"].guidance, streams["action"].guidance) == (1.0, (3, 3), None)
        assert (streams["action"].weight, streams["action"].regulariser) == action
        assert all(isinstance(spec.consistency, Linear) for spec in streams.values())
        numbers = {"rollout_steps": 4, "student_every": 5, "renoise": [0.02, 0.98]}
        assert numbers.items() <= loop.options.items()
        assert (loop.betas, loop.clip_norm) == ((0.9, 0.999), 2.0)
        if base.startswith("lingbot_va"):
            assert (loop.lr, loop.options["critic_lr"], loop.strategy) == (5e-7, 1e-6, "fsdp")


@pytest.mark.parametrize(
    ("folder", "regulariser"),
    [("metaworld", 0.2), ("lingbot_va/libero", 0.2), ("lingbot_va/robotwin", 0.01)],
)
def test_methods_are_those_of_the_paper(folder, regulariser):
    def choices(name):
        video, action = load_recipe(f"{folder}/{name}").streams.values()
        return type(video.consistency), type(action.consistency), video.weight, action.weight, action.regulariser

    assert choices("flash_wam") == (LCM, Linear, 1, 1, regulariser)
    assert choices("naive_lcm") == (LCM, LCM, 1, 1, 0)
    assert choices("video_only")[2:] == (1, 0, 0)
    assert choices("video_only_reg")[2:] == (1, 0, regulariser)
    assert choices("linear_both") == (Linear, Linear, 1, 1, 0)


def test_recipes_at_full_size_have_the_published_values():
    for name, steps, teacher_steps in (("libero", 2000, 20), ("robotwin", 10000, 25)):
        recipe = load_recipe(f"{name}/flash_wam")
        # Above all the reach of attention: a student's rollout shows it what the original's server would.
        served = {key: value for key, value in recipe.wam.config.items() if key in LingBotConfig.__slots__}
        assert LingBotConfig(**served) == preset(name).config
        loop, (video, action) = recipe.distill, recipe.streams.values()
        assert (loop.steps, loop.batch_size * loop.accumulation, loop.lr, loop.ema_decay) == (steps, 48, 5e-6, 0.995)
        assert (loop.betas, loop.weight_decay, loop.warmup_steps, loop.clip_norm) == ((0.9, 0.999), 0, 100, 2.0)
        assert (video.guidance, action.guidance, video.huber_c, action.huber_c) == ((2, 10), None, 1e-3, 1e-3)
        assert (video.schedule.shift, action.schedule.shift, video.anchors, action.anchors) == (5, 1, 2, 2)
        assert (video.teacher_steps, action.teacher_steps) == (teacher_steps, 50)
        assert recipe.train.steps * recipe.train.batch_size * recipe.train.accumulation == 4000 * 120
    assert load_recipe("libero/flash_wam_shift").streams["action"].schedule.shift == 0.05


def test_runs_of_different_recipes_have_different_folders():
    named = [run_folder(load_recipe(path)) for path in SHIPPED if path.stem not in ("base", "distill")]
    assert len(set(named)) == len(named)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("distill.stpes=5", ["distill.stpes", "did you mean 'steps'"]),
        ("trian.steps=5", ["did you mean 'train'"]),
        ("streams.video.sift=5", ["streams.video.sift", "did you mean 'shift'"]),
        ("distill.lr_decay=cosin", ["did you mean 'cosine'", "constant"]),
        ("streams.video.consistency=liner", ["did you mean 'linear'"]),
        ("data.tasks=[reach-wal]", ["data.tasks", "did you mean 'reach-wall'"]),
        ("data.source=metawrld", ["did you mean 'metaworld'"]),
        ("distill.steps=0", ["distill.steps", "at least 1", "got 0"]),
        ("distill.steps=2.5", ["whole number", "2.5"]),
        ("distill.steps=true", ["whole number", "True"]),
        ("distill.steps=many", ["whole number", "'many'"]),
        ("distill.lr=-1", ["distill.lr", "positive"]),
        ("distill.ema_decay=1", ["[0, 1)"]),
        ("distill.betas=[0.9]", ["list of 2"]),
        ("distill.keep_steps=[501]", ["0..500"]),
        ("data.tasks=[]", ["data.tasks"]),
        ("data.tasks=reach-wall", ["data.tasks", "a list"]),
        ("streams.video.guidance=[3,1]", ["streams.video.guidance", "low <= high"]),
        ("streams.video.anchors=0", ["streams.video.anchors", "1..1000"]),
        ("streams.video.shift=-5", ["streams.video.shift", "positive"]),
        ("streams.video.schedule=vpp", ["streams.video.schedule", "did you mean 'vp'"]),
        ("streams.video.schedule={name: vp, snr_shfit: 3}", ["streams.video.schedule", "did you mean 'snr_shift'"]),
        ("streams.video.schedule={name: vp, snr_shift: 0}", ["streams.video.schedule", "positive"]),
        ("streams.video.schedule={name: vp, snr_shift: many}", ["streams.video.schedule", "'many'"]),
        ("streams.video.schedule={snr_shift: 3}", ["streams.video.schedule", "given once"]),
        ("streams.video.schedule=3", ["streams.video.schedule", "a name or a mapping"]),
        ("streams.action.weight=[1]", ["streams.action.weight", "a number"]),
        ("evaluate.nfe=[2b]", ["evaluate.nfe", "1v/1a"]),
        ("distill=5", ["distill", "section"]),
        ("streams.video=5", ["streams.video", "section"]),
        ("name=a/b", ["name"]),
        ("distill.lora.rnak=4", ["distill.lora.rnak", "did you mean 'rank'"]),
        ("distill.lora.rank=0", ["distill.lora.rank", "at least 1", "got 0"]),
        ("distill.lora.rank=many", ["distill.lora.rank", "whole number"]),
        ("distill.lora.alpha=-1", ["distill.lora.alpha", "positive"]),
        ("distill.lora.targets=[]", ["distill.lora.targets", "null or a list of different names"]),
        ("distill.lora=5", ["distill.lora", "section"]),
        ("distill.steps", ["key=value"]),
        ("distill.steps=[", ["distill.steps=["]),
        ("distill.steps=${nowhere}", ["distill.steps", "nowhere"]),
        ("data.root=${data.root}", ["data.root", "Recursive"]),
        ("data.root=???", ["data.root", "Missing"]),
        ("data.root=!!python/object/apply:os.getcwd []", ["data.root", "python/object"]),
        ("wam.config={a: 1, a: 2}", ["'a' is given twice"]),
        ("wam.config={on: 1}", ["'on'", "quote it"]),
        ("data.tasks[9]=x", ["data.tasks is a list of 5", "data.tasks=[button-press"]),
        ("data.tasks.append=x", ["data.tasks is a list of 5"]),
        ("streams[0].shift=3", ["streams is no list", "it has video, action"]),
        ("wam.config[0]=4", ["wam.config is no list"]),
        ("evaluate.tasks[0]=x", ["evaluate.tasks=[...]"]),
        ("seed[0]=1", ["seed=[...]"]),
        ("seed.x=1", ["seed", "whole number"]),
        ("data.tasks={a: 1}", ["data.tasks", "a list"]),
        ("data=[1]", ["data: expected a section"]),
        ("wam.config=[1]", ["wam.config", "a mapping"]),
        ("a..b=1", ["'a..b' is no key"]),
        ("[0]=x", ["'[0]' is no key"]),
        ("=x", ["key=value"]),
        ("", ["key=value"]),
        ("seed=" + "9" * 5000, ["seed"]),
        ("seed=1e30", ["seed", "below 2^63"]),
        ("data.root=", ["data.root", "a path"]),
        ("data.root=None", ["data.root", "a path"]),
        ("name=None", ["name"]),
        ("distill=None", ["distill", "did you mean null?"]),
        ("distill.options.x=None", ["distill.options.x", "did you mean null?"]),
        ("distill.options.x=[1, {y: .nan}]", ["distill.options.x.y", "finite"]),
        ("wam.config.x=1e999", ["wam.config.x", "finite"]),
        ("wam.config.x=-inf", ["wam.config.x", "finite"]),
        ("distill.options.x={y: [NaN]}", ["distill.options.x.y", "finite"]),
        ("distill.clip_norm=.nan", ["distill.clip_norm", "a number, or .inf"]),
        ("streams.video.guidance=[1, .inf]", ["streams.video.guidance", "finite"]),
        ("streams.video.consistency={name: lcm, sigma_data: .inf}", ["streams.video.consistency"]),
    ],
)
def test_wrong_override_is_refused_with_its_remedy(override, told):
    with pytest.raises(ValueError) as caught:
        load_recipe("metaworld/flash_wam", [override])
    for part in told:
        assert part in str(caught.value)


def fields_of(kind, wanted, above=""):
    """Dotted keys of a recipe's fields whose annotation is wanted."""
    for key, hint in get_type_hints(kind, include_extras=True).items():
        inner = next((each for each in (hint, *get_args(hint)) if is_dataclass(each)), None)
        if inner is not None:
            yield from fields_of(inner, wanted, f"{above}{key}." + ("video." if inner is StreamSpec else ""))
        elif wanted(hint):
            yield f"{above}{key}"


@pytest.mark.parametrize("text", ["None", "none", "NONE", "' none '"])
def test_the_text_none_is_refused_wherever_null_may_stand(text):
    nullable = list(fields_of(Recipe, lambda hint: type(None) in get_args(hint)))
    assert {"run_dir", "wam.pretrained", "distill.init", "autoencoder.pretrained", "data.clip_hop"} <= set(nullable)
    for key in nullable:
        with pytest.raises(ValueError, match=rf"{re.escape(key)}: got the text .*; did you mean null\?"):
            load_recipe("metaworld/flash_wam", [f"{key}={text}"])


def test_numbers_are_finite_but_where_infinity_means_no_limit():
    numbers = list(fields_of(Recipe, lambda hint: float in (hint, *get_args(hint))))
    assert len(numbers) > 10
    for key in numbers:
        unlimited = key.endswith("clip_norm")
        for text in (".nan", ".inf") if unlimited else (".nan", "1e999"):
            if unlimited and text == ".inf":
                assert load_recipe("metaworld/flash_wam", [f"{key}={text}"]).distill.clip_norm > 1
                continue
            with pytest.raises(ValueError, match=re.escape(key)):
                load_recipe("metaworld/flash_wam", [f"{key}={text}"])


def test_one_element_of_a_list_can_be_replaced():
    before = load_recipe("metaworld/flash_wam")
    for key in ("data.tasks[1]", "data.tasks.1", "data[tasks][1]"):
        tasks = load_recipe("metaworld/flash_wam", [f"{key}=faucet-turn"]).data.tasks
        assert tasks == (before.data.tasks[0], "faucet-turn", *before.data.tasks[2:])
    assert load_recipe("metaworld/flash_wam", ["data.camera_size.0=64"]).data.camera_size == (64, 256), "of the default"
    both = load_recipe("metaworld/flash_wam", ["wam.config.x=[1, {a: 2, b: 3}]", "wam.config.x[1].b=4"])
    assert both.wam.config["x"] == [1, {"a": 2, "b": 4}]
    assert read_overrides(["q01=[1, 2]", "q01[0]=3"]) == {"q01": [3, 2]}


def test_paths_begin_in_the_home_folder_where_they_say_so(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = list(fields_of(Recipe, lambda hint: PathText in (hint, *get_args(hint))))
    named = {"run_dir", "data.root", "wam.pretrained", "train.init", "distill.init", "autoencoder.pretrained"}
    assert named <= set(paths)
    for key in paths:
        value = load_recipe("metaworld/flash_wam", [f"{key}=~/some/place"])
        for part in key.split("."):
            value = getattr(value, part)
        assert value == str(tmp_path / "some" / "place")
        with pytest.raises(ValueError, match=rf"{re.escape(key)} must be below a home folder"):
            load_recipe("metaworld/flash_wam", [f"{key}=~no_such_user/x"])
    made = Recipe(name="x", streams=load_recipe("metaworld/flash_wam").streams, data=DataConfig(root="~/data"))
    assert made.data.root == str(tmp_path / "data")
    assert run_folder(made, "~/run") == tmp_path / "run"
    assert load_recipe("metaworld/flash_wam", ["data.root=a/~/b"]).data.root == "a/~/b"
    (tmp_path / "mine.yaml").write_text("extends: ~/other.yaml\nrun_dir: ~/run\n")
    (tmp_path / "other.yaml").write_text("extends: flash_wam\n")
    assert load_recipe("~/mine.yaml").run_dir == str(tmp_path / "run")


def test_complaint_names_the_file_that_set_the_value(tmp_path):
    (tmp_path / "low.yaml").write_text("streams: {video: {shift: 5.0}}\ntrain: {steps: 0}\n")
    (tmp_path / "high.yaml").write_text("extends: low.yaml\ntrain: {lr: 0.1}\n")
    with pytest.raises(ValueError, match=r"low\.yaml: train\.steps must be at least 1; got 0"):
        load_recipe(tmp_path / "high.yaml")
    (tmp_path / "high.yaml").write_text("extends: low.yaml\ntrain: {steps: 1, batchsize: 3}\n")
    with pytest.raises(ValueError, match=r"high\.yaml: train\.batchsize: unknown key; did you mean 'batch_size'"):
        load_recipe(tmp_path / "high.yaml")


def test_overrides_take_numbers_lists_and_null():
    recipe = load_recipe(
        "metaworld/flash_wam",
        ["distill.steps=1e3", "distill.lr=1e-4", "data.tasks=[reach-wall]", "streams.video.guidance=null", "seed=7"],
    )
    assert (recipe.distill.steps, recipe.distill.lr, recipe.seed) == (1000, 1e-4, 7)
    assert isinstance(recipe.distill.steps, int)
    assert recipe.data.tasks == ("reach-wall",)
    assert recipe.streams["video"].guidance is None


def test_adapters_are_a_section_of_the_loop_and_refuse_strategies_that_shard():
    assert load_recipe("metaworld/flash_wam").distill.lora is None
    given = load_recipe("metaworld/flash_wam", ["distill.lora.rank=8"]).distill.lora
    assert given == LoraConfig(rank=8)
    assert load_recipe("robotwin/flash_wam_lora", ["distill.lora=null"]).distill.lora is None
    with pytest.raises(ValueError, match=r'zero2.*: distill\.strategy must be "single" or "ddp" with lora'):
        load_recipe("robotwin/flash_wam_lora", ["distill.strategy=zero2"])


def test_a_newly_named_consistency_function_keeps_no_old_parameter():
    by_name = load_recipe("libero/flash_wam", ["streams.video.consistency=linear"])
    assert by_name.streams["video"].consistency == Linear()
    by_parameter = load_recipe("libero/flash_wam", ["streams.video.consistency.sigma_data=0.7"])
    assert by_parameter.streams["video"].consistency == LCM(sigma_data=0.7)


def test_a_schedule_and_a_shift_take_each_others_place(tmp_path):
    def video(name, *overrides):
        return load_recipe(name, overrides).streams["video"].schedule

    assert video("libero/flash_wam", "streams.video.schedule={name: vp, snr_shift: 3}") == VPSchedule(snr_shift=3.0)
    assert video("videovla/cogvideox_2b") == VPSchedule(snr_shift=3.0)
    assert video("videovla/cogvideox_2b", "streams.video.shift=2") == NoiseSchedule(2.0)
    assert video("videovla/cogvideox_2b", "streams.video.schedule.snr_shift=2") == VPSchedule(snr_shift=2)
    assert video("videovla/cogvideox_2b", "streams.video.schedule=vp") == VPSchedule()
    (tmp_path / "both.yaml").write_text("streams: {video: {shift: 5.0, schedule: vp}}\n")
    with pytest.raises(ValueError, match=r"streams\.video\.schedule must be given once; got streams\.video\.shift"):
        load_recipe(tmp_path / "both.yaml")


def test_extending_merges_in_order_and_does_not_inherit_the_name(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "name: first\nrun_dir: x\nstreams: {video: {shift: 5.0}, action: {shift: 1.0}}\ntrain: {steps: 1, lr: 1.0}\n"
    )
    (tmp_path / "b.yaml").write_text("train: {steps: 2}\n")
    (tmp_path / "c.yaml").write_text("extends: [a.yaml, b.yaml]\ntrain: {warmup_steps: 3}\n")
    recipe = load_recipe(tmp_path / "c.yaml")
    assert recipe.train == LoopConfig(steps=2, lr=1.0, warmup_steps=3)
    assert (recipe.name, recipe.run_dir) == ("c", None)
    assert run_folder(recipe) == Path("runs/c")


def test_broken_files_are_told_apart(tmp_path):
    cases = {
        "loop.yaml": ("extends: loop.yaml\n", ValueError, "extends itself"),
        "orphan.yaml": ("extends: none.yaml\n", FileNotFoundError, "none.yaml"),
        "list.yaml": ("[1, 2]\n", ValueError, "mapping of sections"),
        "syntax.yaml": ("a: [1\n", ValueError, "not valid YAML"),
        "empty.yaml": ("name: x\n", ValueError, "streams: missing"),
        "nothing.yaml": ("", ValueError, "streams: missing"),
        "tab.yaml": ("a:\n\tb: 1\n", ValueError, "line 2"),
        "twice.yaml": ("seed: 1\nseed: 2\n", ValueError, "'seed' is given twice"),
        "object.yaml": ("data: {root: !!python/object/apply:os.getcwd []}\n", ValueError, "python/object"),
        "itself.yaml": ("data: &a {b: *a}\n", ValueError, "holds itself"),
        "anchors.yaml": (LAUGHS, ValueError, "more than 100,000 values"),
        "deep.yaml": ("[" * 2_000, ValueError, "too deeply"),
        "latin.yaml": (b"name: \xe9\n", ValueError, "UTF-8"),
        "two.yaml": ("a: 1\n---\na: 2\n", ValueError, "single document"),
        "number.yaml": ("extends: 5\n", ValueError, "number.yaml: extends: expected"),
        "folder.yaml": ("extends: .\n", FileNotFoundError, "folder.yaml: extends"),
        "near.yaml": ("extends: libero/flashwam\n", FileNotFoundError, "did you mean libero/flash_wam"),
        "maplist.yaml": (
            "extends: flash_wam\ndata: {tasks: {a: x}}\n",
            ValueError,
            "maplist.yaml: data.tasks: .* list",
        ),
        "listmap.yaml": ("extends: flash_wam\nstreams: {video: [1]}\n", ValueError, "listmap.yaml: streams.video: "),
        "noshift.yaml": ("streams: {video: {anchors: 2}}\n", ValueError, "shift: missing"),
    }
    for name, (text, error, told) in cases.items():
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(error, match=told):
            load_recipe(tmp_path / name)


def test_short_names_find_recipes_and_ambiguity_is_an_error(tmp_path, monkeypatch):
    assert find_recipe("flash_wam") == find_recipe("metaworld/flash_wam") == find_recipe("flash_wam.yaml")
    monkeypatch.chdir(tmp_path)
    assert find_recipe("flash_wam").is_file()
    for folder in ("one", "two"):
        (tmp_path / "recipes" / folder).mkdir(parents=True)
        (tmp_path / "recipes" / folder / "mine.yaml").write_text("streams: {video: {shift: 1.0}}\n")
    with pytest.raises(ValueError, match="one/mine, two/mine"):
        find_recipe("mine")
    assert find_recipe("two/mine").parent.name == "two"
    (tmp_path / "recipes" / "two" / "deep").mkdir()
    (tmp_path / "recipes" / "two" / "deep" / "mine.yaml").write_text("streams: {video: {shift: 2.0}}\n")
    assert find_recipe("deep/mine").parent.name == "deep"
    (tmp_path / "recipes" / "one" / "mine.yaml").unlink()
    assert find_recipe("mine").parent.name == "two", "the one in the fewest folders is meant"
    for name, near in (("flash_wm", "metaworld/flash_wam"), ("libero/Flash_Wam", "libero/flash_wam"), ("**", "one of")):
        with pytest.raises(FileNotFoundError, match=near):
            find_recipe(name)
    with pytest.raises(FileNotFoundError, match="is a folder without"):
        find_recipe(tmp_path / "recipes")


def test_run_folder_is_resumed_by_the_same_recipe_and_refused_to_another(tmp_path):
    recipe = load_recipe("metaworld/flash_wam")
    folder = prepare_run(recipe, tmp_path / "run")
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(kept) == {"recipe.yaml", "provenance.json"}
    assert load_recipe(folder) == replace(recipe, run_dir=str(folder))
    assert load_recipe(folder, ["name=other"]).run_dir is None
    assert load_recipe(folder / "recipe.yaml") == recipe
    prepare_run(recipe, tmp_path / "run")
    with pytest.raises(ValueError, match=r"distill\.lr: 0\.001 there, 0\.1 now"):
        prepare_run(load_recipe("metaworld/flash_wam", ["distill.lr=0.1"]), tmp_path / "run")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == kept
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="no run folder"):
        prepare_run(recipe, tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.tex"]
