# SPDX-License-Identifier: Apache-2.0
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from flashwam.cli import main
from flashwam.plan import make_plan, plan_lines, plan_numbers, plan_training
from flashwam.plan.memory import STRATEGIES, footprint, strategy_for
from flashwam.recipe.load import load_recipe
from flashwam.system.paths import ASSETS

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "lingbot_va"
FULL_SIZE = sorted(path for folder in ("libero", "robotwin") for path in (RECIPES / folder).glob("*.yaml"))
GIB = 2**30
TOTAL, BLOCK, LAYERS, WIDTH, INNER = 5_088_872_670, 163_656_704, 30, 3072, 14336
ROLES = ("target", "teacher", "reference")
TINY = {"parameters": 1000, "adapters": 10, "unit": 100, "roles": ROLES, "gpus": 4, "activations": 7}


def by_label(footprints):
    return {found.strategy.label: found for found in footprints}


# By hand, for 1000 parameters on 4 GPUs: weights, gradients, optimiser, target, teacher, reference; buffers; step.
BY_HAND = {
    True: {
        # bf16 under autocast: everything of the student in float32, and a bf16 copy of its weights during a pass.
        "ddp": ((4000, 4000, 8000, 4000, 2000, 4000), 2000, 0),
        # bf16 weights whole, bf16 gradients and float32 weights and moments a quarter each.
        "zero2": ((2000, 500, 3000, 4000, 2000, 4000), 2000, 1500),
        # The whole student is gathered for the moving average: 2000 is more than the step's 1500.
        "zero3, teacher and target whole": ((500, 500, 3000, 4000, 2000, 4000), 4000, 2000),
        "zero3, teacher sharded": ((500, 500, 3000, 1000, 500, 1000), 4000, 1500),
        # Two gathered units in bf16 and one unit's gradients in float32.
        "fsdp, teacher whole": ((1000, 1000, 2000, 1000, 2000, 4000), 800, 0),
        "fsdp, teacher sharded": ((1000, 1000, 2000, 1000, 500, 1000), 800, 0),
        # One bf16 backbone, ten trained parameters, no teacher of its own.
        "lora": ((2040, 40, 80, 40, 0, 40), 20, 0),
    },
    False: {
        "ddp": ((4000, 4000, 8000, 4000, 4000, 4000), 0, 0),
        "zero2": ((4000, 1000, 3000, 4000, 4000, 4000), 4000, 1000),
        "zero3, teacher and target whole": ((1000, 1000, 3000, 4000, 4000, 4000), 8000, 4000),
        "zero3, teacher sharded": ((1000, 1000, 3000, 1000, 1000, 1000), 8000, 1000),
        "fsdp, teacher whole": ((1000, 1000, 2000, 1000, 4000, 4000), 1200, 0),
        "fsdp, teacher sharded": ((1000, 1000, 2000, 1000, 1000, 1000), 1200, 0),
        "lora": ((4040, 40, 80, 40, 0, 40), 0, 0),
    },
}


@pytest.mark.parametrize("half", [True, False])
def test_bytes_of_a_tiny_model_are_those_counted_by_hand(half):
    found = by_label(footprint(strategy, half=half, **TINY) for strategy in STRATEGIES)
    assert set(found) == set(BY_HAND[half])
    for label, (resident, buffers, step) in BY_HAND[half].items():
        names = ("weights", "gradients", "optimiser", *ROLES)
        assert dict(found[label].resident) == dict(zip(names, resident, strict=True)), label
        assert (found[label].buffers, found[label].step, found[label].activations) == (buffers, step, 7), label
        assert found[label].peak == sum(resident) + max(buffers + 7, step), label


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy.label)
@pytest.mark.parametrize("half", [True, False])
def test_more_gpus_never_need_more_on_each(strategy, half):
    peaks = [footprint(strategy, half=half, **(TINY | {"gpus": gpus})).peak for gpus in range(1, 40)]
    assert peaks == sorted(peaks, reverse=True)
    assert (peaks[-1] < peaks[0]) == bool(strategy.sharded)


