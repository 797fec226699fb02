# SPDX-License-Identifier: Apache-2.0
"""A stream where its sampler stands: exact numbers, and who is warned."""

import math

import pytest

from flashwam.core.streams import StreamSpec
from flashwam.recipe.load import load_recipe
from flashwam.report.analyze import recipe_analysis
from flashwam.report.levels import mix_text, percent
from flashwam.report.schedule import schedule_analysis


def analysis(action_shift, consistency="lcm", method="consistency", options=None, **action):
    action = {"shift": action_shift, "consistency": consistency, **action}
    streams = {"action": StreamSpec.from_config("action", action)}
    return schedule_analysis(streams, method=method, options=options)


def test_the_start_is_told_at_every_level_of_the_sampler():
    first, second = analysis(0.2, steps=2)["streams"]["action"]["levels"]
    assert first["sigma"] == pytest.approx(1)
    assert second["sigma"] == pytest.approx(0.2 * 0.5 / (1 - 0.8 * 0.5))
    for level in (first, second):
        s, d = level["sigma"], 0.5
        c_out = s * d / math.hypot(s, d)
        a, b = d**2 / (s**2 + d**2) + c_out, -c_out * s
        clean, noise = level["start"]["lcm"]
        assert clean - 1 == pytest.approx(a * (1 - s) - b - 1, abs=1e-12)
        assert noise == pytest.approx(a * s + b, abs=1e-12)
        assert level["bias"]["lcm"] == pytest.approx(math.hypot(clean - 1, noise), abs=1e-12)
        assert level["start"]["linear"] == pytest.approx([1, 0], abs=1e-12)
        assert level["bias"]["linear"] == pytest.approx(0, abs=1e-12)
    assert first["start"]["lcm"] == pytest.approx([1 - 0.553, 0.2], abs=5e-4)


@pytest.mark.parametrize(("shift", "warned"), [(5.0, None), (1.0, None), (0.2, "2.2%"), (0.05, "0.55%")])
def test_a_stream_that_is_hardly_trained_where_it_is_sampled_is_warned(shift, warned):
    warnings = analysis(shift, "linear")["warnings"]
    assert [
        w.startswith(f"action: only {warned} of the training samples lie within 0.1 of sigma = 1,") for w in warnings
    ] == ([True] if warned else [])


def test_the_shipped_shift_recipe_is_warned_and_its_neighbours_are_not():
    (warning,) = recipe_analysis(load_recipe("libero/flash_wam_shift"))["warnings"]
    assert warning.startswith("action: only 0.55% of the training samples")
    for name in ("libero/flash_wam", "libero/best", "libero/on_policy", "videovla/cogvideox_2b"):
        assert recipe_analysis(load_recipe(name))["warnings"] == [], name


def test_a_method_that_trains_at_the_samplers_level_needs_no_warning():
    options = {"start_share": 0.9, "teacher_steps": 6}
    assert analysis(0.05, "linear", "on_policy", options)["warnings"] == []
    (warning,) = analysis(1.0, "linear", "on_policy", options, steps=2)["warnings"]
    assert warning.startswith("action: only 2% of the training samples lie within 0.1 of sigma = 0.5,")


@pytest.mark.parametrize(
    ("own", "weight", "starved"), [("linear", "lcm", True), ("lcm", "linear", False), ("lcm", None, True)]
)
def test_a_gradient_is_that_of_the_function_whose_weight_the_loss_takes(own, weight, starved):
    """And the start that of the stream's own."""
    told = analysis(0.05, own, options={"weight_as": {"action": weight}} if weight else None)
    numbers = told["streams"]["action"]
    assert (numbers["own"], numbers["weighs_as"]) == (own, weight or own)
    found = [w for w in told["warnings"] if "of the draws get less than a tenth of linear's gradient" in w]
    assert bool(found) is starved
    if weight and starved:
        assert "this recipe uses linear with the gradient weight of lcm, the analysis says linear" in found[0]
    assert numbers["levels"][0]["bias"][own] == pytest.approx(0 if own == "linear" else 0.5883, abs=1e-3)


def test_a_stream_that_is_matched_is_taught_by_single_answers():
    matched = recipe_analysis(load_recipe("metaworld/pairs_dmd2_video"))["streams"]
    assert [matched[name]["levels"][0]["teacher_steps"] for name in ("video", "action")] == [1, 10]


def test_a_stream_that_is_not_distilled_and_a_method_without_levels_are_not_warned():
    assert analysis(0.05, "linear", weight=0.0)["warnings"] == []
    numbers = analysis(0.05, "linear", "flow_matching")
    assert numbers["warnings"] == []
    assert "near" not in numbers["streams"]["action"]["levels"][0]


def test_a_recipe_that_distils_nothing_is_said_to_be_analysed_as_one_that_would():
    analysed = recipe_analysis(load_recipe("metaworld/teacher"))
    assert analysed["method"] == "consistency"
    assert any(note.startswith("this recipe distils nothing") for note in analysed["notes"])


def test_levels_are_told_in_few_digits():
    assert [percent(share) for share in (0.357143, 0.1, 0.021739, 0.005525, 1.0)] == [
        "36%",
        "10%",
        "2.2%",
        "0.55%",
        "100%",
    ]
    assert [mix_text(mix) for mix in ((1, 0), (0.4472, 0.2), (0.5, -0.25))] == [
        "x0",
        "0.45 x0 + 0.20 eps",
        "0.50 x0 - 0.25 eps",
    ]
