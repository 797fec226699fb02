# SPDX-License-Identifier: Apache-2.0
"""The method that the numbers recommend, for a model with one schedule and for one with two."""

import json
from pathlib import Path

import pytest

from flashwam.core.streams import StreamSpec
from flashwam.report.recommend import MEASURED, recommendation

TWO = {"video": {"shift": 5.0, "consistency": "lcm"}, "action": {"shift": 1.0}}
ONE = {name: {"schedule": {"name": "vp", "snr_shift": 1.0}} for name in ("video", "action")}


def advised(streams, method="consistency", options=None, **changes):
    specs = {name: StreamSpec.from_config(name, {**config, **changes}) for name, config in streams.items()}
    return recommendation(specs, method, options or {})


def test_pairs_is_recommended_for_one_schedule_and_for_two_by_what_was_measured_of_each():
    two, one = advised(TWO), advised(ONE)
    assert (two["method"], two["consistency"]) == (one["method"], one["consistency"]) == ("pairs", "linear")
    assert two["measured"] == MEASURED["several schedules"]
    assert one["measured"] == MEASURED["one schedule"]
    assert two["reason"] == (
        "pairs, with linear on every stream. The numbers put it ahead of on_policy by teacher steps, and of "
        "consistency by hops and teacher steps."
    )


def test_the_methods_compared_are_taken_with_linear_at_the_worst_of_their_levels():
    compared = advised(TWO)["compared"]
    assert compared["consistency"] == {"near": pytest.approx(0.1), "hops": 2, "teacher_steps": 2}
    assert compared["on_policy"] == {"near": pytest.approx(0.5 + 0.5 * 0.1), "hops": 1, "teacher_steps": 9}
    assert compared["pairs"] == {"near": 1.0, "hops": 1, "teacher_steps": 10}
    at_two_levels = advised(TWO, steps=2)["compared"]["pairs"]
    assert at_two_levels["near"] == pytest.approx(0.3)


def test_a_recipes_own_options_are_those_compared():
    own = advised(TWO, "on_policy", {"start_share": 0.9, "teacher_steps": 20})
    assert own["compared"]["on_policy"]["teacher_steps"] == 20
    assert own["method"] == "on_policy"
    assert "ahead of pairs by teacher steps" in own["reason"]


def test_methods_that_the_numbers_do_not_tell_apart_are_said_not_to_be():
    many = advised(TWO, teacher_substeps=25)
    assert many["method"] == "pairs"
    assert many["reason"].endswith("They do not tell it from consistency.")


def test_nothing_is_recommended_in_place_of_a_method_that_does_not_say_where_it_trains():
    assert advised(TWO, "flow_matching") is None
    assert advised(TWO, weight=0.0) is None


def kept(study, label):
    """Group -> share of the teacher's success and its interval, as the sentences write them."""
    results = Path(__file__).resolve().parents[2] / "analysis" / "results" / study / "comparison" / "compare.json"
    (row,) = (row for row in json.loads(results.read_text())["rows"] if row["label"] == label)
    told = {}
    for group, found in row["of_teacher"].items():
        value, low, high = (f"{found[key]:.2f}".removeprefix("0") for key in ("value", "low", "high"))
        told[group] = f"{value} ({low} to {high})"
    return told


@pytest.mark.parametrize(
    ("schedules", "study", "label", "groups"),
    [
        ("one schedule", "cogvideox_one_step", "pairs 1v/1a", ("two-way", "one-way")),
        ("one schedule", "cogvideox_one_step", "pairs_fresh 1v/1a", ("two-way", "one-way")),
        ("one schedule", "cogvideox_one_step", "pairs 2v/2a", ("two-way", "one-way")),
        ("several schedules", "one_step", "pairs 1v/1a", ("two-way", "one-way")),
        ("several schedules", "one_step", "on_policy_equal_cost 1v/1a", ("two-way", "one-way")),
        ("several schedules", "one_step", "pairs_cooled_actions 1v/1a", ("two-way", "one-way")),
        ("several schedules", "one_step", "naive_lcm_400 1v/1a", ("two-way",)),
        ("several schedules", "one_step", "flash_wam_400 1v/1a", ("two-way",)),
    ],
)
def test_the_sentences_quote_the_committed_studies(schedules, study, label, groups):
    told = kept(study, label)
    assert all(told[group] in MEASURED[schedules] for group in groups)


def test_the_difference_between_the_two_best_is_the_committed_one():
    path = Path(__file__).resolve().parents[2] / "analysis" / "results" / "one_step" / "comparison" / "differences.json"
    found = json.loads(path.read_text())["on_policy_equal_cost less pairs"]
    (two, one) = (each for each in found if each["steps"] == "1v/1a")
    for difference, unit in ((two, " percentage points"), (one, "")):
        value, low, high = (100 * difference[key] for key in ("value", "low", "high"))
        assert f"{value:+.1f}{unit} ({low:.1f} to {high:.1f})" in MEASURED["several schedules"]
