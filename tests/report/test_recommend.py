# SPDX-License-Identifier: Apache-2.0
"""The method that the numbers recommend, for a model with one schedule and for one with two."""

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
    assert "not told apart" in one["measured"]
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