def test_sharded_parts_add_up_to_the_whole_and_are_rounded_up():
    for strategy in STRATEGIES:
        whole = footprint(strategy, half=True, **(TINY | {"gpus": 1})).resident
        third = footprint(strategy, half=True, **(TINY | {"gpus": 3})).resident
        for part, size in whole.items():
            if part in strategy.sharded:
                assert size <= 3 * third[part] < size + 3 * 12
            else:
                assert third[part] == size


def test_deepspeed_buffers_do_not_grow_beyond_its_buckets():
    large = TINY | {"parameters": 10**10}
    assert footprint(strategy_for("zero2"), half=True, **large).buffers == 2 * 500_000_000
    assert footprint(strategy_for("zero3"), half=True, **large).buffers == 2 * (500_000_000 + 1_050_000_000)


def test_strategies_go_by_their_recipe_names():
    assert strategy_for("single") == strategy_for("ddp")
    assert strategy_for("ddp", lora=True).lora
    with pytest.raises(ValueError, match="zero9"):
        strategy_for("zero9")


def test_the_real_model_is_counted_without_memory():
    plan = plan_training(load_recipe("libero/flash_wam"), gpus=4, memory_gib=80)
    size = plan.size
    assert (size.parameters, size.layers, size.block) == (TOTAL, LAYERS, BLOCK)
    assert (size.width, size.inner, size.blocks) == (WIDTH, INNER, LAYERS * BLOCK)
    assert size.unit == TOTAL - LAYERS * BLOCK, "what lies around the blocks is larger than a block"
    # Eight square layers of two attentions and two of the feed-forward, rank x (in + out) each.
    assert plan.adapters == LAYERS * 32 * (8 * 2 * WIDTH + 2 * (WIDTH + INNER)) == 80_609_280
    # 16 noisy frames of 32 video tokens and 4 actions; clean: all 16 of video, all but the last chunk's 4 of actions.
    assert plan.tokens == 16 * (32 + 4) + 16 * 32 + 12 * 4 == 1136
    robotwin = plan_training(load_recipe("robotwin/flash_wam"), gpus=4)
    assert robotwin.tokens == 16 * (120 + 16) + 16 * 120 + 14 * 16 == 4320


