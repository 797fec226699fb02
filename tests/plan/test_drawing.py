# SPDX-License-Identifier: Apache-2.0
"""Draws before a training, planned: as counted by hand, and as many as the training then makes."""

import json
from dataclasses import replace

import pytest
from papers import need
from tiny_models import tiny_wam
from tiny_windows import Windows

from flashwam.core.streams import StreamSpec
from flashwam.distillation.methods import Pairs
from flashwam.distillation.setup import Setup
from flashwam.plan import make_plan, plan_lines, plan_numbers, plan_training
from flashwam.recipe.load import load_recipe

H100_SECONDS, H100_TOKENS = 5.831, 25 * 2 * 240 + 50 * 32
"""A guided chunk of RoboTwin, one at a time (analysis/results/rollout/h100.md)."""
PAIRS = 2000 * 48 // 5

# Pairs; values of one; passes; tokens over all passes; parameters in those of LingBot-VA.
BY_HAND = {
    "libero/pairs": (PAIRS, 48 * 4 * 8 * 16 + 30 * 4 * 4, 20 * 2 + 50, 20 * 2 * 128 + 50 * 16, 1),
    # Of 24,000 batches of four, 9,600 are of first chunks, 2,057 or 2,058 of each later place: six times 1,645.6 pairs and
    # once 1,646.4, each rounded up.
    "robotwin/pairs": (7680 + 6 * 1646 + 1647, 48 * 2 * 24 * 20 + 30 * 2 * 16, 25 * 2 + 50, H100_TOKENS, 1),
    # Thirteen frames of 16 x 16 patches and six actions in every pass, drawn together without guidance.
    "videovla/robot/pairs": (
        PAIRS,
        13 * (16 * 32 * 32 + 7 * 4),
        50,
        50 * (13 * 256 + 6),
        5_584_927_303 / 5_088_872_670,
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_pairs_of_real_sizes_are_those_counted_by_hand(name):
    count, values, passes, tokens, size = BY_HAND[name]
    made = plan_numbers(plan_training(load_recipe(name), gpus=8))["made_first"]
    assert (made["what"], made["count"], made["bytes_each"]) == ("pairs", count, 2 * values)
    assert (made["bytes"], made["passes"]) == (count * 2 * values, count * passes)
    least, most = made["gpu_hours"]
    assert most == pytest.approx(count * tokens * size * H100_SECONDS / H100_TOKENS / 3600)
    assert least == pytest.approx(count * tokens * size * 6.88e-3 / 512 / 3600)
    assert "one H100" in made["time_from"]


def test_the_plan_says_so_in_words():
    recipe = load_recipe("libero/pairs")
    text = "\n".join(plan_lines(plan_training(recipe, gpus=4)))
    assert "19,200 pairs of 50,112 bytes, 962.2 MB in all" in text
    assert "1,728,000 passes without gradient, 40 (video) + 50 (action) for each" in text
    assert "about 25 min to about 13.5 h of one GPU (from what one H100 was measured" in text
    rows = make_plan(recipe, "distill").rows
    assert dict(rows)["made first"] == "19,200 pairs of 50,112 bytes, 962.2 MB in all"
    assert "`flashwam pairs` makes them" in dict(rows)["kept in"]


def test_what_flashwam_pairs_does_not_make_is_not_said_to_be_of_it():
    rows = dict(make_plan(load_recipe("metaworld/foresight_decouplers"), "distill").rows)
    assert rows["kept in"].endswith("rollouts")


def test_no_teacher_is_in_memory_while_pairs_train():
    plan = plan_training(load_recipe("robotwin/pairs_lora", ["distill.lora=null"]))
    (ddp,) = (option.footprint for option in plan.options if option.footprint.strategy.name == "ddp")
    assert plan.roles == ()
    assert sum(ddp.resident.values()) == (4 + 4 + 8) * plan.size.parameters
    kept = plan_training(load_recipe("robotwin/on_policy"))
    assert kept.roles == ("teacher",)


def test_a_method_that_draws_nothing_before_says_nothing():
    plan = plan_training(load_recipe("libero/flash_wam"))
    assert plan.drawing is None
    assert plan_numbers(plan)["made_first"] is None
    assert "made first" not in "\n".join(plan_lines(plan))


def test_a_small_teacher_is_timed():
    recipe = load_recipe("metaworld/pairs", ["distill.batch_size=2", "distill.steps=3000"])
    made = plan_numbers(plan_training(recipe))["made_first"]
    # 3,000 batches of 2, five uses each; a chunk of four frames in float16.
    assert (made["count"], made["bytes_each"]) == (1200, 2 * 4 * (6 * 8 * 8 + 4 * 4))
    assert made["passes"] == 1200 * (10 + 10)
    least, most = made["gpu_hours"]
    assert 0 < least == most
    assert made["time_from"].startswith("measured here")


def test_rollouts_of_foresight_are_told_by_the_same_means(tmp_path):
    need("foresight")
    recipe = load_recipe("metaworld/foresight_decouplers", ["distill.batch_size=2", f"wam.pretrained={tmp_path}"])
    made = plan_numbers(plan_training(recipe))["made_first"]
    # The whole window of eight frames; nothing tells how its teacher is drawn.
    assert (made["what"], made["count"], made["bytes_each"]) == ("rollouts", 4096, 2 * 8 * (6 * 8 * 8 + 4 * 4))
    assert (made["passes"], made["gpu_hours"]) == (None, None)
    assert "pictures" in made["beside"]
    json.dumps(made, allow_nan=False)

    def planned(**options):
        loop = replace(recipe.distill, options={**recipe.distill.options, **options})
        return plan_numbers(plan_training(replace(recipe, distill=loop)))["made_first"]

    steps = {"video": {"shift": 5.0, "teacher_steps": 3}, "action": {"shift": 1.0, "teacher_steps": 4}}
    told = planned(teacher_streams=steps)
    assert told["passes"] == 4096 * 2 * (3 + 4)
    assert planned(targets="ground_truth")["passes"] == 0


@pytest.mark.parametrize("first_share", [None, 0.0, 0.4, 1.0])
def test_a_training_makes_as_many_pairs_as_were_planned(tmp_path, first_share):
    class Episodes(Windows):
        def beginnings(self, *, several_ways=1):
            return self

    teacher = tiny_wam().eval()
    streams = {name: StreamSpec.from_config(name, {"shift": 1.0, "teacher_steps": 1}) for name in teacher.streams}
    options = {"reuse": 3, "first_share": first_share}
    setup = Setup(data=tmp_path, streams=streams, seed=5, batch_size=4, batches=7)
    windows = Episodes(teacher, 3)
    planned = Pairs.prepares(options, model=teacher, frames=windows.frames, setup=setup)
    made = Pairs(streams, tiny_wam(), teacher=teacher, **options).source(windows, setup)
    assert planned.count == sum(made.pairs) == made.store.made
    # Each file has a short head of its own.
    files = len(list(made.store.folder.glob("*.safetensors")))
    assert planned.bytes < made.store.bytes < planned.bytes + 2000 * files