def test_the_real_recipe_needs_what_is_counted_by_hand():
    plan = plan_training(load_recipe("libero/flash_wam"), gpus=4, memory_gib=80, rank=16)
    found = {label: value.resident for label, value in by_label(o.footprint for o in plan.options).items()}
    quarter = -(-TOTAL // 4)
    assert found["zero2"] == {
        "weights": 2 * TOTAL,
        "gradients": 2 * quarter,
        "optimiser": 12 * quarter,
        "target": 4 * TOTAL,
        "teacher": 2 * TOTAL,
    }
    assert sum(found["ddp"].values()) == (4 + 4 + 8 + 4 + 2) * TOTAL
    assert sum(found["fsdp, teacher sharded"].values()) == (4 + 4 + 8 + 4 + 2) * quarter
    assert sum(found["lora"].values()) == 2 * TOTAL + (4 + 4 + 8 + 4) * 40_304_640
    kept = 1136 * (78 * WIDTH + 4 * INNER) + 512 * 12 * WIDTH
    assert plan.activations == {True: LAYERS * 1136 * WIDTH * 2 + kept, False: LAYERS * kept}
    full = plan_training(load_recipe("libero/flash_wam", ["distill.precision=no"]), gpus=1)
    assert sum(full.options[0].footprint.resident.values()) == (4 + 4 + 8 + 4 + 4) * TOTAL


def test_what_does_not_fit_is_marked_with_how_much():
    recipe = load_recipe("libero/flash_wam")
    peaks = {o.footprint.strategy.label: o.footprint.peak for o in plan_training(recipe, gpus=4).options}
    plan = plan_training(recipe, gpus=4, memory_gib=peaks["zero2"] / GIB)
    rows = {row["name"]: row for row in plan_numbers(plan)["strategies"]}
    assert {name: row["fits"] for name, row in rows.items()} == {n: p <= peaks["zero2"] for n, p in peaks.items()}
    assert rows["zero2"]["spare_bytes"] == 0 < rows["lora"]["spare_bytes"]
    assert rows["ddp"]["spare_bytes"] == peaks["zero2"] - peaks["ddp"] < 0
    less = plan_numbers(plan_training(recipe, gpus=4, memory_gib=(peaks["zero2"] - 1) / GIB))["strategies"]
    assert [row["fits"] for row in less if row["name"] == "zero2"] == [False]
    lines = {line.split()[0]: line for line in plan_lines(plan) if "spare" in line or "NO" in line}
    assert lines["ddp"].endswith(f"NO, {(peaks['ddp'] - peaks['zero2']) / GIB:.1f} over")
    assert lines["*"].split()[1] == "zero2", "the recipe's own strategy is the marked one"
    assert all(row["fits"] is None for row in plan_numbers(plan_training(recipe, gpus=4))["strategies"])


def test_a_small_model_is_shown_in_mebibytes():
    recipe = load_recipe("metaworld/flash_wam", ["distill.batch_size=2"])
    plan = plan_training(recipe, gpus=1, memory_gib=20 / 1024)
    (row,) = (line.split() for line in plan_lines(plan) if line.startswith("* "))
    assert any("MiB a GPU" in line for line in plan_lines(plan))
    # Weights, gradients and both moments in float32, target and teacher.
    expected = [f"{count * 1_376_868 / 2**20:.1f}" for count in (4, 4, 8, 4, 4)]
    assert row[:2] == ["*", "ddp"]
    assert row[2:7] == expected
    assert " ".join(row[-3:]).startswith("NO, ")
    assert "measured here" in plan.time.how


@pytest.mark.parametrize(
    ("name", "text"),
    [("videovla/cogvideox_5b", 226), ("videovla/cogvideox_2b", 226), ("libero/flash_wam", 512), ("teacher", 8)],
)
def test_text_is_as_long_as_the_model_is_made_for(name, text):
    plan = plan_training(load_recipe(name, ["train.batch_size=1"]), "train", gpus=1)
    assert plan_numbers(plan)["text_tokens_per_sample"] == plan.text_tokens == text


def test_the_joint_miniature_is_timed():
    plan = plan_training(load_recipe("videovla/metaworld/flash_wam", ["distill.batch_size=1"]), gpus=1)
    # Five frames of 2 x 2 patches and sixteen actions, and the words of a prompt.
    assert (plan.tokens, plan.text_tokens) == (5 * 4 + 16, 8)
    assert "measured here" in plan.time.how


@pytest.mark.parametrize("path", FULL_SIZE, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_recipe_at_full_size_is_planned(path):
    recipe = load_recipe(path)
    plan = plan_training(recipe, gpus=4, memory_gib=80)
    assert (plan.command, plan.size.parameters) == ("distill", TOTAL)
    assert bool(plan.warnings) == (recipe.distill.batch_size % 4 != 0)
    assert plan.samples_per_step == 48
    others = {"on_policy": ("teacher",), "distribution_matching": ("teacher", "critic"), "pairs": ()}
    assert plan.roles == others.get(recipe.distill.method, ("target", "teacher"))
    assert plan.time.seconds > 0
    assert "stored throughput" in plan.time.how
    json.dumps(plan_numbers(plan), allow_nan=False)


def test_time_is_the_published_one_scaled():
    hours = {
        (name, gpus): plan_training(load_recipe(name), gpus=gpus).time.seconds / 3600
        for name, gpus in (("libero/flash_wam", 4), ("libero/flash_wam", 2), ("libero/best", 4), ("robotwin/best", 4))
    }
    assert hours["libero/flash_wam", 4] == pytest.approx(24)
    assert hours["libero/flash_wam", 2] == pytest.approx(48)
    # Nine passes a step in place of six: of the three further sub-steps, half a pass with and without text each.
    assert hours["libero/best", 4] == pytest.approx(36)
    assert hours["robotwin/best", 4] == pytest.approx(36 * 4320 / 1136 * 10000 / 2000)
    teacher = plan_training(load_recipe("libero/flash_wam"), "train", gpus=4)
    assert (teacher.roles, teacher.time.seconds) == ((), pytest.approx(24 * 3600))


def test_a_batch_that_cannot_be_shared_out_is_warned_of():
    plan = plan_training(load_recipe("libero/flash_wam"), gpus=8)
    (warning,) = plan.warnings
    assert "distill.batch_size=8 distill.accumulation=6" in warning
    assert plan.samples_per_gpu == 1
    fixed = load_recipe("libero/flash_wam", ["distill.batch_size=8", "distill.accumulation=6"])
    assert plan_training(fixed, gpus=8).warnings == ()


def test_roles_are_those_the_method_keeps():
    held = load_recipe("libero/on_policy", ["streams.video.weight=0"])
    assert plan_training(held).roles == ("teacher", "reference")
    kept = load_recipe("libero/on_policy", ["distill.save_weights=target"])
    assert plan_training(kept).roles == ("target", "teacher")


def test_a_critic_is_held_as_the_student_is():
    """By hand, bytes a parameter on 4 GPUs: student and critic alike, and half a float of the teacher, whole or shared."""
    plan = plan_training(load_recipe("libero/dmd2_joint"), gpus=4, memory_gib=80)
    found = by_label(option.footprint for option in plan.options)
    held = {label: sum(value.resident.values()) / TOTAL for label, value in found.items() if label != "lora"}
    assert held == pytest.approx(
        {
            "ddp": 16 + 16 + 2,
            "zero2": 5.5 + 5.5 + 2,
            "zero3, teacher and target whole": 4 + 4 + 2,
            "zero3, teacher sharded": 4 + 4 + 0.5,
            "fsdp, teacher whole": 4 + 4 + 2,
            "fsdp, teacher sharded": 4 + 4 + 0.5,
        },
        abs=1e-6,
    )
    assert sum(found["lora"].resident.values()) == 2 * TOTAL + 2 * 16 * 80_609_280
    average = load_recipe("libero/dmd2_joint", ["distill.save_weights=target"])
    assert plan_training(average, gpus=4).roles == ("target", "teacher", "critic")
    assert plan_numbers(plan)["parameters"]["roles_lora"]["critic"] == 80_609_280
    # Seven passes a step in place of the stored run's six.
    assert plan.time.seconds == pytest.approx(24 * 3600 * 5 * 7 / 6)


@pytest.mark.parametrize(
    ("label", "without", "average"),
    [
        ("ddp", 161.2, 180.1),
        ("zero2", 61.6, 80.6),
        ("zero3, teacher and target whole", 47.4, 66.4),
        ("fsdp, teacher whole", 47.4, 52.1),
        ("fsdp, teacher sharded", 40.3, 45.0),
        ("lora", 13.0, 13.4),
    ],
)
def test_a_critic_of_five_billion_parameters_takes_what_a_slide_rule_says(label, without, average):
    """GiB on each of 4 GPUs, adapters of 117 million."""
    sizes = {"parameters": 5_090_000_000, "adapters": 117_000_000, "unit": BLOCK, "half": True, "gpus": 4}
    for roles, expected in ((("teacher", "critic"), without), (("target", "teacher", "critic"), average)):
        found = by_label(footprint(strategy, roles=roles, **sizes) for strategy in STRATEGIES)[label]
        assert sum(found.resident.values()) / GIB == pytest.approx(expected, abs=0.06)


def test_a_critic_is_not_planned_for_deepspeed():
    recipe = load_recipe("libero/dmd2_video_reg", ["distill.strategy=zero2"])
    plan = plan_training(recipe, gpus=4)
    assert {o.footprint.strategy.name for o in plan.options if o.offered} == {"ddp", "fsdp", "lora"}
    assert any("student and critic" in warning and "'zero2'" in warning for warning in plan.warnings)
    assert plan_training(load_recipe("libero/dmd2_video_reg"), gpus=4).warnings == ()
    with pytest.raises(ValueError, match="single, ddp, fsdp or lora; got strategy 'zero2'"):
        make_plan(recipe, "distill")


def test_a_recipe_with_adapters_is_planned_with_them():
    plan = plan_training(load_recipe("robotwin/flash_wam_lora"), gpus=1, rank=8)
    (option,) = (o for o in plan.options if o.chosen)
    assert (option.footprint.strategy.name, option.offered, plan.rank) == ("lora", True, 64)
    assert plan.adapters == LAYERS * 64 * (8 * 2 * WIDTH + 2 * (WIDTH + INNER)), "the recipe's rank, not ours"
    fewer = load_recipe("robotwin/flash_wam_lora", ["distill.lora.targets=[attn1.to_q]"])
    assert plan_training(fewer).adapters == LAYERS * 64 * 2 * WIDTH


def test_a_dry_run_says_the_same(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    recipe = load_recipe("libero/flash_wam")
    (option,) = (o for o in plan_training(recipe, gpus=4).options if o.chosen)
    memory = dict(make_plan(recipe, "distill").rows)["memory"]
    found = option.footprint
    assert found.buffers + found.activations < found.step
    assert memory.startswith(f"{found.peak / GIB:.1f} GiB a process, 4 of them (zero2)")


@pytest.mark.parametrize("wrong", [{"gpus": 0}, {"gpus": -1}, {"gpus": 1.5}, {"gpus": True}, {"rank": 0}])
def test_impossible_machines_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        plan_training(load_recipe("libero/flash_wam"), **wrong)


@pytest.mark.parametrize("memory", [0, -80, float("inf"), float("nan")])
def test_impossible_memory_is_refused(memory):
    with pytest.raises(ValueError, match="memory must be"):
        plan_training(load_recipe("libero/flash_wam"), memory_gib=memory)


@pytest.mark.parametrize("arguments", [["--gpus", "0"], ["--gpus", "two"], ["--memory", "0"], ["--memory", "much"]])
def test_the_command_refuses_impossible_machines(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(["plan", "libero/flash_wam", *arguments])
    assert stop.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_the_command_prints_a_table_or_its_numbers(capsys):
    arguments = ["plan", "libero/flash_wam", "--gpus", "4", "--memory", "80"]
    assert main([*arguments, "--json", "-", "distill.steps=100"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert (numbers["samples"], numbers["gpu_hours"]) == (4800, pytest.approx(24 * 4 / 20))
    assert numbers["parameters"]["total"] == TOTAL
    assert main(arguments) == 0
    text = capsys.readouterr().out
    for part in ("5,088,872,670", "zero2", "fsdp, teacher sharded", "lora", "NO, ", "2,000 of 48 samples", "96,000"):
        assert part in text


def test_a_model_that_only_its_folder_describes_is_timed():
    recipe = load_recipe("metaworld/flash_wam", [f"wam.pretrained={ASSETS / 'teacher'}", "distill.batch_size=2"])
    recipe = replace(recipe, wam=replace(recipe.wam, config={}))
    told = dict(make_plan(recipe, "distill").rows)["time"]
    assert "measured here" in told


WHOLE = {
    "svam/libero/decouplers": "distill",
    "swiftvla/metaworld/full": "train",
}


@pytest.mark.parametrize(("name", "command"), WHOLE.items())
def test_adapters_are_not_offered_where_a_method_takes_none(name, command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    plan = plan_training(load_recipe(name), command, memory_gib=80)
    assert "lora" not in {option.footprint.strategy.name for option in plan.options}
    assert not any("lora" in line.lower() for line in plan_lines(plan))
    assert plan_numbers(plan)["parameters"]["roles_lora"] is None
    with pytest.raises(ValueError, match="rank is of low-rank adapters"):
        plan_training(load_recipe(name), command, rank=8)
    asked = load_recipe(name, [f"{command}.lora.rank=8"])
    for planned in (partial(plan_training, asked, command), partial(make_plan, asked, command)):
        with pytest.raises(ValueError, match=r"trains whole weights, .*: leave lora out, or set it to null"):
            planned()


def test_adapters_without_a_layer_to_go_to_are_not_planned():
    changes = ["train.method=flow_matching", "train.options={}", "train.lora.rank=8"]
    recipe = load_recipe("swiftvla/metaworld/2d", changes)
    for planned in (partial(plan_training, recipe, "train"), partial(make_plan, recipe, "train")):
        with pytest.raises(
            ValueError, match=r"FusionPolicy names no layers for adapters by default; set lora\.targets"
        ):
            planned()
